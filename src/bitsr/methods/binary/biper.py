"""BiPer: weights are carried by a sine, first as it is, then by its sign.

Vargas et al., "BiPer: Binary Neural Networks using a Periodic Function", CVPR 2024.  The regularizer of its CIFAR code
is left out, as in its ImageNet code.  The scale is learnable; it starts at mean |W| of what is kept of each row,
because we start from a trained network (the paper draws it at random).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.parts.binarizers import ActivationBinarizer, WeightBinarizer, of_kept, row_mean
from bitsr.parts.sign import bireal, identity, sign

STAGE_TWO = 2 / 3  # of the steps: where the sine gives way to its sign


class BiPerWeight(WeightBinarizer):
    """alpha * sin(f W) in the first stage, alpha * sign(sin(f W)) in the second, gradient straight through the sign."""

    def __init__(self, weight: Tensor, kept: Tensor | None = None, frequency: float = 20.0) -> None:
        super().__init__(identity)
        self.frequency = frequency
        self.alpha = nn.Parameter(row_mean(weight.detach().abs(), kept))
        self.binary = True

    def forward(self, weight: Tensor, mask: Tensor | None = None) -> Tensor:
        carrier = torch.sin(self.frequency * weight)
        return of_kept(self.alpha, mask) * (sign(carrier, self.surrogate) if self.binary else carrier)

    def on_step(self, step: int, steps: int) -> None:
        self.binary = step >= STAGE_TWO * steps


class BiPerActivation(ActivationBinarizer):
    """The sign of x over its standard deviation, per sample of the batch that the layer sees, which in window attention
    is a window: that changes the surrogate gradient and no sign."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels, axis, bireal)

    def moved(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        bessel = int(x[0].numel() > 1)  # one number has the variance 0
        return x / torch.sqrt(x.var(dim=tuple(range(1, x.ndim)), correction=bessel, keepdim=True) + 1e-5)
