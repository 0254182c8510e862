"""Losses between pictures, and distillation from a full-precision teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitsr.errors import ConfigError
from bitsr.training.recipe import Distillation

CHARBONNIER_EPS = 1e-3


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (output - target).abs().mean()


def charbonnier(output: Tensor, target: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + eps^2): L1 with a round bottom (Lai et al., 2017)."""
    return ((output - target).square() + CHARBONNIER_EPS**2).sqrt().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "charbonnier": charbonnier}


def relative_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """|s - t|^2 / |t|^2, so that layers count alike whatever their range."""
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)


class Watch:
    """Keeps what the modules ``names`` of a network gave in its last forward."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self.seen: dict[str, Tensor] = {}
        modules = dict(network.named_modules())
        for name in names:
            if name not in modules:
                raise ConfigError(f"distill: {type(network).__name__} has no module {name!r}")
            modules[name].register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.seen[name] = output

        return keep


class Distiller:
    """The loss of a student against its teacher, on the same input."""

    def __init__(self, options: Distillation, teacher: nn.Module, student: nn.Module) -> None:
        self.options = options
        self.teacher = teacher.requires_grad_(False).eval()
        self.watched = Watch(self.teacher, options.layers), Watch(student, options.layers)

    def __call__(self, lr: Tensor, output: Tensor) -> Tensor:
        """``output`` is what the student just gave for ``lr``."""
        with torch.no_grad():
            target = self.teacher(lr)
        loss = self.options.output * l1(output, target.float())
        for name, expected in self.watched[0].seen.items():
            distance = relative_distance(self.watched[1].seen[name].float(), expected.float())
            loss = loss + self.options.features / len(self.options.layers) * distance
        return loss
