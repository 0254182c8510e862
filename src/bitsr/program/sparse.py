"""Linear layers of few weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.program.arrays import Array
from bitsr.program.frame import Frame
from bitsr.program.program import Program
from bitsr.program.steps import SparseLinear

MOST_PLACES = 1 << 24


def to_bytes(places: NDArray[Any]) -> NDArray[np.uint8]:
    """n whole numbers below `MOST_PLACES` as n x 3 bytes."""
    return np.stack([places >> shift & 0xFF for shift in (0, 8, 16)], 1).astype(np.uint8)


def places_of(step: SparseLinear, program: Program) -> NDArray[np.int64]:
    """Where the entries lie, row * columns + column."""
    return program.tensors[step.places].astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])


def dense(step: SparseLinear, program: Program) -> NDArray[np.float32]:
    """The weight with all its zeros, rows x columns."""
    weight = np.zeros(step.rows * step.columns, np.float32)
    weight[places_of(step, program)] = program.tensor(step.values)
    return weight.reshape(step.rows, step.columns)


def linear(step: SparseLinear, frame: Frame) -> Array:
    arrays, x = frame.arrays, frame.values[step.x]
    weight = arrays.array(np.ascontiguousarray(dense(step, frame.program).T))
    return arrays.matmul(x.reshape(-1, step.columns), weight).reshape(*x.shape[:2], step.rows)
