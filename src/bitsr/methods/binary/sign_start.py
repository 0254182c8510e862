"""Signs, mask and scales of a layer fitted to what the full-precision layer makes of real inputs.

Second-order one-shot compression (SparseGPT, WANDA and GPTQ minimise the same error) for weights of signs, where a
block of M weights has so few states that the best one given all other blocks is found by trying them all:

    1. A threshold per input channel, the best quantizer of one bit for it (Lloyd, Max): a = sign(x - t).
    2. Least squares from signs to targets: W_ls = E[y a^T] E[a a^T]^-1, of centred values; the signs and the mask of
       W_ls are the start.
    3. In turns: the scales of the groups by least squares; every block to its best state.
    4. The bias takes the means.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bitsr.parts.masks import magnitude_mask
from bitsr.parts.sign import bsign
from bitsr.program.binary import patterns

DAMPING = 0.01  # of the mean of the diagonal


class Fitted(NamedTuple):
    """``signs`` (out, in) in -1, 0, +1; ``scale`` (out, groups), not negative; ``wanted`` (out, in), the weights that
    least squares would have; ``bias`` (out)."""

    signs: Tensor
    scale: Tensor
    wanted: Tensor
    bias: Tensor


def lloyd_thresholds(x: Tensor, rounds: int = 10) -> Tensor:
    """For each channel of the rows ``x`` (N, d) the threshold halfway between the means of its two sides."""
    threshold = x.mean(0)
    for _ in range(rounds):
        above = (x >= threshold).to(x.dtype)
        many, few = above.sum(0).clamp_min(1), (1 - above).sum(0).clamp_min(1)
        threshold = ((x * above).sum(0) / many + (x * (1 - above)).sum(0) / few) / 2
    return threshold


def fit_signs(
    inputs: Tensor, target: Tensor, groups: tuple[int, ...], keep: int, block: int, sweeps: int = 4
) -> Fitted:
    """The layer of signs nearest to ``target`` (N, out) on ``inputs`` (N, in) of -1 and +1, in the mean square."""
    a, y = inputs.double(), target.double()
    mean_a, mean_y = a.mean(0), y.mean(0)
    moment = (a - mean_a).T @ (a - mean_a) / len(a)
    moment.diagonal().add_(DAMPING * moment.diagonal().mean().clamp_min(1e-12))
    cross = (y - mean_y).T @ (a - mean_a) / len(a)
    wanted = torch.linalg.solve(moment, cross, left=False)
    signs = bsign(wanted) * magnitude_mask(wanted, keep, block)
    scale = fit_scales(signs, moment, cross, groups)
    for _ in range(sweeps):
        signs = best_blocks(signs, scale, moment, cross, groups, keep, block)
        scale = fit_scales(signs, moment, cross, groups)
    signs = signs * spread(bsign(scale), groups)
    scale = scale.abs()
    bias = mean_y - (signs * spread(scale, groups)) @ mean_a
    return Fitted(signs.float(), scale.float(), wanted.float(), bias.float())


def spread(scale: Tensor, groups: tuple[int, ...]) -> Tensor:
    """(out, groups) -> (out, in)."""
    return scale.repeat_interleave(torch.tensor(groups, device=scale.device), 1)


def fit_scales(signs: Tensor, moment: Tensor, cross: Tensor, groups: tuple[int, ...]) -> Tensor:
    """The scales (out, groups) that minimise the error, row by row: a small linear system each."""
    parts = torch.zeros(len(groups), *signs.shape, dtype=signs.dtype, device=signs.device)
    for part, (start, stop) in zip(parts, _ends(groups), strict=True):
        part[:, start:stop] = signs[:, start:stop]
    parts = parts.transpose(0, 1)  # out x groups x in
    system = parts @ moment @ parts.transpose(1, 2)
    system.diagonal(dim1=1, dim2=2).add_(1e-9)
    return torch.linalg.solve(system, (parts @ cross[:, :, None])).squeeze(2)


def best_blocks(
    signs: Tensor, scale: Tensor, moment: Tensor, cross: Tensor, groups: tuple[int, ...], keep: int, block: int
) -> Tensor:
    """One sweep: block after block takes the state that is best beside all others.  The error never grows."""
    states = torch.from_numpy(patterns(keep, block)).to(moment)  # states x block
    size = spread(scale, groups)
    weight = signs * size
    for start in range(0, weight.shape[1], block):
        here = slice(start, start + block)
        own = moment[here, here]
        rest = weight @ moment[:, here] - weight[:, here] @ own - cross[:, here]
        s = size[:, start : start + 1]
        error = s.square() * ((states @ own) * states).sum(1) + 2 * s * (rest @ states.T)
        weight[:, here] = s * states[error.argmin(1)]
        signs = signs.clone()
        signs[:, here] = states[error.argmin(1)]
    return signs


def latent_weight(fitted: Fitted, groups: tuple[int, ...]) -> Tensor:
    """A weight with these signs and this mask that is as near to the wanted one as it can be: half a scale or more
    where kept, less where not."""
    half = spread(fitted.scale, groups) / 2
    kept = fitted.signs * torch.maximum(fitted.signs * fitted.wanted, half)
    return torch.where(fitted.signs != 0, kept, fitted.wanted.clamp(-0.9 * half, 0.9 * half))


def _ends(groups: tuple[int, ...]) -> list[tuple[int, int]]:
    stops = torch.tensor(groups).cumsum(0).tolist()
    return [(stop - size, stop) for stop, size in zip(stops, groups, strict=True)]
