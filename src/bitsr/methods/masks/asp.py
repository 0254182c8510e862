"""ASP: prune a trained network once by magnitude and train on with that mask.

Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021.
"""

from __future__ import annotations

from torch import Tensor

from bitsr.parts.masks import Masks, magnitude_mask


class ASP(Masks):
    """The mask of the first weight that is seen, for good."""

    chosen: Tensor

    def __init__(self, weight: Tensor, keep: int = 2, block: int = 4) -> None:
        super().__init__(keep, block, dense_gradient=False)
        self.register_buffer("chosen", magnitude_mask(weight, keep, block))

    def mask(self, weight: Tensor) -> Tensor:
        return self.chosen
