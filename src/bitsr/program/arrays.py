"""The array namespace of the interpreter: the few operations that its steps are made of, here on NumPy.

The interpreter is written once against :class:`Arrays`; another class of the same shape runs the same lines elsewhere
(torch on CPU or CUDA).  Arithmetic operators, indexing, ``reshape`` and comparisons are the arrays' own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = Any  # an array of the namespace: float32 maps, uint8 codes, int8 weights, int32 sums


class Arrays(Protocol):
    """What a namespace offers.  Axes are given as in NumPy; names that end in an underscore change their argument."""

    slab: int  # elements of one attention map that are worked on at a time

    def array(self, value: Any) -> Array:
        """A NumPy array (or number, as float32) in the namespace, same type."""

    def numpy(self, x: Array) -> NDArray[Any]: ...
    def floats(self, x: Array) -> Array:
        """As float32."""

    def codes(self, x: Array) -> Array:
        """Whole numbers 0..255 as uint8."""

    def matmul(self, a: Array, b: Array) -> Array: ...
    def integer_matmul(self, a: Array, b: Array, largest: int) -> Array:
        """The exact int32 product of uint8 or int8 matrices; no partial sum exceeds ``largest`` in magnitude."""

    def integer_sum(self, x: Array, axis: int) -> Array:
        """int32."""

    def sum(self, x: Array, axis: int) -> Array:
        """The axis is kept, with length 1; so it is by ``mean`` and ``max``."""

    def mean(self, x: Array, axis: int) -> Array: ...
    def max(self, x: Array, axis: int) -> Array: ...
    def sqrt(self, x: Array) -> Array: ...
    def tanh(self, x: Array) -> Array: ...
    def erf(self, x: Array) -> Array: ...
    def softplus(self, x: Array) -> Array: ...
    def exp_(self, x: Array) -> Array: ...
    def rint_(self, x: Array) -> Array:
        """Half to even."""

    def clip(self, x: Array, low: float | None, high: float | None) -> Array: ...
    def maximum(self, a: Array, b: Array) -> Array: ...
    def take(self, x: Array, indices: NDArray[np.int64], axis: int) -> Array: ...
    def argmax(self, x: Array, axis: int) -> Array:
        """int64, the first of equals; the axis is kept, with length 1."""

    def whole(self, x: Array, count: int) -> Array:
        """Whole numbers as int64, cut to 0..count - 1; 0 for what is no number."""

    def argsort(self, x: Array) -> Array:
        """Of a vector: int64, equals in their order."""

    def pad(self, x: Array, margin: int, value: int) -> Array:
        """``margin`` rows and columns of ``value`` on each side of an HxWxC map."""

    def roll(self, x: Array, by: int) -> Array:
        """Cyclic shift of the first two axes."""

    def transpose(self, x: Array, axes: Sequence[int]) -> Array: ...
    def concatenate(self, parts: Sequence[Array], axis: int) -> Array: ...


@cache
def _erf_table() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """erf at 0, 1/4096, ..., 4 and the differences to the next point."""
    values = np.array([math.erf(i / 4096) for i in range(4 * 4096 + 2)])
    return values[:-1].astype(np.float32), np.diff(values).astype(np.float32)


def erf(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The error function, within 1e-7: interpolated linearly (7e-9) between points 1/4096 apart, constant beyond 4."""
    values, differences = _erf_table()
    position = np.minimum(np.abs(x), np.float32(4)) * np.float32(4096)
    index = position.astype(np.int32)
    position -= index
    position *= differences[index]
    position += values[index]
    return np.copysign(position, x)


class NumpyArrays:
    """NumPy.  BLAS multiplies integers as floating-point numbers: exact while no partial sum reaches 2**24 (float32)
    or 2**53 (float64)."""

    slab = 1 << 19

    def array(self, value: Any) -> Array:
        return np.float32(value) if isinstance(value, float | int) else np.asarray(value)

    def numpy(self, x: Array) -> NDArray[Any]:
        return np.asarray(x)

    def floats(self, x: Array) -> Array:
        return x.astype(np.float32)

    def codes(self, x: Array) -> Array:
        return x.astype(np.uint8)

    def matmul(self, a: Array, b: Array) -> Array:
        return np.matmul(a, b)

    def integer_matmul(self, a: Array, b: Array, largest: int) -> Array:
        exact = np.float32 if largest < 2**24 else np.float64
        return np.matmul(a.astype(exact), b.astype(exact)).astype(np.int32)

    def integer_sum(self, x: Array, axis: int) -> Array:
        return x.sum(axis, dtype=np.int32)

    def sum(self, x: Array, axis: int) -> Array:
        return x.sum(axis, keepdims=True)

    def mean(self, x: Array, axis: int) -> Array:
        return x.mean(axis, keepdims=True)

    def max(self, x: Array, axis: int) -> Array:
        return x.max(axis, keepdims=True)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def erf(self, x: Array) -> Array:
        return erf(x)

    def softplus(self, x: Array) -> Array:
        return np.logaddexp(x, np.float32(0))

    def exp_(self, x: Array) -> Array:
        return np.exp(x, out=x)

    def rint_(self, x: Array) -> Array:
        return np.rint(x, out=x)

    def clip(self, x: Array, low: float | None, high: float | None) -> Array:
        return np.clip(x, low, high)

    def maximum(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def take(self, x: Array, indices: NDArray[np.int64], axis: int) -> Array:
        return np.take(x, indices, axis)

    def argmax(self, x: Array, axis: int) -> Array:
        return x.argmax(axis, keepdims=True)

    def whole(self, x: Array, count: int) -> Array:
        return np.nan_to_num(np.clip(x, 0, count - 1)).astype(np.int64)

    def argsort(self, x: Array) -> Array:
        return np.argsort(x, kind="stable")

    def pad(self, x: Array, margin: int, value: int) -> Array:
        return np.pad(x, [(margin, margin), (margin, margin), (0, 0)], constant_values=value)

    def roll(self, x: Array, by: int) -> Array:
        return np.roll(x, (by, by), (0, 1))

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return np.transpose(x, axes)

    def concatenate(self, parts: Sequence[Array], axis: int) -> Array:
        return np.concatenate(parts, axis)
