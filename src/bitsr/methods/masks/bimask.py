"""Bi-Mask: N:M for the forward pass, and another mask for the gradient of the input, N:M along the outputs.

Zhang et al., "Bi-directional Masks for Efficient N:M Sparse Training", ICML 2023.  The second mask makes the backward
pass sparse on hardware that could use it; here it only reproduces what that does to the training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsr.parts.masks import Masks, magnitude_mask


def backward_mask(weight: Tensor, mask: Tensor, permutation: Tensor, keep: int, block: int) -> Tensor:
    """Those kept weights that are also among the ``keep`` largest of ``block`` outputs in the permuted order."""
    kept = (weight.detach() * mask)[permutation]
    along_outputs = magnitude_mask(kept.transpose(0, 1), keep, block).transpose(0, 1)
    return along_outputs[permutation.argsort()] & mask


def best_permutation(weight: Tensor, mask: Tensor, candidates: list[Tensor], keep: int, block: int) -> Tensor:
    """The candidate under which most weights survive both masks; the first among equals."""
    survivors = [int(backward_mask(weight, mask, p, keep, block).sum()) for p in candidates]
    return candidates[survivors.index(max(survivors))]


class BiMask(Masks):
    """Every ``interval`` steps the best of ``candidates`` permutations of the outputs is taken, which torch's generator
    draws."""

    permutation: Tensor

    def __init__(
        self, weight: Tensor, keep: int = 2, block: int = 4, decay: float = 2e-4, interval: int = 100,
        candidates: int = 10,
    ) -> None:  # fmt: skip
        super().__init__(keep, block, dense_gradient=True, decay=decay)
        if weight.shape[0] % block:
            raise ValueError(f"{weight.shape[0]} outputs are no whole blocks of {block}")
        self.interval, self.candidates = interval, candidates
        self.register_buffer("permutation", torch.arange(weight.shape[0]))

    def backward_weight(self, weight: Tensor, mask: Tensor, effective: Tensor) -> Tensor | None:
        return effective * backward_mask(weight, mask, self.permutation, self.keep, self.block)

    def on_step(self, weight: Tensor, step: int, steps: int) -> None:
        if step % self.interval == 0:
            candidates = [torch.randperm(len(weight)).to(weight.device) for _ in range(self.candidates)]
            self.permutation = best_permutation(weight, self.mask(weight), candidates, self.keep, self.block)
