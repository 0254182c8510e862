"""DoReFa-Net at one bit: one scale per layer, straight-through gradients.

Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients", 2016.
Its activations are rounded on [0, 1], so one bit is {0, 1}.  Transformers have signed activations; the default here is
a sign with a clipped gradient ('sign'), and 'unit' is the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsr.parts.binarizers import ActivationBinarizer, WeightBinarizer, tensor_mean
from bitsr.parts.sign import clip, identity


class DoReFaWeight(WeightBinarizer):
    """sign(W) * E with E = mean |W| of the whole tensor; the gradient passes as it is."""

    def __init__(self) -> None:
        super().__init__(identity, scaled_gradient=False)

    def scale(self, weight: Tensor, mask: Tensor | None) -> Tensor:
        return tensor_mean(weight.abs(), mask).detach()


class UnitActivation(ActivationBinarizer):
    """round(clip(x, 0, 1)) in {0, 1}, half to even: 1 beyond 0.5.  The gradient is that of the clip."""

    levels = (0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        clipped = x.clamp(0, 1)
        return clipped + (clipped.round() - clipped).detach()

    @torch.no_grad()
    def thresholds(self) -> tuple[Tensor, Tensor]:
        beyond_half = torch.tensor(0.5).nextafter(torch.tensor(1.0))
        return beyond_half.expand(self.channels).clone(), torch.zeros(self.channels, dtype=torch.bool)


class SignActivation(ActivationBinarizer):
    """sign(x) with a clipped gradient."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels, axis, clip)
