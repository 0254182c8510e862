"""Means over runs that differ in nothing but their seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from bitsr.evaluation.tables.row import Row


def mean_over_seeds(rows: Iterable[Row]) -> list[Row]:
    """One row for each group of rows of one file that differ in seed and figures alone; other rows stay as they are."""
    groups: dict[Row, list[Row]] = defaultdict(list)
    for row in rows:
        groups[replace(row, seed="", psnr_y=None, ssim_y=None, file_bytes=None, seconds=None)].append(row)
    return [row for group in groups.values() for row in (merged(group) if several_seeds(group) else group)]


def several_seeds(group: Sequence[Row]) -> bool:
    """Whether each row has a seed of its own."""
    return len(group) > 1 and len({row.seed for row in group}) == len(group)


def merged(group: Sequence[Row]) -> list[Row]:
    """The mean of every figure, where all of them have it."""
    psnr = [row.psnr_y for row in group if row.psnr_y is not None]
    sizes = mean([row.file_bytes for row in group])
    row = replace(
        group[0],
        setting=", ".join(part for part in (group[0].setting, f"mean of {len(group)} seeds") if part),
        seed="",
        spread=(max(psnr) - min(psnr)) / 2 if psnr else None,
        psnr_y=mean([row.psnr_y for row in group]),
        ssim_y=mean([row.ssim_y for row in group]),
        file_bytes=None if sizes is None else round(sizes),
        seconds=mean([row.seconds for row in group]),
    )
    return [row]


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
