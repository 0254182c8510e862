"""Weights whose codes are still being learned: by their bounds, or by the direction in which each is rounded.

A layer holds one of them beside its floating-point weight until a method is done; then it is decided.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.parts.quantizer import AffineQuantizer, DecidedWeight

ZETA, GAMMA = 1.1, -0.1  # AdaRound: how far the sigmoid is stretched beyond 0..1, so that both ends are reached


def on_grid(bits: int, codes: Tensor, lower: Tensor, step: Tensor) -> DecidedWeight:
    """The weight lower + step * codes; ``lower`` and ``step`` are one number or (rows, 1).  A symmetric grid, whose
    code 2**(bits - 1) is zero, needs no mid."""
    rows = codes.shape[0]
    mid = (lower + 2 ** (bits - 1) * step).expand(rows, 1).flatten()
    return DecidedWeight(bits, codes, step.expand(rows, 1).flatten(), mid if bool(mid.any()) else None)


class UndecidedWeight(nn.Module):
    """Maps the floating-point weight to the one that is used while codes are learned."""

    def forward(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def decide(self, weight: Tensor) -> DecidedWeight:
        """The final codes."""
        raise NotImplementedError


class BoundedWeight(UndecidedWeight):
    """Rounding to the nearest level of ``quantizer``, whose bounds are one pair or one per row: (rows, 1)."""

    def __init__(self, quantizer: AffineQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, weight: Tensor) -> Tensor:
        return self.quantizer(weight.flatten(1)).view_as(weight)

    def decide(self, weight: Tensor) -> DecidedWeight:
        lower, step = self.quantizer.grid()
        return on_grid(self.quantizer.bits, self.quantizer.codes(weight.flatten(1)).view(weight.shape), lower, step)


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1): AdaRound, eq. 23."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """The V with h(V) = ``h`` in 0..1."""
    return torch.logit((h - GAMMA) / (ZETA - GAMMA))


class LearnedRounding(UndecidedWeight):
    """AdaRound: on a fixed grid, each weight goes down or up.

    W^ = lower + step clip(floor((W - lower) / step) + h(V), 0, n); V starts where h is the fraction that is left, so
    W^ starts as W.
    """

    whole: Tensor
    lower: Tensor
    step: Tensor

    def __init__(self, bits: int, weight: Tensor, lower: Tensor, step: Tensor) -> None:
        """``weight`` (rows, ...); ``lower`` and ``step`` (rows, 1)."""
        super().__init__()
        self.bits = bits
        exact = (weight.detach().flatten(1) - lower) / step
        for name, value in (("whole", exact.floor()), ("lower", lower), ("step", step)):
            self.register_buffer(name, value)
        self.direction = nn.Parameter(inverse_rectified_sigmoid(exact - exact.floor()))

    def up(self) -> Tensor:
        """h(V) in 0..1: how far each weight goes towards its upper neighbour."""
        return rectified_sigmoid(self.direction)

    def forward(self, weight: Tensor) -> Tensor:
        codes = (self.whole + self.up()).clamp(0, 2**self.bits - 1)
        return (self.lower + self.step * codes).view_as(weight)

    def decide(self, weight: Tensor) -> DecidedWeight:
        codes = (self.whole + (self.direction >= 0)).clamp(0, 2**self.bits - 1)
        return on_grid(self.bits, codes.view(weight.shape), self.lower, self.step)
