"""SVDQuant (Li et al., ICLR 2025): a low-rank branch in floating point takes what is hard to quantize.

Outliers move from activations to weights (SmoothQuant's scales), the ``rank`` largest singular components of the
scaled weight become two thin layers on the unquantized input, and only the rest is quantized, here with GPTQ:
y = L1 (L2 x) + Q(W - L1 L2) Q(x) + b.  The paper's rank 32 is for widths of 3000; at a width of 60 a rank of 4 costs
9 % of the multiplications.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.bounds import both_ends
from bitsr.methods.ptq.config import SVDQuant
from bitsr.methods.ptq.gptq import round_with_gptq
from bitsr.methods.ptq.pipeline import (
    LayerStep,
    Seen,
    Stage,
    bound_operands,
    correct_bias,
    layerwise,
    row_scale,
    set_bounds,
)  # fmt: skip
from bitsr.methods.ptq.smoothquant import migrate
from bitsr.parts.layers import QuantConv2d, QuantLayer


def low_rank(weight: Tensor, rank: int, root: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """L1 (out, r) and L2 (r, d): the best approximation of ``weight`` (out, d), under the norm |W root| where a
    square root of the input's second moment (d, d) is given."""
    seen = weight.double() if root is None else weight.double() @ root
    u, s, v = torch.linalg.svd(seen, full_matrices=False)
    left, right = u[:, :rank] * s[:rank].sqrt(), s[:rank].sqrt()[:, None] * v[:rank]
    if root is not None:
        right = torch.linalg.solve(root, right, left=False)
    return left.float(), right.float()


def second_moment_root(x: Tensor) -> Tensor:
    """A lower triangular root of E[x x^T], a little damped."""
    moment = x.double().T @ x.double() / len(x)
    moment.diagonal().add_(1e-3 * moment.diagonal().mean().clamp_min(1e-12))
    return torch.linalg.cholesky(moment)


def thin_layers(layer: QuantLayer, left: Tensor, right: Tensor) -> nn.Sequential:
    """x -> L1 (L2 x), on the layer's own input: its input scale is in L2."""
    scale = row_scale(layer)
    right = right if scale is None else right * scale
    rank = len(right)
    down: nn.Module
    up: nn.Module
    if isinstance(layer, QuantConv2d):
        geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        down = nn.Conv2d(layer.in_channels, rank, *geometry, bias=False)  # type: ignore[arg-type]
        up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    else:
        down, up = nn.Linear(right.shape[1], rank, bias=False), nn.Linear(rank, len(left), bias=False)
    down.weight.data, up.weight.data = right.view_as(down.weight).clone(), left.view_as(up.weight).clone()
    return nn.Sequential(down, up).requires_grad_(False)


def branch_off(rank: int, weighted: bool) -> LayerStep:
    """The low-rank part leaves the weight for a branch.  Not at 8 bit, where nothing is hard; not for grouped
    convolutions; not where the two thin layers would be as large as the one."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        flat = layer.weight.detach().flatten(1)
        grouped = isinstance(layer, QuantConv2d) and layer.groups > 1
        if layer.w_bits >= 8 or grouped or rank * sum(flat.shape) >= flat.numel():
            return
        left, right = low_rank(flat, rank, second_moment_root(seen.x) if weighted else None)
        layer.branch = thin_layers(layer, left, right)
        layer.weight.data = (flat - left @ right).view_as(layer.weight)
        seen.weight = layer.weight.detach().clone()
        seen.target = seen.target - seen.x @ (left @ right).T

    return step


def stages(config: SVDQuant) -> list[Stage]:
    steps: list[LayerStep] = [
        set_bounds(both_ends),
        branch_off(config.rank, config.weighted),
        round_with_gptq(config.damping),
        correct_bias,
    ]
    smoothing = migrate(config.strength, unfolded=True, samples=config.samples)
    return [smoothing, layerwise(steps, bound_operands(both_ends), config.groups, config.samples)]
