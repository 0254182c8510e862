"""N:M sparsity: of every ``block`` neighbouring inputs of a weight row, ``keep`` are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def magnitude_mask(weight: Tensor, keep: int, block: int) -> Tensor:
    """True for the ``keep`` largest |w| of each block of ``block`` neighbouring inputs; among equals the first is kept.

    Linears (out, in) and convolutions (out, in, kh, kw) are both masked along their inputs.

    Raises:
        ValueError: the inputs are no whole blocks.
    """
    inputs = weight.shape[1]
    if inputs % block:
        raise ValueError(f"{inputs} inputs are no whole blocks of {block}")
    last = weight.detach().movedim(1, -1)
    blocks = last.reshape(-1, block).abs()
    order = blocks.sort(dim=1, descending=True, stable=True).indices
    mask = torch.zeros_like(blocks, dtype=torch.bool).scatter_(1, order[:, :keep], True)
    return mask.view(last.shape).movedim(-1, 1)


class _Prune(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor, latent: Tensor, dense: bool, decay: float) -> Tensor:
        ctx.save_for_backward(mask, latent)
        ctx.dense, ctx.decay = dense, decay
        return values * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        mask, latent = ctx.saved_tensors
        pull = ctx.decay * latent * ~mask if ctx.needs_input_grad[2] and ctx.decay else None
        return grad if ctx.dense else grad * mask, None, pull, None, None


def prune(values: Tensor, mask: Tensor, latent: Tensor, *, dense_gradient: bool, decay: float) -> Tensor:
    """``values`` where kept, 0 elsewhere.

    Backwards, ``values`` get the gradient everywhere (``dense_gradient``) or only where kept, and the ``latent`` weight
    that they were made of is pulled to zero where it is not kept: decay * (1 - mask) * latent is added to its gradient.
    """
    result: Tensor = _Prune.apply(values, mask, latent, dense_gradient, decay)
    return result


class Masks(nn.Module):
    """Chooses which weights of one layer are kept.  Here: by magnitude, anew in every forward pass.

    Attributes:
        dense_gradient: whether weights that are not kept get the gradient of the loss.
        decay: what pulls them to zero, see :func:`prune`.
    """

    def __init__(self, keep: int = 2, block: int = 4, *, dense_gradient: bool = True, decay: float = 0.0) -> None:
        super().__init__()
        if not 0 < keep <= block:
            raise ValueError(f"{keep} of {block} weights cannot be kept")
        self.keep, self.block = keep, block
        self.dense_gradient, self.decay = dense_gradient, decay

    def mask(self, weight: Tensor) -> Tensor:
        """bool, in the shape of ``weight``."""
        return magnitude_mask(weight, self.keep, self.block)

    def latent(self, weight: Tensor, mask: Tensor) -> Tensor:
        """What a binarizer is given in the place of ``weight``."""
        return weight

    def pruned(self, values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """``values`` made of ``weight``, without those that are not kept."""
        return prune(values, mask, weight, dense_gradient=self.dense_gradient, decay=self.decay)

    def backward_weight(self, weight: Tensor, mask: Tensor, effective: Tensor) -> Tensor | None:
        """The weight that the gradient of the input is computed with, where that is not ``effective`` itself."""
        return None

    def on_step(self, weight: Tensor, step: int, steps: int) -> None:
        """Before the forward pass of each training step."""

    def extra_repr(self) -> str:
        return f"{self.keep}:{self.block}, dense_gradient={self.dense_gradient}, decay={self.decay}"
