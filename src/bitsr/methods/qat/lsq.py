"""Learned step size quantization: LSQ (Esser et al., ICLR 2020) with the offsets of LSQ+ (Bhalgat et al., CVPRW 2020).

    x^ = s * clip(rint((x - o) / s), 0, n) + o,   n = 2^b - 1,
    dx^/ds = q - (x - o)/s inside the range, 0 below, n above;   dx^/do = 1 outside the range, 0 inside;   dx^/dx = 1
    inside, 0 outside,
with the gradients of s and o scaled by g = 1 / sqrt(N Q): N elements share a step, Q levels lie on one side.
Activations have one (s, o) per tensor, weights one per output channel; weights of 8 bits are symmetric, as in
post-training quantization, on whose layers, bits and bounds this starts.

Steps are learned as gains on their start, and offsets in steps, so that one learning rate suits all of them.  Adam
divides by the size of a gradient, so that with it g matters only to a clipped norm.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.best import scale_rows
from bitsr.methods.ptq.config import Best, PTQConfig
from bitsr.methods.ptq.pipeline import begin, needs_integer_zero
from bitsr.methods.qat.config import LSQ
from bitsr.methods.registry import METHODS, stages_of
from bitsr.methods.trained import LRCrops
from bitsr.methods.training_method import FullPrecision
from bitsr.parts.layers import QuantLayer, QuantMatMul, quantized_layers
from bitsr.parts.quantizer import AffineQuantizer, DecidedWeight, quantize, usable_bounds

LEAST_GAIN = 1e-3
OPERANDS = ("quantizer", "quantizer_a", "quantizer_b")  # of layers and of products of activations


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, with its gradient multiplied by ``factor``."""
    return (x - x * factor).detach() + x * factor


