"""Attention of the interpreter, against its simulation in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attention_operands import OPERANDS
from bitsr.program import steps
from bitsr.program.arrays import NumpyArrays
from bitsr.program.reference import execute
from bitsr.program.steps import Quantizer
from reference_steps import Map, both, close, program_of, random_map

torch = pytest.importorskip("torch")

from bitsr.archs.swinir import SwinBlock, merge, partition, relative_position_index, shift_mask  # noqa: E402


def fake(x: Any, quantizer: Quantizer | None) -> Any:
    if quantizer is None:
        return x
    codes = ((x - quantizer.lower) / torch.tensor(quantizer.step)).round().clamp(0, quantizer.levels)
    return codes * quantizer.step + quantizer.lower


def attended(scores: Any, v: Any, step: steps.Attention) -> Any:
    weights = scores.softmax(-1).float()
    top = weights.amax(-1, keepdim=True) if step.row_scale else torch.ones(1)
    return top.double() * (fake(weights / top, step.attention).double() @ v)


def torch_attention(x: Map, table: Map, step: steps.WindowAttention) -> Map:
    """The simulation: the fake-quantized operands multiplied in float64."""
    height, width, channels = x.shape
    y = torch.from_numpy(x.copy())[None].roll((-step.shift, -step.shift), (1, 2))
    windows = partition(y, step.window)
    b, n = windows.shape[:2]
    q, k, v = windows.view(b, n, 3, step.heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = fake(q * step.scale, step.q).double(), fake(k, step.k).double(), fake(v, step.v).double()
    scores = q @ k.transpose(-2, -1) + torch.from_numpy(table)[relative_position_index(step.window)].permute(2, 0, 1)
    if step.shift:
        scores = scores + shift_mask(height, width, step.window, step.shift)[:, None]
    y = merge(attended(scores, v, step).transpose(1, 2).reshape(b, n, channels // 3), step.window, height, width)
    return y.roll((step.shift, step.shift), (1, 2))[0].numpy()


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (20, 4)])
@pytest.mark.parametrize("operands", OPERANDS)
def test_window_attention(operands: str, size: tuple[int, int], shift: int) -> None:
    heads, window, width = 2, 4, 5
    x, table = random_map(*size, 3 * heads * width), random_map(1, (2 * window - 1) ** 2, heads, 1)[0]
    step = steps.WindowAttention("y", "x", "t", heads, window, shift, width**-0.5, **OPERANDS[operands])
    close(both(step, {"x": x}, t=table), torch_attention(x, table, step))


def torch_overlapping(x: Map, table: Map, step: steps.OverlappingAttention) -> Map:
    """Window after window, with the rows of the bias table by the offsets of queries against keys."""
    (height, width, channels), n, m = x.shape, step.window, step.margin
    padded = torch.zeros(height + 2 * m, width + 2 * m, channels)
    padded[m : m + height, m : m + width] = torch.from_numpy(x)
    offsets = [[(a // n - b // (n + 2 * m) + m, a % n - b % (n + 2 * m) + m) for b in range((n + 2 * m) ** 2)]
               for a in range(n * n)]  # fmt: skip
    reach = n + m - 1
    rows = torch.tensor([[(dy + reach) * (2 * reach + 1) + dx + reach for dy, dx in line] for line in offsets])
    bias = torch.from_numpy(table)[rows].permute(2, 0, 1)
    y = torch.zeros(height, width, channels // 3, dtype=torch.float64)
    for top in range(0, height, n):
        for left in range(0, width, n):
            wide = padded[top : top + n + 2 * m, left : left + n + 2 * m]
            inner = wide[m : m + n, m : m + n]
            q, k, v = (
                part.reshape(-1, 3, step.heads, channels // 3 // step.heads)[:, i].transpose(0, 1)
                for i, part in enumerate((inner, wide, wide))
            )
            q, k, v = fake(q * step.scale, step.q).double(), fake(k, step.k).double(), fake(v, step.v).double()
            y[top : top + n, left : left + n] = attended(q @ k.mT + bias, v, step).transpose(0, 1).reshape(n, n, -1)
    return y.numpy()


@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("operands", OPERANDS)
def test_overlapping_attention(operands: str, margin: int, size: tuple[int, int]) -> None:
    heads, window, width = 2, 4, 5
    x, table = random_map(*size, 3 * heads * width), random_map(1, (2 * (window + margin) - 1) ** 2, heads, 1)[0]
    step = steps.OverlappingAttention("y", "x", "t", heads, window, margin, width**-0.5, **OPERANDS[operands])
    y = both(step, {"x": x}, t=table)
    close(y, torch_overlapping(x, table, step))
    if margin == 0:
        same = steps.WindowAttention("y", "x", "t", heads, window, 0, width**-0.5, **OPERANDS[operands])
        np.testing.assert_array_equal(y, both(same, {"x": x}, t=table))


def test_attention_in_slabs_is_the_same() -> None:
    x, table = random_map(16, 16, 12), random_map(1, 49, 2, 1)[0]
    step = steps.WindowAttention("y", "x", "t", 2, 4, 2, 0.7, **OPERANDS["8 bit"])
    narrow = NumpyArrays()
    narrow.slab = 2 * 4**4 * 3  # three windows
    whole: dict[str, Any] = {}
    pieces: dict[str, Any] = {}
    y = execute(step, {"x": x}, program_of(step, t=table), NumpyArrays(), whole)
    np.testing.assert_array_equal(execute(step, {"x": x}, program_of(step, t=table), narrow, pieces), y)
    assert [len(pieces[name]) for name in whole] == [6] * 6
    for name in whole:
        np.testing.assert_array_equal(np.concatenate(pieces[name]), whole[name][0])


def test_one_block_of_the_network() -> None:
    """Shift and mask as SwinIR has them."""
    torch.manual_seed(0)
    block = SwinBlock(12, 2, 4, 2, 2.0, 16).eval().requires_grad_(False)
    x = random_map(8, 12, 12)
    qkv = block.attn.qkv(torch.from_numpy(x)).numpy()
    table = block.attn.relative_position_bias_table.numpy()
    step = steps.WindowAttention("y", "x", "t", 2, 4, 2, block.attn.scale)
    ours = block.attn.proj(torch.from_numpy(both(step, {"x": qkv}, t=table)))
    y = partition(torch.from_numpy(x)[None].roll((-2, -2), (1, 2)), 4)
    theirs = merge(block.attn(y, shift_mask(8, 12, 4, 2)), 4, 8, 12).roll((2, 2), (1, 2))[0]
    close(ours.numpy(), theirs.numpy())
