"""The analyses behind HarmoQ's Figures 1 to 3, for any network.

Figure 1: only weights or only activations quantized, in PSNR and SSIM.  Figure 2: which layers the loss comes from.
Figure 3: how large the structural residual correction (SRC) is, and what it gives.  Rounding is to nearest between
bounds found by search, without any correction, so that what is seen is the network's and not a method's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.data.benchmark import Pair
from bitsr.evaluation.metrics import psnr_y, ssim_y
from bitsr.methods.compress import compress
from bitsr.methods.ptq.config import Dobi, HarmoQ, MinMax
from bitsr.methods.ptq.harmoq import bounds
from bitsr.methods.ptq.pipeline import (
    Seen,
    apply_weight,
    begin,
    centred,
    groups_of,
    layerwise,
    set_bounds,
)
from bitsr.methods.ptq.sensitivity import Kind, Sensitivity, kind_of, sensitivities
from bitsr.methods.ptq.structural import correction
from bitsr.parts.layers import QuantLayer, QuantMatMul

Operand = Literal["weights", "activations", "both"]
OPERANDS: tuple[Operand, ...] = ("weights", "activations", "both")
UNTOUCHED = 32


@dataclass(frozen=True)
class Loss:
    """PSNR-Y (dB) and SSIM-Y with one operand of all layers quantized, and what is lost of the full-precision
    network's; means over the pictures."""

    bits: int
    operand: Operand
    psnr_y: float
    ssim_y: float
    psnr_loss: float
    ssim_loss: float


@dataclass(frozen=True)
class Share:
    """``share`` of all layers' single errors at ``bits`` (weights and activations of all kinds add up to 1)."""

    bits: int
    kind: Kind
    operand: Operand
    layers: int
    share: float


@dataclass(frozen=True)
class Correction:
    """SRC of one layer with inputs of ``bits``: ``size`` is |D| / |W| (Frobenius), ``error_left`` the layer's squared
    output error with it over that without it, on rows that it was not computed from."""

    bits: int
    layer: str
    kind: Kind
    size: float
    error_left: float


@dataclass(frozen=True)
class CorrectionGain:
    """PSNR-Y in dB with inputs of ``bits``, weights in full precision and biases corrected, without and with SRC."""

    bits: int
    psnr_without: float
    psnr_with: float


@dataclass(frozen=True)
class Analysis:
    """``sensitivities`` are mean squared errors of the output by layer and bits."""

    pictures: int
    psnr_y: float
    ssim_y: float
    losses: list[Loss]
    shares: list[Share]
    corrections: list[Correction]
    gains: list[CorrectionGain]
    sensitivities: dict[str, Sensitivity]


def analyze(
    module: nn.Module, crops: Sequence[Any], pairs: Sequence[Pair], bits: Sequence[int] = (8, 4, 3, 2), *,
    scope: Literal["full", "paper"] = "full", seed: int = 0, on_step: Callable[[int, int], None] | None = None,
) -> Analysis:  # fmt: skip
    """``crops``: LR crops HxWx3 uint8 for bounds; ``pairs``: other pictures, on which all is measured.

    ``on_step`` is called with (number, of how many) after each part.
    """
    total = 5 * len(bits) + 2
    steps = iter(range(1, total + 1))

    def advance() -> None:
        if on_step:
            on_step(next(steps), total)

    full = quality(module, pairs)
    advance()
    losses, gains, corrections = [], [], []
    for b in bits:
        for operand in OPERANDS:
            w_bits, a_bits = (b if operand in (one, "both") else UNTOUCHED for one in ("weights", "activations"))
            found = quality(compress(module, Dobi(w_bits, a_bits, scope), crops, seed=seed), pairs)
            losses.append(Loss(b, operand, *found, full[0] - found[0], full[1] - found[1]))
            advance()
        gains.append(correction_gain(module, crops, pairs, b, scope, seed))
        advance()
        corrections += layer_corrections(module, crops, b, scope, seed)
        advance()
    single = sensitivities(module, MinMax(scope=scope), crops, [pair.lr for pair in pairs], bits, seed)
    advance()
    return Analysis(len(pairs), *full, losses, shares(single, bits), corrections, gains, single)


