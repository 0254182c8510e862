"""Channels that leave instead of weights: DRC-lite, and DRC, which searches how many and which."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitsr
from bitsr.archs.detect import descriptor_of
from bitsr.archs.swinir import SwinBlock, shift_mask
from bitsr.data.pictures import write_picture
from bitsr.errors import ConfigError
from bitsr.lowering import lower
from bitsr.methods.binary.config import Binary
from bitsr.methods.binary.drc_training import DRCTraining
from bitsr.methods.binary.training import SignTraining
from bitsr.methods.masks.drc import Channels, halve_channels, largest, narrow, swin_blocks
from bitsr.methods.masks.drc_search import GatedInput, MixedAttention, Width, search_widths, select_channels
from bitsr.methods.trained import training_method
from bitsr.program.reference import run
from bitsr.training.recipe import recipe_from
from bitsr.training.train import train
from tiny import hwc, make, picture

# ---- DRC-lite --------------------------------------------------------------------------------------------------------


def test_half_of_the_channels_go_and_nothing_else() -> None:
    model = make("swinir light x4")
    zeroed, x = copy.deepcopy(model), picture(model)
    block = next(m for m in zeroed.modules() if isinstance(m, SwinBlock))
    mlp, attention = block.mlp, block.attn
    with torch.no_grad():
        size = mlp.fc1.weight.abs().sum(1) + mlp.fc2.weight.abs().sum(0)
        gone = torch.ones(len(size), dtype=torch.bool).index_fill_(0, largest(size, len(size) // 2), False)
        mlp.fc2.weight[:, gone] = 0
        heads, width = attention.heads, attention.proj.in_features // attention.heads
        rows = attention.qkv.weight.abs().sum(1).view(3, heads, width).sum((0, 1))
        rows += attention.proj.weight.abs().sum(0).view(heads, width).sum(0)
        out = torch.ones(width, dtype=torch.bool).index_fill_(0, largest(rows, width // 2), False).repeat(3 * heads)
        attention.qkv.weight[out] = 0
        attention.qkv.bias[out] = 0
    halved = copy.deepcopy(model)
    halve_channels(halved)
    ours = next(m for m in halved.modules() if isinstance(m, SwinBlock))
    with torch.no_grad():
        features = torch.randn(1, 8, 8, attention.proj.in_features)
        mask = shift_mask(8, 8, block.window, block.window // 2)
        torch.testing.assert_close(ours(features, mask), block(features, mask))
        assert halved.eval()(x).shape == model(x).shape
    assert ours.mlp.fc1.out_features * 2 == mlp.fc1.out_features
    assert ours.attn.proj.in_features * 2 == attention.proj.in_features


def test_channels_of_other_networks_stay() -> None:
    with pytest.raises(ConfigError, match="this network has none"):
        SignTraining(Binary(mask="drc-lite")).prepare(make("hat"))


def test_a_network_of_half_its_channels_is_packed() -> None:
    model = make("swinir light x4")
    method = SignTraining(Binary(binarizer="bhvit", mask="drc-lite"))
    frozen, x = method.freeze(method.prepare(model)), picture(model)
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    expected, ours = hwc(frozen(x)), run(lower(frozen, precision="fp32"), hwc(x))
    assert np.abs(ours - expected).mean() < 1e-3 * np.ptp(expected)


# ---- the search ------------------------------------------------------------------------------------------------------


def blocks_of(model: nn.Module) -> list[SwinBlock]:
    return list(swin_blocks(model).values())


def batches(model: nn.Module, count: int = 4) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.rand(2, 3, 16, 16) for _ in range(count)]


def test_candidates_of_a_width_are_shares_of_half() -> None:
    """10 dimensions of a head, 120 hidden units: those of SwinIR-light."""
    assert Width(torch.rand(10)).candidates == [2, 3, 4, 5]
    assert Width(torch.rand(120)).candidates == [30, 36, 42, 48, 54, 60]


def test_a_candidate_with_all_shares_is_the_narrow_block() -> None:
    model = make("swinir light x4").eval()
    block = blocks_of(model)[0]
    dim = block.attn.proj.in_features
    small, gated = copy.deepcopy(block), copy.deepcopy(block)
    head, hidden = Width(torch.rand(dim // block.attn.heads)), Width(torch.rand(block.mlp.fc1.out_features))
    for width in (head, hidden):
        width.logits.data[:] = -1e4
        width.logits.data[1] = 0
        assert width.best() == width.candidates[1]
    narrow(small, Channels(head.kept[1].nonzero().flatten(), hidden.kept[1].nonzero().flatten()))
    gated.attn = MixedAttention(gated.attn, head)  # type: ignore[assignment]
    gated.mlp.fc2 = GatedInput(gated.mlp.fc2, hidden)  # type: ignore[assignment]
    with torch.no_grad():
        x, mask = torch.randn(1, 16, 16, dim), shift_mask(16, 16, block.window, block.window // 2)
        torch.testing.assert_close(gated(x, mask), small(x, mask), rtol=1e-5, atol=1e-5)
    assert small.mlp.fc1.out_features == hidden.candidates[1]


def test_the_search_prefers_widths_that_hold_what_matters() -> None:
    """Hidden units that all count ask for one of the widest candidates, however the dual network starts."""
    model = make("swinir light x4").eval().requires_grad_(False)
    for block in blocks_of(model):
        block.mlp.fc2.weight *= 20
    candidates = Width(torch.rand(blocks_of(model)[0].mlp.fc1.out_features)).candidates
    for seed in (0, 1):
        torch.manual_seed(seed)
        found = search_widths(model, batches(model), 4, steps=40)
        assert min(hidden for _, hidden in found) >= sorted(candidates)[-2]


def test_without_steps_nothing_is_preferred() -> None:
    model = make("swinir light x4").eval().requires_grad_(False)
    width = Width(torch.rand(12))
    assert torch.equal(width.shares(), torch.full_like(width.shares(), 1 / len(width.candidates)))
    assert search_widths(model, batches(model), 4, steps=0)[0][1] == min(
        Width(torch.rand(blocks_of(model)[0].mlp.fc1.out_features)).candidates
    )


def test_dead_channels_are_not_selected() -> None:
    """Hidden units that are always 0 and dimensions whose values are have no gradient, however large the columns are
    that read them."""
    model = make("swinir light x4").eval().requires_grad_(False)
    for block in blocks_of(model):
        dim = block.attn.proj.in_features
        dead = torch.arange(2 * dim, 3 * dim, dim // block.attn.heads)  # of the values, the first in each head
        for layer, places in ((block.mlp.fc1, slice(0, None, 2)), (block.attn.qkv, dead)):
            layer.weight[places] = 0
            layer.bias[places] = 0
        block.mlp.fc2.weight[:, ::2] *= 100
    widths = [(b.attn.proj.in_features // b.attn.heads - 1, b.mlp.fc1.out_features // 2) for b in blocks_of(model)]
    for kept, block in zip(select_channels(model, batches(model), widths), blocks_of(model), strict=True):
        assert 0 not in kept.head and len(kept.head) == block.attn.proj.in_features // block.attn.heads - 1
        assert kept.hidden.tolist() == list(range(1, block.mlp.fc1.out_features, 2))


def crops(count: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(min(count, 8))]


def test_the_same_seed_finds_the_same_channels() -> None:
    model = make("swinir light x4").eval()
    method = training_method(Binary(binarizer="bhvit", mask="drc", search_steps=2), crops, 3)
    assert isinstance(method, DRCTraining)
    first, second = method.prepare(model), method.prepare(model)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0)
    rebuilt = method.rebuild(model, first.state_dict())
    x = picture(model, 16, 16)
    torch.testing.assert_close(rebuilt.eval()(x), first.eval()(x))


def test_drc_is_trained_packed_and_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(4):
        write_picture(tmp_path / "photos" / f"{i}.png", rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    model = make("swinir light x4")
    torch.save(model.state_dict(), tmp_path / "i.pth")
    recipe = recipe_from(
        {
            "init": str(tmp_path / "i.pth"), "scale": 4, "steps": 2, "batch": 1, "crop": 16, "lr": 1e-3,
            "method": {"name": "binary", "binarizer": "biper", "mask": "drc", "search_steps": 1},
        }
    )  # fmt: skip
    trained = train(recipe, [tmp_path / "photos"], tmp_path / "run")
    assert trained.weights is not None and trained.weights.suffix == ".bitsr"
    output = bitsr.open(trained.weights)(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert output.shape == (64, 64, 3)
