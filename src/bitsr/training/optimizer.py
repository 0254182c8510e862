"""Adam and AdamW over a method's parameter groups."""

from __future__ import annotations

from typing import Any

import torch

from bitsr.training.recipe import Recipe
from bitsr.training.schedule import learning_rate

KINDS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """``groups`` carry ``lr_factor``; their own ``weight_decay`` or ``betas`` stay."""
    kind = KINDS[recipe.optimizer]
    betas = (recipe.betas[0], recipe.betas[1])
    return kind(groups, recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    """The rate of ``step`` in every group."""
    rate = learning_rate(recipe, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
