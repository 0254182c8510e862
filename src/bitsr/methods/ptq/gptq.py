"""GPTQ (Frantar et al., ICLR 2023; after OBC): round column by column and let the columns that follow absorb the
error."""

from __future__ import annotations

import torch
from torch import Tensor

from bitsr.methods.ptq.bounds import round_to_grid


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
