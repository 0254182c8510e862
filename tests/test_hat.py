"""HAT: its padding, what may be folded in it, and post-training quantization of a tiny one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import bitsr  # noqa: E402
from bitsr.archs.hat import overlap_index  # noqa: E402
from bitsr.parts.folding import divide_output, multiply_input  # noqa: E402
from bitsr.parts.layers import QuantLayer, QuantMatMul, quantized_layers  # noqa: E402
from bitsr.program import steps  # noqa: E402
from bitsr.program.counting import count_layers  # noqa: E402
from bitsr.program.reference import run  # noqa: E402
from tiny import hwc, make, picture  # noqa: E402


def test_pictures_of_any_size_are_padded_outside_the_network() -> None:
    module = make("hat")
    x = picture(module, 10, 15)
    padded = F.pad(x, (0, 1, 0, 2), mode="reflect")
    with torch.inference_mode():
        assert torch.equal(module(x), module(padded)[:, :, :20, :30])


def test_every_offset_of_overlapping_windows_has_a_bias_of_its_own() -> None:
    index = overlap_index(4, 8) % 11**2
    offsets: dict[int, set[tuple[int, int]]] = {}
    for a in range(16):
        for b in range(64):
            offsets.setdefault(int(index[a, b]), set()).add((b // 8 - a // 4, b % 8 - a % 4))
    assert len(offsets) == 11**2 and all(len(found) == 1 for found in offsets.values())


def test_folds_change_nothing() -> None:
    module: Any = make("hat")
    x = picture(module)
    with torch.inference_mode():
        before = module(x)
        for fold in module.folds():
            producer, consumer = module.get_submodule(fold.producer), module.get_submodule(fold.consumer)
            width = consumer.weight.shape[1]
            shift = 0.3 * torch.randn(width) if isinstance(producer, nn.LayerNorm) else None
            scale = 0.5 + torch.rand(width)
            divide_output(producer, scale, shift, fold.rows)
            multiply_input(consumer, scale, shift)
        np.testing.assert_allclose(module(x), before, atol=1e-4)


def test_a_norm_that_two_layers_read_is_not_folded() -> None:
    module: Any = make("hat")
    folded = {fold.producer for fold in module.folds()}
    assert "layers.0.residual_group.overlap_attn.norm1" in folded
    assert not any(name.endswith("norm1") and ".blocks." in name for name in folded)
    assert sum(".blocks." in name and name.endswith(("norm2", "attn.qkv")) for name in folded) == 4


CONFIGS = {
    "minmax": bitsr.MinMax(8, 8),
    "harmoq": bitsr.HarmoQ(8, 8, abr_steps=2),
    "harmoq, 4 bit": bitsr.HarmoQ(4, 4, abr_steps=2, distill_steps=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_post_training_quantization(config: Any, tmp_path: Path) -> None:
    """Everything that multiplies is quantized, and the packed file computes what was simulated."""
    module = make("hat")
    small: Any = bitsr.compress(module, config, bitsr.calibration_crops(None, 2, count=2, size=16))
    layers = quantized_layers(small)
    assert sum(isinstance(layer, QuantMatMul) for layer in layers.values()) == 6
    assert not [name for name, layer in small.named_modules() if type(layer) in (nn.Linear, nn.Conv2d)]
    first = layers["layers.0.residual_group.blocks.0.attn.qkv"]
    assert isinstance(first, QuantLayer) and torch.equal(
        small.layers[0].residual_group.blocks[0].norm1.weight, module.layers[0].residual_group.blocks[0].norm1.weight
    )  # type: ignore[index, union-attr]
    bitsr.save(small, tmp_path / "hat.bitsr", precision="fp32")
    x = picture(module, 24, 19)
    with torch.inference_mode():
        exact, simulated = hwc(module(x)), hwc(small(x))
    lost = np.square(simulated - exact).mean()
    assert 0 < lost < (0.01 if config.w_bits == 8 else 1.0) * exact.var()
    model = bitsr.open(tmp_path / "hat.bitsr")
    assert np.square(run(model.program, hwc(x)) - simulated).mean() < 0.1 * lost
    overlapping = [step for step in model.program.steps if isinstance(step, steps.OverlappingAttention)]
    assert len(overlapping) == 1 and overlapping[0].q is not None and overlapping[0].margin == 1


def test_attention_to_wider_windows_is_counted() -> None:
    counts = {layer.name: layer for layer in count_layers(bitsr.lower(make("hat")), 16, 16)}
    plain = counts["layers.0.residual_group.blocks.0.attn"]
    wide = counts["layers.0.residual_group.overlap_attn"]
    assert plain.kind == wide.kind == "attention"
    assert plain.macs == 2 * 16 * 16 * 4**2 * 12 and wide.macs == 2 * 16 * 16 * 6**2 * 12
