"""ReActNet: learnable shifts before the sign and around the activation.

Liu et al., "ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions", ECCV 2020.
"""

from __future__ import annotations

from bitsr.parts.binarizers import ActivationBinarizer, WeightBinarizer
from bitsr.parts.sign import bireal, clip


class ReActNetWeight(WeightBinarizer):
    """sign(W) * mean |W| per filter; the gradient passes inside [-1, 1], without the scale."""

    def __init__(self) -> None:
        super().__init__(clip, scaled_gradient=False)


class RSign(ActivationBinarizer):
    """sign(x + shift), the shift learnable per channel."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels, axis, bireal, shift=True)
