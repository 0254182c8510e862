"""XNOR-Net: a scale per filter, and one per position of the input.

Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks", ECCV 2016.  The scale
of a position is mean |x| over its channels, without gradient.  With convolutions it is that of their whole window (the
paper's box filter, eq. 11), so that it multiplies a product of signs; later code multiplies the signs of each pixel.
"""

from __future__ import annotations

from torch import Tensor

from bitsr.parts.binarizers import ActivationBinarizer, WeightBinarizer
from bitsr.parts.sign import clip


class XNORWeight(WeightBinarizer):
    """sign(W) * mean |W| per row; the gradient passes inside [-1, 1], without the scale."""

    def __init__(self) -> None:
        super().__init__(clip, scaled_gradient=False)


class XNORWindows(ActivationBinarizer):
    """sign(x); the product of a window is to be multiplied by its mean |x|."""

    window_scale = True

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels, axis, clip)


class XNORActivation(ActivationBinarizer):
    """sign(x) * mean |x| of each pixel or token."""

    token_scale = True

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels, axis, clip)

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().mean(self.axis, keepdim=True).detach() * super().forward(x)
