"""Scales that several neighbouring input channels of one weight row share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Tiling = Literal["ragged", "balanced", "row", "flat"]


def group_sizes(width: int, size: int, block: int, tiling: Tiling = "ragged") -> tuple[int, ...]:
    """How many of the ``width`` inputs of a row each scale serves; every group holds whole blocks of an N:M mask.

    Args:
        width: inputs of a row, a multiple of ``block``.
        size: inputs of a full group, a multiple of ``block``.
        tiling: 'ragged' fills groups in order and leaves a shorter one at the end; 'balanced' takes as many groups,
            whose sizes differ by one block at most; 'row' is one group per row.

    Raises:
        ValueError: the numbers do not divide, or ``tiling`` is 'flat', whose groups do not end with the row.
    """
    if width % block or size % block:
        raise ValueError(f"rows of {width} inputs in groups of {size} are no whole blocks of {block}")
    if tiling == "row":
        return (width,)
    if tiling == "ragged":
        return tuple(min(size, width - start) for start in range(0, width, size))
    if tiling == "balanced":
        blocks, groups = width // block, -(-width // size)
        return tuple(block * (blocks // groups + (i < blocks % groups)) for i in range(groups))
    raise ValueError(f"groups by tiling {tiling!r} have no sizes: they run on over the end of a row")


class ScaleGroups(nn.Module):
    """Which scale serves which weight of a (rows x width) matrix: statistics of the kept weights, group by group."""

    labels: Tensor

    def __init__(self, rows: int, width: int, size: int, block: int, tiling: Tiling = "ragged") -> None:
        super().__init__()
        if tiling == "flat":
            self.sizes: tuple[int, ...] | None = None
            labels = (torch.arange(rows * width) // size).view(rows, width)
        else:
            self.sizes = group_sizes(width, size, block, tiling)
            within = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
            labels = torch.arange(rows)[:, None] * len(self.sizes) + within
        self.register_buffer("labels", labels, persistent=False)
        self.count = int(labels.max()) + 1

    def mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """The mean of the kept ``values`` of each group, written to every place of the group.

        ``values`` are (rows, width) or, for a convolution, (rows, width, kh, kw): a group then spans all taps.  Sums
        are in double precision: the mean of equal weights is their value, and the sign of what is left of them +1.
        """
        labels = self.labels.view(*self.labels.shape, *[1] * (values.ndim - 2)).expand_as(values)
        flat, kept = labels.flatten(), mask.to(values.dtype)
        none = torch.zeros(self.count, dtype=torch.float64, device=values.device)
        sums = none.index_add(0, flat, (values * kept).flatten().double())
        counts = none.index_add(0, flat, kept.flatten().double())
        return (sums / counts).to(values.dtype)[labels]
