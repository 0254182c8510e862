"""Structural residual calibration (HarmoQ, SRC) in every reading that its formula allows.

The paper minimises E|H (W delta + D x)|^2 + lambda |D|^2 with delta = x~ - x and a "structural" H, and prints
D = -W S_dx H^T (H S_xx H^T + lambda I)^-1, whose shapes do not fit.  Each function here is the exact minimiser of one
reading; all take the weight W (out, d) and the second moments that they need.  ``ridge`` is lambda relative to the mean
diagonal of the moment that is inverted.  With H = I on the *quantized* input the problem is linear in D and the
structure term is not needed: that is HarmoQ's default here (`exact`); the others are options, and measured.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reading = Literal[
    "exact", "printed", "sylvester", "subspace", "random_subspace", "laplacian", "sobel", "dct", "learned", "random",
    "mix", "none",
]  # fmt: skip
SPATIAL = ("laplacian", "sobel", "dct", "learned", "random", "mix")
MIX = 0.25  # rho: weight of the Laplacian term beside the plain one
SUBSPACE = 0.5  # share of the input's directions that the subspace readings keep (the paper: k = 64 or 128)
SIDE = 8  # of the tiles on which spatial filters work, as the windows of SwinIR and the paper's DCT


def solve(moment: Tensor, right: Tensor, ridge: float) -> Tensor:
    """right (moment + lambda I)^-1."""
    damped = moment.clone()
    damped.diagonal().add_(ridge * moment.diagonal().mean().clamp_min(1e-12))
    return torch.cholesky_solve(right.T, torch.linalg.cholesky(damped)).T


# ---- H = I ---------------------------------------------------------------------------------------------------------


def exact(weight: Tensor, x: Tensor, quantized: Tensor, ridge: float) -> Tensor:
    """R1: argmin E|W x - (W + D) x~|^2 + lambda |D|^2 = -W E[delta x~^T] (E[x~ x~^T] + lambda I)^-1.

    Nothing is neglected: the error of the quantized weight itself is the business of rounding.
    """
    delta = quantized - x
    return solve(quantized.T @ quantized, -weight @ (delta.T @ quantized), ridge)


def printed(weight: Tensor, x: Tensor, quantized: Tensor, ridge: float) -> Tensor:
    """As printed with H = I: regresses on x, not on what the layer will be given, and so amplifies its noise."""
    delta = quantized - x
    return solve(x.T @ x, -weight @ (delta.T @ x), ridge)


# ---- H on channels -------------------------------------------------------------------------------------------------


def channel_laplacian(m: int) -> Tensor:
    """(m, m): the second difference over the channel index.  Channels have no order, so it means nothing; it is the
    literal reading."""
    h = -2 * torch.eye(m, dtype=torch.float64)
    return h + torch.diag(torch.ones(m - 1, dtype=torch.float64), 1) + torch.diag(torch.ones(m - 1).double(), -1)


def sylvester(weight: Tensor, x: Tensor, quantized: Tensor, ridge: float, h: Tensor) -> Tensor:
    """R2: H (k, out) on output channels, argmin E|H (W delta + D x~)|^2 + lambda |D|^2.

    H^T H D S + lambda D = -H^T H C with S = E[x~ x~^T], C = W E[delta x~^T]: diagonal in the eigenvectors of H^T H and
    S.  For lambda -> 0 and invertible H^T H it is R1 whatever H is.
    """
    c = weight @ ((quantized - x).T @ quantized)
    moment = quantized.T @ quantized
    a, u = torch.linalg.eigh(h.T @ h)
    sigma, v = torch.linalg.eigh(moment)
    penalty = ridge * moment.diagonal().mean().clamp_min(1e-12)
    return -u @ (a[:, None] * (u.T @ c @ v) / (a[:, None] * sigma + penalty)) @ v.T


def subspace(weight: Tensor, x: Tensor, quantized: Tensor, ridge: float, h: Tensor) -> Tensor:
    """R2': H (k, d) reads k features of the input, D = G H with G the ridge regression on them: the least repair of
    the printed line.  With the leading eigenvectors of E[x~ x~^T] as H it is R1 of reduced rank."""
    features = quantized @ h.T
    return solve(features.T @ features, -weight @ ((quantized - x).T @ features), ridge) @ h


def leading_directions(quantized: Tensor, k: int) -> Tensor:
    """(k, d): the eigenvectors of E[x~ x~^T] with the largest eigenvalues."""
    return torch.linalg.eigh(quantized.T @ quantized).eigenvectors[:, -k:].T


def random_directions(d: int, k: int) -> Tensor:
    """(k, d), orthonormal rows, always the same."""
    full = torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(full).Q[:k]


# ---- H in space ----------------------------------------------------------------------------------------------------


def kernels(kind: str, tiles: Tensor) -> Tensor:
    """(filters, 3, 3) of a spatial reading; 'learned' are the principal components of 3x3 neighbourhoods after the
    first, which is the mean."""
    if kind in ("laplacian", "mix"):
        return torch.tensor([[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]], dtype=torch.float64)
    if kind == "sobel":
        sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
        return torch.stack([sobel, sobel.T])
    if kind == "random":
        return torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    around = F.unfold(tiles.permute(0, 3, 1, 2).flatten(0, 1)[:4096, None], 3).transpose(1, 2).reshape(-1, 9)
    around = around - around.mean(0)
    return torch.linalg.eigh(around.T @ around).eigenvectors[:, -5:-1].T.reshape(4, 3, 3)


def dct_matrix(n: int) -> Tensor:
    """Orthonormal DCT-II (n, n)."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis


