"""Training of BSSR+: the start of its layers of signs, and their learning rates."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bitsr.methods.binary.bssr_plus import BSSRPlusLinear
from bitsr.methods.binary.config import BSSRPlus
from bitsr.methods.binary.training import SignTraining
from bitsr.methods.ptq.pipeline import to_batches
from bitsr.methods.ptq.samples import collect, positions, rows_of
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
        """Layer after layer, on the inputs that the layers of signs before it give: in one pass of all crops, in which
        every layer is fitted where it first runs."""
        crops = self.crops(self.config.calibration, self.config.calibration_size)
        device = next(student.parameters()).device
        pictures = torch.cat(to_batches(crops, getattr(teacher, "descriptor", None))).to(device)
        teacher = copy.deepcopy(teacher).eval()
        if self.config.pointwise:
            pointwise_as_linears(teacher)
        names = [n for n in execution_order(teacher, pictures[:1]) if _is_plus(student, n)]
        wanted = collect(teacher, names, [pictures], ROWS, seed=self.seed)[0]
        with contextlib.ExitStack() as until_fitted:
            for name in names:
                layer = student.get_submodule(name)
                target = teacher.get_submodule(name)(wanted[name].rows)
                hook = layer.register_forward_pre_hook(self.fitting(name, target))
                until_fitted.callback(hook.remove)
            student.eval()(pictures)
        student.train()

    def fitting(self, name: str, target: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """A hook that fits the layer to ``target``, the rows that `collect` finds, at its first call."""
        fitted = False

        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal fitted
            assert isinstance(layer, BSSRPlusLinear)
            if not fitted:
                seen = rows_of(layer, inputs[0], ROWS, positions(name, 0, self.seed))
                layer.fit(seen, target[: len(seen)])
            fitted = True

        return hook


def _is_plus(student: nn.Module, name: str) -> bool:
    return isinstance(student.get_submodule(name), BSSRPlusLinear)
