"""S-STE: a 2:4 projection that is continuous in the weights.

Hu et al., "S-STE: Continuous Pruning Function for Efficient 2:4 Sparse Pre-training", NeurIPS 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsr.parts.masks import Masks


def soft_threshold(weight: Tensor, block: int = 4, keep: int = 2) -> Tensor:
    """sign(w) (|w| - t) for the ``keep`` largest of each block, 0 elsewhere; t is the largest |w| that is not kept."""
    if keep >= block:
        raise ValueError("a soft threshold needs a weight that is not kept")
    last = weight.movedim(1, -1)
    size = last.reshape(-1, block).abs()
    threshold = size.sort(1, descending=True).values[:, keep : keep + 1]
    soft = (size - threshold).clamp(min=0).view(last.shape) * last.sign()
    return soft.movedim(-1, 1)


class SSTE(Masks):
    """beta S(W) in the place of W; beta = <W, S(W)> / <S(W), S(W)> is that of the first weight, the gradient passes
    straight through."""

    beta: Tensor

    def __init__(self, weight: Tensor, keep: int = 2, block: int = 4) -> None:
        super().__init__(keep, block, dense_gradient=True)
        soft = soft_threshold(weight.detach(), block, keep)
        self.register_buffer("beta", (weight.detach() * soft).sum() / soft.square().sum().clamp(min=1e-30))

    def latent(self, weight: Tensor, mask: Tensor) -> Tensor:
        soft = self.beta * soft_threshold(weight.detach(), self.block, self.keep)
        return weight + (soft - weight).detach() if torch.is_grad_enabled() else soft
