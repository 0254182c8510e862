"""T-mask: 2:4 along inputs and along outputs at once, so that one mask serves both directions of training.

Hubara et al., "Accelerated Sparse Neural Training: A Provable and Efficient Method to Find N:M Transposable Masks",
NeurIPS 2021; exhaustive search and refreshing as in Hu et al., "Accelerating Transformer Pre-training with 2:4
Sparsity", ICML 2024.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import torch
from torch import Tensor

from bitsr.parts.masks import Masks

TILE, KEPT = 4, 2


@cache
def patterns() -> Tensor:
    """The 90 masks of a 4x4 tile with two ones in each row and each column, 90 x 16, float32."""
    rows = [[i in kept for i in range(TILE)] for kept in combinations(range(TILE), KEPT)]
    tiles = torch.tensor(list(product(rows, repeat=TILE)), dtype=torch.float32)
    return tiles[(tiles.sum(1) == KEPT).all(1)].flatten(1)


def transposable_mask(weight: Tensor) -> Tensor:
    """For each tile of an (out, in) weight the pattern that keeps the largest sum of |w|.

    Raises:
        ValueError: a side is no multiple of 4.
    """
    rows, columns = weight.shape
    if rows % TILE or columns % TILE:
        raise ValueError(f"a weight of {rows}x{columns} is no whole tiles of {TILE}x{TILE}")
    tiles = weight.detach().abs().view(rows // TILE, TILE, columns // TILE, TILE).transpose(1, 2)
    table = patterns().to(weight.device)
    best = (tiles.reshape(-1, TILE * TILE) @ table.T).argmax(1)
    return table[best].view(rows // TILE, columns // TILE, TILE, TILE).transpose(1, 2).reshape(rows, columns).bool()


class TMask(Masks):
    """Refreshed every ``refresh`` training steps."""

    chosen: Tensor

    def __init__(self, weight: Tensor, decay: float = 2e-4, refresh: int = 40) -> None:
        super().__init__(KEPT, TILE, dense_gradient=True, decay=decay)
        self.refresh = refresh
        self.register_buffer("chosen", transposable_mask(weight))

    def mask(self, weight: Tensor) -> Tensor:
        return self.chosen

    def on_step(self, weight: Tensor, step: int, steps: int) -> None:
        if step % self.refresh == 0:
            self.chosen = transposable_mask(weight)