def quality(module: nn.Module, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Means of PSNR-Y in dB and SSIM-Y."""
    upscaler = ModuleUpscaler(module)
    scale = upscaler.descriptor.scale
    outputs = [(upscaler(pair.lr), pair.hr) for pair in pairs]
    return (
        float(np.mean([psnr_y(sr, hr, scale) for sr, hr in outputs])),
        float(np.mean([ssim_y(sr, hr, scale) for sr, hr in outputs])),
    )


def shares(single: dict[str, Sensitivity], bits: Sequence[int]) -> list[Share]:
    """Of each kind of layer and operand in the sum of the single errors."""
    found = []
    kinds: list[Kind] = ["convolution", "linear", "attention"]
    for b in bits:
        whole = sum(alone.error(b, b) for alone in single.values()) or 1.0
        for kind in kinds:
            own = [alone for alone in single.values() if alone.kind == kind]
            parts: dict[Operand, float] = {
                "weights": sum(alone.error(b, UNTOUCHED) for alone in own),
                "activations": sum(alone.error(UNTOUCHED, b) for alone in own),
            }
            found += [Share(b, kind, operand, len(own), part / whole) for operand, part in parts.items() if own]
    return found


# ---- SRC -----------------------------------------------------------------------------------------------------------


def correction_gain(
    module: nn.Module,
    crops: Sequence[Any],
    pairs: Sequence[Pair],
    bits: int,
    scope: Literal["full", "paper"],
    seed: int,
) -> CorrectionGain:
    """Of the whole network: HarmoQ's stages without smoothing, training and rounding of weights."""
    without, given = (
        quality(compress(module, HarmoQ(UNTOUCHED, bits, scope, hso=False, src=src, rounding="nearest", abr_steps=0,
                                        samples=4096, distill_steps=0), crops, seed=seed), pairs)[0]
        for src in ("none", "exact")
    )  # fmt: skip
    return CorrectionGain(bits, without, given)


def layer_corrections(
    module: nn.Module, crops: Sequence[Any], bits: int, scope: Literal["full", "paper"], seed: int
) -> list[Correction]:
    """Of every layer alone, with inputs as the full-precision network makes them."""
    work = begin(module, crops, HarmoQ(UNTOUCHED, bits, scope), seed)
    names = {layer: name for name, layer in work.layers.items()}
    found: list[Correction] = []

    def watch(layer: QuantLayer, seen: Seen) -> None:
        if layer.quantizer is not None:
            found.append(Correction(bits, names[layer], *_size_and_effect(layer, seen, HarmoQ.ridge)))

    steps = [set_bounds(bounds), watch, unquantize]
    layerwise(steps, leave_operands, HarmoQ.groups, HarmoQ.samples)(work)
    return found


def unquantize(layer: QuantLayer, seen: Seen) -> None:
    layer.quantizer = None


def leave_operands(layer: QuantMatMul, operands: tuple[Tensor, Tensor]) -> None:
    """SRC is for weights."""


def _size_and_effect(layer: QuantLayer, seen: Seen, ridge: float) -> tuple[Kind, float, float]:
    """What :class:`Correction` says; fitted on three quarters of the rows, judged on the others."""
    x, quantized = seen.x, seen.quantized(layer)
    part = len(x) * 3 // 4
    weight = layer.weight.detach().flatten(1)
    change = torch.zeros_like(weight)
    for rows, columns in groups_of(layer):
        fit = centred(x[:part, columns]), centred(quantized[:part, columns])
        change[rows] = correction("exact", weight[rows], *fit, ridge)

    def error(given: Tensor) -> float:
        left = apply_weight(layer, weight, x[part:]) - apply_weight(layer, given, quantized[part:])
        return float(centred(left).square().mean())

    size = float(change.norm() / weight.norm().clamp_min(1e-12))
    return kind_of(layer), size, error(weight + change) / max(error(weight), 1e-20)