def filtered(kind: str, tiles: Tensor, bank: Tensor | None = None) -> Tensor:
    """Rows (M, d) of ``tiles`` (N, 8, 8, d) after a spatial filter: its valid interior, or the frequencies u + v >= 4
    of the 8x8 DCT."""
    n, side, _, d = tiles.shape
    if kind == "dct":
        basis = dct_matrix(side).to(tiles)
        frequencies = torch.einsum("ua,vb,nabd->nuvd", basis, basis, tiles)
        order = torch.arange(side)
        return frequencies[:, order[:, None] + order >= 4].flatten(0, 1)
    assert bank is not None
    maps = tiles.permute(0, 3, 1, 2).reshape(n * d, 1, side, side)
    return F.conv2d(maps, bank[:, None].to(tiles)).view(n, d, -1).transpose(1, 2).flatten(0, 1)


def spatial(weight: Tensor, x_tiles: Tensor, quantized_tiles: Tensor, ridge: float, kind: str) -> Tensor:
    """R3: L filters positions and commutes with W, argmin E|W L delta + D L x~|^2 + lambda |D|^2: R1 on filtered
    inputs.  A filter without DC leaves the mean of the error to the bias, and cares for nothing else either."""
    bank = None if kind == "dct" else kernels(kind, x_tiles)
    return exact(weight, filtered(kind, x_tiles, bank), filtered(kind, quantized_tiles, bank), ridge)


def mixed(weight: Tensor, rows: tuple[Tensor, Tensor], tiles: tuple[Tensor, Tensor], ridge: float) -> Tensor:
    """R3-mix: the moments of R1 plus rho times those behind the Laplacian, each as a mean over its samples."""
    bank = kernels("laplacian", tiles[0])
    far = [filtered("laplacian", t, bank) for t in tiles]
    share = math.sqrt(MIX * len(rows[0]) / len(far[0]))
    joined = [torch.cat([near, share * high]) for near, high in zip(rows, far, strict=True)]
    return exact(weight, joined[0], joined[1], ridge)


# ---- choice --------------------------------------------------------------------------------------------------------


def correction(
    reading: Reading, weight: Tensor, x: Tensor, quantized: Tensor, ridge: float,
    tiles: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """D of ``reading``, float32.  ``x``, ``quantized`` (N, d), means removed; ``tiles``: the same two on 8x8 tiles
    (N, 8, 8, d), which the spatial readings need; where a layer has none (its input is no map), they are `exact`."""
    w, x, quantized = weight.double(), x.double(), quantized.double()
    k = max(1, int(SUBSPACE * weight.shape[1]))
    if tiles is None and reading in SPATIAL:
        reading = "exact"
    match reading:
        case "none":
            return torch.zeros_like(weight)
        case "exact":
            found = exact(w, x, quantized, ridge)
        case "printed":
            found = printed(w, x, quantized, ridge)
        case "sylvester":
            found = sylvester(w, x, quantized, ridge, channel_laplacian(len(w)).to(w.device))
        case "subspace":
            found = subspace(w, x, quantized, ridge, leading_directions(quantized, k))
        case "random_subspace":
            found = subspace(w, x, quantized, ridge, random_directions(w.shape[1], k).to(w.device))
        case "mix":
            assert tiles is not None
            found = mixed(w, (x, quantized), (tiles[0].double(), tiles[1].double()), ridge)
        case _:
            assert tiles is not None
            found = spatial(w, tiles[0].double(), tiles[1].double(), ridge, reading)
    return found.float()
