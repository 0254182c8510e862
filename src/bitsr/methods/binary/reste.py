"""Re-STE: a straight-through estimator that turns into the sign step by step.

Wu et al., "Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator for Binary Neural Networks
Training", ICCV 2023.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from bitsr.parts.binarizers import ActivationBinarizer, WeightBinarizer, row_mean, tensor_mean
from bitsr.parts.sign import reste


def power(progress: float, end: float = 3.0) -> float:
    """o of the surrogate: 1 at first, ``end`` at last, along a quarter of a cosine."""
    return 1 + (1 - math.cos(math.pi * progress / 2)) * (end - 1)


class ReSTEWeight(WeightBinarizer):
    """sign(W) * mean |W| with the gradient of both; the mean is that of the whole tensor (official code) or of each row
    (as it was copied elsewhere)."""

    def __init__(self, end: float = 3.0, scale_of: Literal["tensor", "row"] = "tensor") -> None:
        super().__init__(reste(1.0))
        self.end, self.scale_of = end, scale_of

    def scale(self, weight: Tensor, mask: Tensor | None) -> Tensor:
        return (row_mean if self.scale_of == "row" else tensor_mean)(weight.abs(), mask)

    def on_step(self, step: int, steps: int) -> None:
        self.surrogate = reste(power(step / steps, self.end))


class ReSTEActivation(ActivationBinarizer):
    """The sign, with the same schedule."""

    def __init__(self, channels: int, axis: int, end: float = 3.0) -> None:
        super().__init__(channels, axis, reste(1.0))
        self.end = end

    def on_step(self, step: int, steps: int) -> None:
        self.surrogate = reste(power(step / steps, self.end))
