"""Linear layers and convolutions of the interpreter, against torch and plain integer arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitsr.program import steps
from bitsr.program.reference import run
from bitsr.program.steps import PackedWeight, Quantizer
from reference_steps import SIZES, Map, both, close, hwc, nchw, program_of, random_map

torch = pytest.importorskip("torch")
F = torch.nn.functional

CONVOLUTIONS = [  # kernel, stride, padding, groups
    (1, 1, 0, 1), (3, 1, 1, 1), (5, 1, 2, 1), (3, 2, 0, 1), (3, 2, 1, 2), (3, 1, 1, 8), (2, 2, 1, 4), ((1, 3), 1, 1, 1),
]  # fmt: skip


def filters(kernel: Any, groups: int, seed: int = 3) -> tuple[Map, Map]:
    """16 filters over 8 channels, and biases."""
    kh, kw = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    rng = np.random.default_rng(seed)
    return rng.normal(size=(16, kh, kw, 8 // groups)).astype(np.float32), rng.normal(size=16).astype(np.float32)


def torch_conv(x: Map, weight: Map, bias: Map | None, stride: int, padding: int, groups: int) -> Map:
    w = torch.from_numpy(np.moveaxis(weight, -1, 1).astype(np.float64))
    b = None if bias is None else torch.from_numpy(bias.astype(np.float64))
    return hwc(F.conv2d(nchw(x).double(), w, b, stride, padding, groups=groups))


@pytest.mark.parametrize("size", [(3, 3), (4, 9), (13, 8)])
@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), CONVOLUTIONS)
def test_convolution(kernel: Any, stride: int, padding: int, groups: int, size: tuple[int, int]) -> None:
    if size == (3, 3) and kernel == 5:
        size = (1, 1)
    x, (weight, bias) = random_map(*size, 8), filters(kernel, groups)
    step = steps.Conv2d("y", "x", "w", "b", stride, padding, groups)
    close(both(step, {"x": x}, w=weight, b=bias), torch_conv(x, weight, bias, stride, padding, groups))


@pytest.mark.parametrize("size", SIZES)
def test_linear_in_half_precision_weights(size: tuple[int, int]) -> None:
    x, weight = random_map(*size, 6), np.random.default_rng(0).normal(size=(4, 6)).astype(np.float16)
    close(both(steps.Linear("y", "x", "w"), {"x": x}, w=weight), x.astype(np.float64) @ weight.T.astype(np.float64))


def integers(x: Map, quantizer: Quantizer) -> NDArray[np.int64]:
    """Codes by the definition, in the arithmetic of single float32 numbers."""
    exact = np.rint((x - np.float32(quantizer.lower)) / np.float32(quantizer.step))
    return np.clip(exact, 0, 2**quantizer.bits - 1).astype(np.int64)


def quantizer_for(x: Map, bits: int, integer_zero: bool = False) -> Quantizer:
    step = np.float32(0.9) * np.float32(np.ptp(x) + 0.1) / np.float32(2**bits - 1)
    zero = np.rint(-x.min() / step).clip(0, 2**bits - 1)
    return Quantizer(bits, float(-zero * step) if integer_zero else float(np.float32(x.min() * 0.9)), float(step))


@pytest.mark.parametrize("mid", [True, False])
@pytest.mark.parametrize("bits", [(2, 2), (3, 4), (4, 4), (6, 3), (8, 8)])
@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), CONVOLUTIONS)
def test_integer_convolution(
    kernel: Any, stride: int, padding: int, groups: int, bits: tuple[int, int], mid: bool
) -> None:
    rng = np.random.default_rng(1)
    x, scales = random_map(6, 7, 8), rng.uniform(0.5, 2, 8).astype(np.float32)
    shape, (w_bits, a_bits) = filters(kernel, groups)[0].shape, bits
    codes = rng.integers(0, 2**w_bits, shape).astype(np.uint8)
    scale, mids = rng.uniform(0.01, 0.1, 16).astype(np.float32), rng.normal(size=16).astype(np.float32)
    quantizer = quantizer_for(x * scales, a_bits, integer_zero=True)
    weight = (codes.astype(np.float64) - 2 ** (w_bits - 1)) * scale[:, None, None, None]
    if mid:
        weight += mids[:, None, None, None]
    bias = (quantizer.lower * weight.reshape(16, -1).sum(1)).astype(np.float32)
    packed = PackedWeight("c", "s", w_bits, "m" if mid else None)
    step = steps.Conv2d("y", "x", packed, "b", stride, padding, groups, quantizer, "i")
    tensors = {"c": codes, "s": scale, "b": bias, "i": scales} | ({"m": mids} if mid else {})
    rounded = quantizer.lower + quantizer.step * integers(x * scales, quantizer).astype(np.float64)
    close(both(step, {"x": x}, **tensors), torch_conv(rounded, weight, None, stride, padding, groups))  # type: ignore[arg-type]


def test_the_integers_of_a_convolution_are_exact() -> None:
    """Also where their sums pass 2**24, the limit of whole numbers in float32."""
    rng = np.random.default_rng(2)
    x, codes = rng.random((4, 5, 300), dtype=np.float32), rng.integers(0, 256, (8, 3, 3, 300)).astype(np.uint8)
    codes[0], x[1:4, 1:4] = 0, 1.0
    quantizer = Quantizer(8, 0.0, float(np.float32(1 / 255)))
    packed = PackedWeight("c", "s", 8, "m")
    step = steps.Conv2d("y", "input", packed, padding=1, quantizer=quantizer)
    ones = np.ones(8, np.float32)
    trace: Any = {}
    run(program_of(step, channels=300, c=codes, s=ones, m=ones), x, trace=trace)
    q = np.pad(integers(x, quantizer), [(1, 1), (1, 1), (0, 0)])
    patches = np.lib.stride_tricks.sliding_window_view(q, (3, 3), (0, 1)).transpose(0, 1, 3, 4, 2).reshape(4, 5, -1)
    acc = patches @ (codes.astype(np.int64) - 128).reshape(8, -1).T
    assert np.abs(acc).max() > 2**24
    np.testing.assert_array_equal(trace["y"]["codes"], integers(x, quantizer))
    np.testing.assert_array_equal(trace["y"]["accumulator"], acc)
    np.testing.assert_array_equal(trace["y"]["sums"][..., 0], patches.sum(-1))
    assert trace["y"]["output"].shape == (4, 5, 8)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_linear_with_either_operand_quantized(packed: bool, quantized: bool) -> None:
    rng = np.random.default_rng(0)
    x, codes = random_map(5, 4, 12), rng.integers(0, 16, (7, 12)).astype(np.uint8)
    scale, mid, bias = (rng.normal(size=7).astype(np.float32) for _ in range(3))
    weight = (codes.astype(np.float32) - 8) * scale[:, None] + mid[:, None]
    quantizer = quantizer_for(x, 4) if quantized else None
    rounded = quantizer.lower + quantizer.step * integers(x, quantizer) if quantizer else x.astype(np.float64)
    folded = bias + quantizer.lower * weight.sum(1) if quantizer and packed else bias
    step = steps.Linear("y", "x", PackedWeight("c", "s", 4, "m") if packed else "w", "b", quantizer)
    y = both(step, {"x": x}, c=codes, s=scale, m=mid, b=folded.astype(np.float32), w=weight)
    close(y, rounded @ weight.T + bias)


def test_rounding_is_to_even_and_divides() -> None:
    step = float(np.float32(1 / 3))
    x = (np.float32(step) * np.arange(0, 8, 0.5, dtype=np.float32)).reshape(1, -1, 1)
    quantizer = Quantizer(3, 0.0, step)
    codes = np.zeros((1, 1), np.uint8)
    trace: Any = {}
    linear = steps.Linear("y", "input", PackedWeight("c", "s", 2), quantizer=quantizer)
    run(program_of(linear, channels=1, c=codes, s=np.ones(1, np.float32)), x, trace=trace)
    np.testing.assert_array_equal(trace["y"]["codes"].ravel(), [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 7])