class LearnedGrid(nn.Module):
    """Steps and lower ends of grids of 2**bits levels, relative to a start; one grid, or one per row of a weight.

    ``shifted``: whether the lower end is learned as well; else it stays the same number of steps below zero.
    """

    start_step: Tensor
    start_lower: Tensor

    def __init__(self, bits: int, lower: Tensor, step: Tensor, *, shifted: bool, integer_zero: bool) -> None:
        super().__init__()
        self.bits, self.integer_zero = bits, integer_zero
        self.register_buffer("start_lower", lower.detach().clone())
        self.register_buffer("start_step", step.detach().clone())
        self.gain = nn.Parameter(torch.ones_like(self.start_step))
        self.shift = nn.Parameter(torch.zeros_like(self.start_step)) if shifted else None

    @property
    def levels(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def bounds(self, gradient: float = 1.0) -> tuple[Tensor, Tensor]:
        """(lower, upper), with gradients to gain and shift multiplied by ``gradient``."""
        gain = scale_gradient(self.gain, gradient).clamp_min(LEAST_GAIN)
        if self.shift is None:
            lower = self.start_lower * gain
        else:
            lower = self.start_lower + self.start_step * scale_gradient(self.shift, gradient)
        return usable_bounds(lower, lower + self.levels * self.start_step * gain, self.levels, self.integer_zero)


class LearnedQuantizer(nn.Module):
    """LSQ+ of a feature map."""

    def __init__(self, start: AffineQuantizer) -> None:
        super().__init__()
        lower, step = start.grid()
        self.grid = LearnedGrid(start.bits, lower, step, shifted=True, integer_zero=start.integer_zero)

    def frozen(self) -> AffineQuantizer:
        """The quantizer as it is now; what lowering packs."""
        lower, upper = self.grid.bounds()
        return AffineQuantizer(self.grid.bits, lower.detach(), upper.detach(), self.grid.integer_zero)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.frozen()(x)
        gradient = 1 / math.sqrt(x.numel() * self.grid.levels)
        return quantize(x.float(), *self.grid.bounds(gradient), self.grid.levels)


class LearnedWeight(nn.Module):
    """LSQ of a weight, row by row; with offsets (LSQ+) where the weight that it starts from has mids."""

    def __init__(self, start: DecidedWeight) -> None:
        super().__init__()
        self.bits = start.bits
        self.middle = 2 ** (start.bits - 1)
        column = (-1,) + (1,) * (start.codes.ndim - 1)
        self.grid = LearnedGrid(
            start.bits,
            start.lower.view(column),
            start.scale.view(column),
            shifted=start.mid is not None,
            integer_zero=False,
        )

    @torch.no_grad()
    def frozen(self, weight: Tensor) -> DecidedWeight:
        """The weight as codes; what lowering packs."""
        lower, upper = self.grid.bounds()
        step = (upper - lower) / self.grid.levels
        codes = ((weight - lower) / step).round().clamp(0, self.grid.levels)
        mid = None if self.grid.shift is None else (lower + self.middle * step).flatten()
        return DecidedWeight(self.bits, codes, step.flatten(), mid)

    def forward(self, weight: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.frozen(weight)()
        gradient = 1 / math.sqrt(weight[0].numel() * (self.middle - 1))
        return quantize(weight, *self.grid.bounds(gradient), self.grid.levels)


class LearnedSteps(FullPrecision):
    """The training method: all weights, biases and norms, and every step and offset."""

    def __init__(self, config: LSQ, crops: LRCrops, seed: int) -> None:
        self.config, self.crops, self.seed = config, crops, seed

    @property
    def start(self) -> PTQConfig:
        """The post-training method that gives the bounds to start from."""
        kind, shared = METHODS[self.config.start], self.config.shared
        return Best(**shared, learn_steps=0) if kind is Best else kind(**shared)

    def prepare(self, model: nn.Module) -> nn.Module:
        config, start = self.config, self.start
        work = begin(model, self.crops(config.calibration, config.calibration_size), start, self.seed)
        for stage in stages_of(start):
            stage(work)
        for layer in work.layers.values():
            for name in OPERANDS:
                if isinstance(quantizer := getattr(layer, name, None), AffineQuantizer):
                    setattr(layer, name, LearnedQuantizer(quantizer))
            if isinstance(layer, QuantLayer) and layer.decided is not None:
                layer.weight_quantizer = LearnedWeight(layer.decided)
                layer.weight.data = latent(layer.weight, layer.decided, layer.weight_quantizer)
                layer.decided = None
        return work.student.requires_grad_(True).train()

    def rebuild(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        work = begin(model, self.crops(1, self.config.calibration_size), self.start, self.seed)
        if isinstance(self.start, Best):
            scale_rows(work)
        for name, layer in work.layers.items():
            equip(layer, parts_of(state, f"{name}."))
        work.student.load_state_dict(state)
        return work.student.requires_grad_(True).train()

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        grids = [p for m in model.modules() if isinstance(m, LearnedGrid) for p in m.parameters()]
        known = set(grids)
        others = [p for p in model.parameters() if p not in known]
        return [
            {"params": others, "lr_factor": 1.0},
            {"params": grids, "lr_factor": self.config.step_rate, "weight_decay": 0.0},
        ]

    def freeze(self, model: nn.Module) -> nn.Module:
        frozen = copy.deepcopy(model).requires_grad_(False).eval()
        for layer in quantized_layers(frozen).values():
            for name in OPERANDS:
                if isinstance(quantizer := getattr(layer, name, None), LearnedQuantizer):
                    setattr(layer, name, quantizer.frozen())
            if isinstance(layer, QuantLayer) and isinstance(layer.weight_quantizer, LearnedWeight):
                layer.decided = layer.weight_quantizer.frozen(layer.weight)
                layer.weight = nn.Parameter(layer.decided().detach())
                layer.weight_quantizer = None
        frozen.compression = {"method": "lsq", **asdict(self.config), "seed": self.seed}  # type: ignore[assignment]
        return frozen.requires_grad_(False)


def parts_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, which is left out."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def equip(layer: QuantLayer | QuantMatMul, state: Mapping[str, Tensor]) -> None:
    """Give a new layer the parts that the state dict of a prepared one has tensors for; their numbers do not matter."""
    padded = isinstance(layer, QuantLayer) and needs_integer_zero(layer)
    for name in OPERANDS:
        if grid := parts_of(state, f"{name}.grid."):
            lower, upper = grid["start_lower"], grid["start_lower"] + grid["start_step"]
            setattr(layer, name, LearnedQuantizer(AffineQuantizer(layer.a_bits, lower, upper, padded)))
    if isinstance(layer, QuantLayer):
        layer.input_scale = state.get("input_scale")
        layer.bias = nn.Parameter(state["bias"]) if "bias" in state else None
        if grid := parts_of(state, "weight_quantizer.grid."):
            scale, codes = grid["start_step"].flatten(), torch.zeros_like(layer.weight)
            mid = scale if "shift" in grid else None
            layer.weight_quantizer = LearnedWeight(DecidedWeight(layer.w_bits, codes, scale, mid))


@torch.no_grad()
def latent(weight: Tensor, decided: DecidedWeight, quantizer: LearnedWeight) -> Tensor:
    """A floating-point weight that rounds to the decided codes: the weight itself where it does, the grid elsewhere."""
    return decided.latent(weight, quantizer.frozen(weight).codes)
