"""What a compression method that trains tells the training loop.

student = method.prepare(model)                                # once; a resumed run: method.rebuild(model, state)
method.on_step(student, step, steps); loss + method.extra_loss(student); optimizer(method.parameter_groups(student))
small = method.freeze(student)                                 # for validation, and in the end
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class TrainingMethod(Protocol):
    """The hooks, in the order in which the loop calls them.

    A method holds its config and nothing else: whatever changes during training is a parameter or a buffer of the
    prepared model, or follows from ``step``, so that a run resumed from the model's state dict is the same run.
    """

    def prepare(self, model: nn.Module) -> nn.Module:
        """A trainable copy of ``model`` whose layers are replaced by compressed ones; equal calls give equal ones."""

    def rebuild(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        """As `prepare`, but with the numbers of ``state``, the state dict of a network that was prepared from
        ``model``: nothing is calibrated or fitted again."""

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """For the optimizer: ``params``, ``lr_factor`` relative to the recipe's rate, and whatever else it takes."""

    def on_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Before the forward of step 0..steps-1: annealing, renewal of masks."""

    def extra_loss(self, model: nn.Module) -> Tensor | None:
        """Added to the loss, after the forward; a scalar."""

    def masks(self, model: nn.Module) -> list[Tensor]:
        """Which weights are kept as things stand, bool, layer by layer; empty where none are left out.  The log says
        how fast they change."""

    def left_out(self, model: nn.Module) -> list[str]:
        """Names of the layers that the method leaves as they were though it takes their kind, for the report."""

    def freeze(self, model: nn.Module) -> nn.Module:
        """A copy that can be lowered, saved and evaluated; ``model`` can be trained on."""


class FullPrecision:
    """Training without compression; methods that need only some of the hooks inherit the others from here."""

    def prepare(self, model: nn.Module) -> nn.Module:
        return copy.deepcopy(model).requires_grad_(True).train()

    def rebuild(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        student = self.prepare(model)
        student.load_state_dict(state)
        return student

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr_factor": 1.0}]

    def on_step(self, model: nn.Module, step: int, steps: int) -> None:
        pass

    def extra_loss(self, model: nn.Module) -> Tensor | None:
        return None

    def masks(self, model: nn.Module) -> list[Tensor]:
        return []

    def left_out(self, model: nn.Module) -> list[str]:
        return []

    def freeze(self, model: nn.Module) -> nn.Module:
        return copy.deepcopy(model).requires_grad_(False).eval()
