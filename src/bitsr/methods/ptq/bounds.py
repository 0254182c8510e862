"""Bounds of activations and weight rows: MinMax, Percentile, DOBI (2DQuant, Algorithm 1), and a search of both ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Bounds = tuple[Tensor, Tensor]
Search = Callable[[Tensor, int], Bounds]  # (..., n) -> lower and upper of shape (..., 1)


def round_to_grid(v: Tensor, lower: Tensor, step: Tensor, levels: int) -> Tensor:
    """Codes 0..levels (as floats) of the nearest points of the grid lower + step * code."""
    return ((v - lower) / step).round().clamp(0, levels)


def minmax(v: Tensor, bits: int = 8) -> Bounds:
    """The extremes of the last axis; ``bits`` does not matter."""
    return v.amin(-1, keepdim=True), v.amax(-1, keepdim=True)


def percentile(v: Tensor, bits: int = 8, tail: float = 1e-3) -> Bounds:
    """The ``tail`` and 1 - ``tail`` quantiles of the last axis (order statistics, no interpolation)."""
    n = v.shape[-1]
    skip = min(int(tail * n), (n - 1) // 2)
    ordered = v.sort(dim=-1).values
    return ordered[..., skip : skip + 1], ordered[..., n - 1 - skip : n - skip]


def one_sided(v: Tensor) -> bool:
    """Whether all but a small part of the range lies above zero, as in softmax maps and after GELU or ReLU."""
    return bool(v.min() >= -0.2 * v.max())


Found = tuple[Tensor, Tensor, Tensor]  # least error so far, and the lower and upper bounds that give it


def least_error(
    v: Tensor, bits: int, pairs: Iterable[Bounds], found: Found, weight: Tensor | None = None, power: float = 2.0
) -> Found:
    """``found``, or what among ``pairs`` has a smaller sum of |error|**power, along the last axis; the first of equals
    wins.  ``weight`` weighs the elements."""
    levels = 2**bits - 1
    least, lower, upper = found
    for bottom, top in pairs:
        step = (top - bottom) / levels
        if not (step > 0).any():
            continue
        grid = step.clamp_min(1e-12)
        error = ((v - bottom) / grid).round_().clamp_(0, levels).mul_(grid).add_(bottom).sub_(v)
        error = error.square_() if power == 2 else error.abs_().pow_(power)
        error = (error if weight is None else error * weight).sum(-1, keepdim=True)
        better = (error < least) & (step > 0)
        least = torch.where(better, error, least)
        lower, upper = torch.where(better, bottom, lower), torch.where(better, top, upper)
    return least, lower, upper


def nothing_found(low: Tensor, high: Tensor) -> Found:
    """The extremes, before any pair was tried."""
    return torch.full_like(low, torch.inf), low, high


def dobi(
    v: Tensor, bits: int, candidates: int = 100, from_below: bool | None = None, weight: Tensor | None = None
) -> Bounds:
    """Distribution-oriented bound initialization: the candidate range with the least squared error, along the last
    axis.

    Bell-shaped tensors shrink from both ends by range / (2 K) a step; one-sided ones keep the minimum and lower the
    upper bound by range / K a step (the paper prints range / 2K and a plus sign; its code has this).
    ``from_below`` None decides from the data; in 2DQuant's code it is never set.  ``weight`` weighs the elements
    (the diagonal of the input's covariance). The first candidate of least error wins.
    """
    if from_below is None:
        from_below = v.ndim == 1 and one_sided(v)
    low, high = minmax(v)
    shares = [i * (high - low) / candidates for i in range(candidates)]
    pairs = ((low, high - s) if from_below else (low + s / 2, high - s / 2) for s in shares)
    return least_error(v, bits, pairs, nothing_found(low, high), weight)[1:]


BINS = 2048
COARSE, FINE, ROUNDS = 16, 8, 8


def condensed(v: Tensor) -> tuple[Tensor, Tensor]:
    """(values, counts) that stand for the elements of ``v``: the means of a histogram's bins, and how many fell into
    each."""
    low, high = v.min(), v.max()
    bins = ((v - low) * (BINS / (high - low).clamp_min(1e-30))).long().clamp_max(BINS - 1)
    counts, sums = torch.bincount(bins), torch.bincount(bins, weights=v)
    filled = counts > 0
    return (sums[filled] / counts[filled]).to(v.dtype), counts[filled].to(v.dtype)


def both_ends(v: Tensor, bits: int, weight: Tensor | None = None) -> Bounds:
    """The pair of bounds with the least squared error along the last axis, each end free; but a tensor without
    negative elements keeps its minimum, as products with attention maps sum many weights near zero.

    DOBI moves both ends alike, so a range with a long tail on one side keeps the tail or loses the other side (inputs
    of RFDN's `c.0`: -19..7 with some calibration crops, -82..6 with others).  Here `COARSE` places of each end are
    tried, and then, `ROUNDS` times, `FINE` places of each around the best pair so far, the distances halved.  A single
    tensor is searched as the histogram it makes.  ``weight`` as in `dobi`.
    """
    low, high = minmax(v)
    from_below = v.ndim == 1 and bool(low >= 0)
    if v.ndim == 1 and weight is None:
        v, weight = condensed(v)
    found = nothing_found(low, high)
    tops = [low + (high - low) * i / (COARSE - 1) for i in range(COARSE)]
    bottoms = [low] if from_below else tops
    reach = 1.5 * (high - low) / (COARSE - 1)
    for _ in range(1 + ROUNDS):
        found = least_error(v, bits, itertools.product(bottoms, tops), found, weight)
        _, lower, upper = found
        offsets = [reach * (2 * i / (FINE - 1) - 1) for i in range(FINE)]
        tops = [(upper + offset).clamp(low, high) for offset in offsets]
        bottoms = [low] if from_below else [(lower + offset).clamp(low, high) for offset in offsets]
        reach = reach / 2
    return lower, upper


def shrunk(v: Tensor, bits: int, candidates: int = 80, power: float = 2.4) -> Bounds:
    """The extremes times 1 - 0.01 i, i < ``candidates``, with the least sum of |error|**2.4: what BRECQ and QDrop
    start from, AdaRound with a power of 2."""
    low, high = minmax(v)
    pairs = ((low * (1 - 0.01 * i), high * (1 - 0.01 * i)) for i in range(candidates))
    return least_error(v, bits, pairs, nothing_found(low, high), power=power)[1:]
