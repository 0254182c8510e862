"""SR-STE: masks by magnitude, gradients to all weights, and a pull to zero on those that are not kept.

Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021, eq. 9.
"""

from __future__ import annotations

from bitsr.parts.masks import Masks


class SRSTE(Masks):
    """``decay``: 2e-4 in the official code, made for SGD.  Adam normalizes it: any constant > 0 acts alike."""

    def __init__(self, keep: int = 2, block: int = 4, decay: float = 2e-4) -> None:
        super().__init__(keep, block, dense_gradient=True, decay=decay)
