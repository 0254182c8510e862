"""AdaRound (Nagel et al., ICML 2020): learn for each weight whether it is rounded down or up.

One layer at a time, on rows of what the quantized prefix delivers, against what the full-precision weights make of
them.  Bounds are fixed before: rows by search, activations as everywhere here (the paper leaves them open).  The
reconstruction error is divided by the output's variance and the regularizer is a mean, so that one weight between
the two serves layers of any size and range.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bitsr.methods.ptq.bounds import Search, both_ends, shrunk
from bitsr.methods.ptq.config import AdaRound
from bitsr.methods.ptq.pipeline import (
    LayerStep,
    Seen,
    Stage,
    apply_weight,
    bound_operands,
    layerwise,
    row_grid,
    set_bounds,
)
from bitsr.parts.layers import QuantLayer
from bitsr.parts.undecided import LearnedRounding

WARM_UP = 0.2  # share of the steps without regularizer
BETA = (20.0, 2.0)  # of the regularizer, from the end of the warm-up to the end


def regularizer(up: Tensor, beta: float) -> Tensor:
    """Eq. 24: sum of 1 - |2 h - 1|^beta, as a mean; 0 where every h is 0 or 1."""
    return (1 - (2 * up - 1).abs().pow(beta)).mean()


def annealed_beta(progress: float) -> float | None:
    """beta at ``progress`` 0..1 of the training; None during the warm-up, which has no regularizer."""
    if progress < WARM_UP:
        return None
    start, end = BETA
    return end + (start - end) * (1 - (progress - WARM_UP) / (1 - WARM_UP))


def learn_rounding(search: Search) -> LayerStep:
    """The layer's weight on a fixed grid per row, its rounding to be learned."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        if layer.w_bits < 16:
            flat = layer.weight.detach().flatten(1)
            lower, size = row_grid(flat, layer.w_bits, search)
            layer.weight_quantizer = LearnedRounding(layer.w_bits, flat, lower, size)

    return step


def reconstruct_layer(steps: int, batch: int, lr: float, weight: float) -> LayerStep:
    """Adam on the rounding against |W x - W^ x~|^2, then the codes are decided."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        rounding = layer.weight_quantizer
        if not isinstance(rounding, LearnedRounding):
            return
        optimizer = torch.optim.Adam([rounding.direction], lr=lr)
        generator = torch.Generator().manual_seed(0)
        quantized, target = seen.quantized(layer).detach(), seen.target
        variance = target.var().clamp_min(1e-12)
        for number in range(steps):
            rows = torch.randint(len(target), (batch,), generator=generator)
            beta = annealed_beta(number / steps)
            with torch.enable_grad():
                output = apply_weight(layer, rounding(layer.weight.detach()), quantized[rows])
                output = output if layer.bias is None else output + layer.bias.detach()
                loss = (output - target[rows]).square().mean() / variance
                if beta is not None:
                    loss = loss + weight * regularizer(rounding.up(), beta)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        layer.decide()

    return step


def stages(config: AdaRound) -> list[Stage]:
    steps = [
        set_bounds(both_ends),
        learn_rounding(partial(shrunk, power=2.0)),
        reconstruct_layer(config.steps, config.batch, config.lr, config.regularization),
    ]
    return [layerwise(steps, bound_operands(both_ends), config.groups, config.samples)]
