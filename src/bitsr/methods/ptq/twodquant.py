"""2DQuant (Liu et al., NeurIPS 2024): bounds by search (DOBI), then trained against the full-precision network (DQC).

Deviations, both for the protocol that all methods here share: weights have bounds per row unless
``weights='tensor'``, and the state that is kept is the best one on held-out calibration crops, not on Set5.  Learning
rates are in quantization steps: the paper's 1e-2 for every bound is 9 % of the range of some and nothing for others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsr.methods.ptq.bounds import Bounds, Search, dobi
from bitsr.methods.ptq.config import TwoDQuant
from bitsr.methods.ptq.distill import Outputs, activation_rates, features_of, train, weight_rates
from bitsr.methods.ptq.pipeline import (
    SYMMETRIC_FROM,
    LayerStep,
    Seen,
    Stage,
    Work,
    bound_operands,
    layerwise,
    round_to_nearest,
    set_bounds,
)  # fmt: skip
from bitsr.parts.layers import QuantLayer
from bitsr.parts.quantizer import AffineQuantizer
from bitsr.parts.undecided import BoundedWeight

FEATURE_WEIGHT = 5.0  # lambda of eq. 6


# ---- bounds --------------------------------------------------------------------------------------------------------


def bound_weights(search: Search, shared: bool = False) -> LayerStep:
    """Weights between learnable bounds found by ``search``: one pair per row, or ``shared`` by all.  From 8 bit on rows
    are symmetric and decided at once: there is nothing to learn."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        if layer.w_bits >= SYMMETRIC_FROM:
            round_to_nearest(search)(layer, seen)
            return
        flat = layer.weight.detach().flatten(1)
        lower, upper = search(flat.flatten() if shared else flat, layer.w_bits)
        layer.weight_quantizer = BoundedWeight(AffineQuantizer(layer.w_bits, lower, upper))

    return step


# ---- DQC -----------------------------------------------------------------------------------------------------------


def normalized(features: Tensor) -> Tensor:
    """F / |F|_2, per picture; (B, ...) -> (B, n)."""
    flat = features.flatten(1)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)


def pixel_loss(compressed: Tensor, full: Tensor) -> Tensor:
    """Eq. 4: (1 / CHW) |O - O_q|_1, mean over pictures."""
    return (compressed - full).abs().mean()


def feature_loss(compressed: Tensor, full: Tensor) -> Tensor:
    """Eq. 5: (1 / CHW) |F / |F| - F_q / |F_q||_2, mean over pictures."""
    difference = normalized(full) - normalized(compressed)
    return difference.norm(dim=1).mean() / difference.shape[1]


def dqc_loss(compressed: Outputs, full: Outputs) -> Tensor:
    """Eq. 6, as printed."""
    features = [feature_loss(q, f) for q, f in zip(compressed[1:], full[1:], strict=True)]
    return pixel_loss(compressed[0], full[0]) + FEATURE_WEIGHT * sum(features, torch.zeros(()))


def released_pixel_loss(compressed: Tensor, full: Tensor) -> Tensor:
    """The released code divides the mean by CHW once more."""
    return (compressed - full).abs().mean() / full[0].numel()


def released_feature_loss(compressed: Tensor, full: Tensor) -> Tensor:
    """A mean of squares, divided by the count again; the student's norm is detached.  (The released broadcast of norms
    over pairs of pictures only repeats this for mixed pairs; here every picture has its own norm.)"""
    flat = compressed.flatten(1)
    theirs = flat / flat.detach().norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (theirs - normalized(full)).square().mean() / full[0].numel()


def released_loss(compressed: Outputs, full: Outputs) -> Tensor:
    """What the released code minimises: beside the pixel term the feature term is nothing (about 1e-7 of it)."""
    features = [released_feature_loss(q, f) for q, f in zip(compressed[1:], full[1:], strict=True)]
    return released_pixel_loss(compressed[0], full[0]) + FEATURE_WEIGHT * sum(features, torch.zeros(()))


LOSSES = {"paper": dqc_loss, "released": released_loss}


def calibrate(work: Work) -> None:
    """DQC: only bounds move; weights and biases are frozen."""
    config = work.config
    assert isinstance(config, TwoDQuant)
    rates = activation_rates(work, config.lr) + weight_rates(work, config.lr)
    train(
        work, rates, LOSSES[config.loss], steps=config.steps, batch=config.batch, crop=config.crop,
        features=features_of(work.teacher),
    )  # fmt: skip


def stages(config: TwoDQuant) -> list[Stage]:
    def search(v: Tensor, bits: int) -> Bounds:
        return dobi(v, bits, config.candidates)

    steps = [set_bounds(search), bound_weights(search, shared=config.weights == "tensor")]
    bounds = layerwise(steps, bound_operands(search))
    return [bounds, calibrate] if config.steps else [bounds]
