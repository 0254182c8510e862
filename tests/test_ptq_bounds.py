"""Bounds come from elements of all channels; states are chosen on pictures that nothing learned from."""

import pytest
import torch
from torch import nn

from bitsr.methods.ptq.bounds import both_ends
from bitsr.methods.ptq.distill import divided
from bitsr.methods.ptq.pipeline import Seen, set_bounds
from bitsr.methods.ptq.samples import some_of
from bitsr.parts.layers import QuantLinear


@pytest.mark.parametrize("width", [48, 60, 64, 96, 144, 200, 384, 576])
def test_elements_are_taken_from_all_channels(width: int) -> None:
    rows = torch.arange(width).float().expand(8192, width).contiguous()
    counts = some_of(rows, 2**17).long().bincount(minlength=width)
    assert counts.min() > 0.7 * 2**17 / width


def test_bounds_heed_channels_wherever_they_are() -> None:
    """One wide channel in 64: every 4th column of 8192 rows, where only channels 0, 4, 8 ... would be looked at, shows
    nothing of it but its extremes."""
    torch.manual_seed(0)
    x = 0.1 * torch.randn(8192, 64)
    x[:, 1] = 10 * torch.rand(8192)
    layer = QuantLinear(nn.Linear(64, 8), 8, 4)
    extremes = torch.stack([x.amin(0), x.amax(0)])
    set_bounds(both_ends)(layer, Seen(x, x @ layer.weight.T, layer.weight, extremes))
    error = (layer.quantizer(x) - x)[:, 1].square().mean()
    assert error < 2 * (10 / 15) ** 2 / 12  # of steps of 0..10 in 4 bits, and the other channels count, too


@pytest.mark.parametrize("count,held", [(1, 1), (2, 1), (8, 1), (16, 2), (128, 16)])
def test_held_out_pictures_are_not_learned_from(count: int, held: int) -> None:
    pictures = torch.arange(count).float().view(-1, 1, 1, 1)
    learned, kept = divided(pictures)
    assert len(kept) == held
    assert count == 1 or not set(learned.flatten().tolist()) & set(kept.flatten().tolist())
    assert len(learned) + (len(kept) if count > 1 else 0) == count
