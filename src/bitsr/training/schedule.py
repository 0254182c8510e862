"""Learning rates as functions of the step: nothing to keep, nothing to resume."""

from __future__ import annotations

import math

from bitsr.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of step 0..steps-1: a linear rise over ``warmup`` steps times the schedule."""
    rise = min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else 1.0
    if recipe.schedule == "multistep":
        return rise * recipe.lr * recipe.gamma ** sum(step >= milestone for milestone in recipe.milestones)
    fall = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return rise * (recipe.lr_end + (recipe.lr - recipe.lr_end) * fall)
