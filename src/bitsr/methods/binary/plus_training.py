"""Training of BSSR+: the start of its layers of signs, and their learning rates."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bitsr.methods.binary.bssr_plus import BSSRPlusLinear
from bitsr.methods.binary.config import BSSRPlus
from bitsr.methods.binary.training import SignTraining
from bitsr.methods.ptq.pipeline import to_batches
from bitsr.methods.ptq.samples import collect
from bitsr.methods.ptq.scope import execution_order
from bitsr.methods.trained import LRCrops
from bitsr.parts.pointwise import pointwise_as_linears

ROWS = 8192  # positions that a layer is fitted to


class PlusTraining(SignTraining):
    """BSSR+ on every linear."""

    config: BSSRPlus
    linear = BSSRPlusLinear

    def __init__(self, config: BSSRPlus, crops: LRCrops, seed: int) -> None:
        super().__init__(config)
        self.crops, self.seed = crops, seed

    def prepare(self, model: nn.Module) -> nn.Module:
        student = super().prepare(model)
        if self.config.start == "least_squares":
            self.fit(model, student)
        return student

    def rebuild(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        student = super().prepare(model)
        student.load_state_dict(state)
        return student

    @torch.no_grad()
    def fit(self, teacher: nn.Module, student: nn.Module) -> None:
        """Layer after layer, on the inputs that the layers of signs before it give."""
        crops = self.crops(self.config.calibration, self.config.calibration_size)
        device = next(student.parameters()).device
        batches = [b.to(device) for b in to_batches(crops, getattr(teacher, "descriptor", None))]
        teacher = copy.deepcopy(teacher).eval()
        if self.config.pointwise:
            pointwise_as_linears(teacher)
        student.eval()
        names = [n for n in execution_order(teacher, batches[0][:1]) if _is_plus(student, n)]
        wanted = collect(teacher, names, batches, ROWS, seed=self.seed)[0]
        for name in names:
            seen = collect(student, [name], batches, ROWS, seed=self.seed)[0][name].rows
            layer = student.get_submodule(name)
            assert isinstance(layer, BSSRPlusLinear)
            layer.fit(seen, teacher.get_submodule(name)(wanted[name].rows))
        student.train()


def _is_plus(student: nn.Module, name: str) -> bool:
    return isinstance(student.get_submodule(name), BSSRPlusLinear)
