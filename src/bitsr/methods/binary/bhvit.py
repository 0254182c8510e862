"""BHViT: centred weights, shifted activations, shortcuts around every binary linear.

Gao et al., "BHViT: Binarized Hybrid Vision Transformer", CVPR 2025; here its linear layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitsr.parts.binarizers import ActivationBinarizer, WeightBinarizer, of_kept, row_mean
from bitsr.parts.sign import bireal, clip, identity

TAU = 0.92  # ReCU: the share of a Laplace distribution that is not clipped


class BHViTWeight(WeightBinarizer):
    """sign(W - mean) * mean |W|, per row; the scale is that of the weights before centring and has no gradient.

    The gradient passes where |W - mean| <= 1, without the scale.  With ``recu`` the centred weights get the deviation
    of a Laplace distribution of scale 2 and are clipped at its quantiles, and the gradient passes inside those.
    """

    def __init__(self, recu: bool = False) -> None:
        super().__init__(identity if recu else clip, scaled_gradient=False)
        self.recu = recu

    def argument(self, weight: Tensor, mask: Tensor | None) -> Tensor:
        centred = weight - of_kept(row_mean(weight, mask), mask)
        return _rectified(centred) if self.recu else centred


def _rectified(centred: Tensor) -> Tensor:
    axes = tuple(range(1, centred.ndim))
    normal = centred / (torch.sqrt(centred.var(axes, keepdim=True) + 1e-5) / (2 * math.sqrt(2)))
    bound = (-normal.abs().mean() * math.log(2 - 2 * TAU)).detach()
    return torch.minimum(torch.maximum(normal, -bound), bound)


class BHViTActivation(ActivationBinarizer):
    """sign(x + shift), the shift learnable per channel."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels, axis, bireal, shift=True)
