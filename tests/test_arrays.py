"""The pieces of the array namespaces that the libraries do not have: erf, and exact products of 8-bit integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bitsr.program.arrays import NumpyArrays, erf

KINDS = [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)]


def operands(kinds: tuple[Any, Any], m: int, k: int, n: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, size, kind, endpoint=True)
        for kind, size in zip(kinds, ((m, k), (k, n)), strict=True)
    ]


def test_erf_is_accurate() -> None:
    x = np.concatenate([np.linspace(-6, 6, 100_001), [0.0, -0.0, 30.0, -1e30, 1e-30]]).astype(np.float32)
    np.testing.assert_allclose(erf(x), [math.erf(value) for value in x], atol=1e-7, rtol=0)


@pytest.mark.parametrize("kinds", KINDS)
def test_integer_products_are_exact_in_numpy(kinds: tuple[Any, Any]) -> None:
    """With sums beyond 2**24, where float32 is not."""
    a, b = operands(kinds, 3, 4001, 5)
    a[0], b[:, 0] = np.iinfo(kinds[0]).max, np.iinfo(kinds[1]).max
    a[0, 0] = 1
    product = a.astype(np.int64) @ b.astype(np.int64)
    assert product[0, 0] > 2**24 and product[0, 0] % 2
    np.testing.assert_array_equal(NumpyArrays().integer_matmul(a, b, 4001 * 255 * 255), product)


@pytest.mark.parametrize("shape", [(17, 8, 8), (20, 13, 5), (32, 1, 1), (40, 64, 24)])
@pytest.mark.parametrize("kinds", KINDS)
def test_int8_products_are_exact_in_torch(kinds: tuple[Any, Any], shape: tuple[int, int, int]) -> None:
    torch = pytest.importorskip("torch")
    from bitsr.lowering.torch_arrays import int8_matmul

    a, b = operands(kinds, *shape)
    product = int8_matmul(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(product.numpy(), a.astype(np.int64) @ b.astype(np.int64))
