"""HarmoQ's Algorithm 1 as it is printed, to be measured beside the corrected form.

Symmetric grids with zero point 0 (weights per row, activations per tensor) start at MinMax; then, for a number of
iterations over each layer: SRC overwrites the weight, the scalar s* is taken, the bounds take one step of Adam on
|W delta_x + delta_W x|^2.  What cannot work as printed is left as it is where it can be computed at all: SRC, with
H = I, regresses on x and starts from the weight that the last iteration left (``anchored`` starts from the pristine
one); s* cancels out of both quantizers and is not applied (`harmonized_factor`, and a test that shows it).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.config import HarmoQLiteral
from bitsr.methods.ptq.pams import bound_both
from bitsr.methods.ptq.pipeline import LayerStep, Seen, Stage, apply_weight, groups_of, layerwise
from bitsr.methods.ptq.structural import printed
from bitsr.parts.layers import QuantLayer
from bitsr.parts.quantizer import SymmetricQuantizer
from bitsr.parts.undecided import BoundedWeight

LEARNING_RATE = (1e-2, 1e-4)  # absolute, falling over 3000 iterations
LENGTH = 3000
TOLERANCE = 1e-4  # of the loss between iterations, relative


def harmonized_factor(x_range: Tensor, w_range: Tensor, x_bits: int, w_bits: int) -> Tensor:
    """s* = sqrt(R_x n_w / (R_w n_x)), which makes MSE_x(s) = R_x^2 / (12 s^2 n_x^2) equal MSE_w(s) = s^2 R_w^2 / (12
    n_w^2)."""
    return (x_range * (2**w_bits - 1) / (w_range * (2**x_bits - 1))).sqrt()


def first_order_loss(layer: QuantLayer, weight: Tensor, x: Tensor) -> Tensor:
    """L_total = E|W delta_x + delta_W x|^2, without delta_W delta_x."""
    assert layer.quantizer is not None and layer.weight_quantizer is not None
    delta_x = layer.quantizer(x) - x
    delta_w = layer.weight_quantizer(weight) - weight
    return (apply_weight(layer, weight, delta_x) + apply_weight(layer, delta_w, x)).square().mean()


@dataclass
class Trace:
    """The loss of each layer, iteration by iteration."""

    losses: list[list[float]] = field(default_factory=list)


def iterate(config: HarmoQLiteral, trace: Trace | None = None) -> LayerStep:
    """The loop of Algorithm 1 on one layer."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        pristine, x = seen.weight, seen.x
        quantizer = SymmetricQuantizer(layer.a_bits, x.abs().max())
        rows = SymmetricQuantizer(layer.w_bits, pristine.flatten(1).abs().amax(1, keepdim=True))
        layer.quantizer, layer.weight_quantizer = quantizer, BoundedWeight(rows)
        optimizer = torch.optim.Adam([*quantizer.learned(), *rows.learned()], lr=LEARNING_RATE[0])
        losses: list[float] = []
        for number in range(config.iterations):
            start = pristine if config.anchored else layer.weight.detach()
            layer.weight = nn.Parameter(overwritten(layer, start, x, config.ridge))
            for group in optimizer.param_groups:
                falling = LEARNING_RATE[0] + (LEARNING_RATE[1] - LEARNING_RATE[0]) * number / LENGTH
                group["lr"] = falling
            with torch.enable_grad():
                loss = first_order_loss(layer, layer.weight.detach(), x)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if number and abs(losses[-1] - losses[-2]) <= TOLERANCE * losses[-2]:
                break
        if trace is not None:
            trace.losses.append(losses)
        layer.decide()

    return step


def overwritten(layer: QuantLayer, weight: Tensor, x: Tensor, ridge: float) -> Tensor:
    """W + D with the printed D; lambda = ``ridge`` is absolute, on a moment that is a mean over samples."""
    assert layer.quantizer is not None
    quantized, flat = layer.quantizer(x).detach(), weight.flatten(1).clone()
    for rows, columns in groups_of(layer):
        some = x[:, columns].double() / len(x) ** 0.5
        theirs = quantized[:, columns].double() / len(x) ** 0.5
        relative = ridge / float((some.T @ some).diagonal().mean().clamp_min(1e-12))
        flat[rows] += printed(flat[rows].double(), some, theirs, relative).float()
    return flat.view_as(weight)


def stages(config: HarmoQLiteral) -> list[Stage]:
    return [layerwise([iterate(config)], bound_both(narrow=False), samples=config.samples)]
