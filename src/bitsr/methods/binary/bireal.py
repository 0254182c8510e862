"""Bi-Real Net: a shortcut around every binary layer and a surrogate that falls off from 0.

Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved Representational Capability and Advanced
Training Algorithm", ECCV 2018.
"""

from __future__ import annotations

from bitsr.parts.binarizers import ActivationBinarizer, WeightBinarizer
from bitsr.parts.sign import bireal, clip


class BiRealWeight(WeightBinarizer):
    """sign(W) * mean |W| per row; the gradient is aware of the magnitude: it carries the scale."""

    def __init__(self) -> None:
        super().__init__(clip)


class BiRealActivation(ActivationBinarizer):
    """The sign, with the piecewise quadratic surrogate."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels, axis, bireal)
