"""GPTQ (Frantar et al., ICLR 2023; after OBC): round column by column and let the columns that follow absorb the
error.

As a method of its own: grids fixed before by search, the second moment E[x~ x~^T] of the inputs that the quantized
prefix delivers, 1 % damping, columns in descending order of its diagonal, no other correction.  HarmoQ and SVDQuant use
the same step with the covariance (means go to the bias) and a refit of scale and offset.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bitsr.methods.ptq.bounds import Bounds, both_ends, round_to_grid
from bitsr.methods.ptq.config import GPTQ
from bitsr.methods.ptq.pipeline import (
    SYMMETRIC_FROM,
    LayerStep,
    Seen,
    Stage,
    bound_operands,
    centred,
    groups_of,
    layerwise,
    row_grid,
    set_bounds,
)  # fmt: skip
from bitsr.parts.layers import QuantLayer
from bitsr.parts.quantizer import DecidedWeight


def gptq(weight: Tensor, covariance: Tensor, lower: Tensor, step: Tensor, bits: int, damping: float = 0.01) -> Tensor:
    """Codes (rows, d) in 0..2**bits - 1 that nearly minimise tr((W^ - W) C (W^ - W)^T) on the grid lower + step *
    code.

    ``weight`` (rows, d); ``covariance`` C (d, d), of the *quantized* inputs; ``lower`` and ``step`` (rows, 1).
    Columns are taken in descending order of C's diagonal.  ``damping`` is relative to the mean of the diagonal;
    dead columns round to the nearest.
    """
    levels = 2**bits - 1
    c = covariance.double().clone()
    diagonal = c.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1.0
    diagonal += damping * diagonal.mean()
    order = torch.argsort(covariance.diagonal(), descending=True)
    c = c[order][:, order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(c))
    factor = torch.linalg.cholesky(inverse, upper=True)
    work = weight.double()[:, order].clone()
    low, size = lower.double(), step.double()
    codes = torch.empty_like(work)
    for j in range(work.shape[1]):
        code = round_to_grid(work[:, j : j + 1], low, size, levels)
        codes[:, j : j + 1] = code
        error = (work[:, j : j + 1] - (low + size * code)) / factor[j, j]
        work[:, j + 1 :] -= error * factor[j, j + 1 :]
    return codes[:, torch.argsort(order)].to(torch.uint8)


def refit(
    codes: Tensor, target: Tensor, covariance: Tensor, symmetric: bool, bits: int
) -> tuple[Tensor, Tensor | None]:
    """Least-squares (scale, mid) of each row, given its codes, under the covariance's norm: a 2x2 (or 1x1) system
    per row."""
    c = covariance.double()
    p = codes.double() - 2 ** (bits - 1)
    w = target.double()
    pc = p @ c
    pp, pw = (pc * p).sum(1), (pc * w).sum(1)
    if symmetric:
        return (pw / pp.clamp_min(1e-30)).float(), None
    p1, oo, ow = pc.sum(1), c.sum().expand_as(pp), (w @ c).sum(1)
    determinant = pp * oo - p1 * p1
    safe = determinant > 1e-9 * pp * oo
    determinant = torch.where(safe, determinant, torch.ones_like(determinant))
    scale = torch.where(safe, (pw * oo - p1 * ow) / determinant, torch.zeros_like(pp))
    mid = torch.where(safe, (pp * ow - p1 * pw) / determinant, ow / oo.clamp_min(1e-30))
    return scale.float(), mid.float()


RowSearch = Callable[..., Bounds]  # with a keyword ``weight`` of the columns


def round_with_gptq(
    damping: float, centre: bool = True, refitted: bool = True, search: RowSearch = both_ends
) -> LayerStep:
    """GPTQ towards the layer's weights on the quantized input.

    ``centre``: under the covariance, which leaves means to a bias correction, not the second moment.  ``refitted``:
    scale and offset are fitted again once the codes are known.  ``search``: of each row's first grid.
    """

    def step(layer: QuantLayer, seen: Seen) -> None:
        if layer.w_bits >= 16:
            return
        flat = layer.weight.detach().flatten(1)
        symmetric = layer.w_bits >= SYMMETRIC_FROM
        codes = torch.empty_like(flat, dtype=torch.uint8)
        scale, mid = flat.new_empty(flat.shape[0]), flat.new_zeros(flat.shape[0])
        quantized = seen.quantized(layer)
        inputs = centred(quantized) if centre else quantized
        for rows, columns in groups_of(layer):
            x = inputs[:, columns].double()
            damped = x.T @ x / len(x)
            damped.diagonal().add_(damping * damped.diagonal().mean())
            lower, size = row_grid(flat[rows], layer.w_bits, partial(search, weight=damped.diagonal().float()))
            codes[rows] = gptq(flat[rows], damped, lower, size, layer.w_bits, 0.0)
            scale[rows], middle = size.flatten(), (lower + 2 ** (layer.w_bits - 1) * size).flatten()
            if refitted:
                scale[rows], middle = refit(codes[rows], flat[rows], damped, symmetric, layer.w_bits)
            if middle is not None:
                mid[rows] = middle
        layer.decided = DecidedWeight(layer.w_bits, codes.view(layer.weight.shape), scale, None if symmetric else mid)

    return step


def stages(config: GPTQ) -> list[Stage]:
    rounding = round_with_gptq(config.damping, centre=False, refitted=False)
    steps, operands = [set_bounds(both_ends), rounding], bound_operands(both_ends)
    return [layerwise(steps, operands, config.groups, config.samples)]
