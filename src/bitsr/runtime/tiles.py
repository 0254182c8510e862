"""Large pictures in tiles that overlap, so that the result has no seams.

Each tile runs with ``reach`` LR pixels of its surroundings and gives only its core to the result.  For networks that
see no further ("exact") this equals the whole picture's result.  Networks with windows want tiles that begin at
window borders. Networks with a global layer change their output when tiled: then the change is measured on the
central tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError, PictureError

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Span(NamedTuple):
    """One tile along one axis, in LR pixels: the core start..stop-1 is kept of the run over first..last-1."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Difference:
    """What tiling changed on the central tile, against the same tile run with more surroundings (both measured).

    ``psnr`` in dB between the two; ``largest`` difference in grey levels of 0..255.
    """

    psnr: float
    largest: float

    def __str__(self) -> str:
        return f"{self.psnr:.1f} dB to a run with more surroundings, at most {self.largest:.1f}/255"


@dataclass(frozen=True)
class Tiling:
    """How a picture was run: number of tiles, LR side of their cores (0: in one piece).

    ``changes``: the network has a global layer, so tiling changed its result, by ``difference`` where that could be
    measured.
    """

    tiles: int = 1
    side: int = 0
    changes: bool = False
    difference: Difference | None = None

    def __str__(self) -> str:
        if self.tiles == 1:
            return "in one piece"
        text = f"in {self.tiles} tiles of {self.side}x{self.side}"
        return f"{text}; tiling changed the result: {self.difference or 'not measured'}" if self.changes else text


def run_tiled(
    network: Network, x: NDArray[np.float32], descriptor: Descriptor, tile: int | Literal["auto"], most_pixels: int
) -> tuple[NDArray[np.float32], Tiling]:
    """Run ``network`` over the HxWxC map ``x``; returns the (H scale)x(W scale)xC result and how it came about.

    ``tile`` is the side of a tile's core in LR pixels (rounded up to the descriptor's ``multiple``).  "auto" runs the
    picture whole if it has at most ``most_pixels``, else in as few equal tiles as have, with their overlap, no more.
    When memory runs out the tile is halved; `PictureError` is raised when even the smallest does not fit.
    """
    if tile != "auto" and tile < 1:
        raise ConfigError(f"a tile needs a side of at least 1, got {tile}")
    height, width = x.shape[:2]
    step = descriptor.multiple
    if tile != "auto":
        side = math.ceil(tile / step) * step
    elif height * width <= most_pixels:
        side = max(height, width)
    else:
        side = _largest_side(height, width, descriptor, most_pixels)

    while True:
        try:
            if side >= max(height, width):
                return network(x), Tiling()
            return _run_grid(network, x, descriptor, side, most_pixels)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if side <= step or side == 1:
                raise PictureError(f"memory does not suffice, even in tiles of {side}x{side} pixels") from error
            side = max(step, min(side, max(height, width)) // 2 // step * step)


def overlap_of(descriptor: Descriptor) -> int:
    """LR pixels around a core: the reach, rounded up to whole windows."""
    return math.ceil(descriptor.reach / descriptor.multiple) * descriptor.multiple


def _largest_side(height: int, width: int, descriptor: Descriptor, most_pixels: int) -> int:
    """Side of the cores when the longer side is cut into as few equal parts as ``most_pixels`` allow."""
    longest, step = max(height, width), descriptor.multiple
    for parts in range(2, longest // step + 1):
        side = math.ceil(longest / parts / step) * step
        rows, columns = (max(s.last - s.first for s in spans(n, side, descriptor)) for n in (height, width))
        if rows * columns <= most_pixels:
            return side
    return step


def spans(length: int, side: int, descriptor: Descriptor) -> list[Span]:
    """Tiles along an axis of ``length`` pixels; the cores of ``side`` (a multiple of the window) do not overlap."""
    step, overlap = descriptor.multiple, overlap_of(descriptor)
    result = []
    for start in range(0, length, side):
        stop = min(start + side, length)
        first, last = max(0, start - overlap), min(length, stop + overlap)
        if last - first < descriptor.min_size:  # take more surroundings where there are some
            first = max(0, min(first, last - descriptor.min_size)) // step * step
            last = min(length, max(last, first + math.ceil(descriptor.min_size / step) * step))
        result.append(Span(start, stop, first, last))
    return result


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of NumPy or torch says that memory ran out."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


def _run_grid(
    network: Network, x: NDArray[np.float32], descriptor: Descriptor, side: int, most_pixels: int
) -> tuple[NDArray[np.float32], Tiling]:
    height, width, scale = *x.shape[:2], descriptor.scale
    grid = list(product(spans(height, side, descriptor), spans(width, side, descriptor)))
    out: NDArray[np.float32] | None = None
    for rows, columns in grid:
        core = _core(network, x, rows, columns, scale)
        if out is None:
            out = np.empty((height * scale, width * scale, core.shape[2]), np.float32)
        out[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale] = core
        del core  # with the rest of its tile, before the next one runs
    assert out is not None
    changes, difference = descriptor.tiling == "global", None
    if changes:
        difference = _difference(network, x, out, *_central(grid, height, width), descriptor, most_pixels)
    return out, Tiling(len(grid), side, changes, difference)


def _core(network: Network, x: NDArray[np.float32], rows: Span, columns: Span, scale: int) -> NDArray[np.float32]:
    y = network(np.ascontiguousarray(x[rows.first : rows.last, columns.first : columns.last]))
    top, left = (rows.start - rows.first) * scale, (columns.start - columns.first) * scale
    return y[top : top + (rows.stop - rows.start) * scale, left : left + (columns.stop - columns.start) * scale]


def _central(grid: list[tuple[Span, Span]], height: int, width: int) -> tuple[Span, Span]:
    return min(
        grid,
        key=lambda tile: math.hypot(tile[0].start + tile[0].stop - height, tile[1].start + tile[1].stop - width),
    )


def _difference(
    network: Network,
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    rows: Span,
    columns: Span,
    descriptor: Descriptor,
    most_pixels: int,
) -> Difference | None:
    """Run one tile again with up to twice the side, as memory allows, and compare what it gives.  Windows stay where
    they were."""
    scale, unit = descriptor.scale, descriptor.multiple
    sides = rows.last - rows.first, columns.last - columns.first
    growth = min(1.0, math.sqrt(most_pixels / (sides[0] * sides[1])) - 1)
    wide = []
    for span, side, length in zip((rows, columns), sides, x.shape[:2], strict=True):
        more_of = int(growth * side / 2) // unit * unit
        wide.append(span._replace(first=max(0, span.first - more_of), last=min(length, span.last + more_of)))
    if growth <= 0 or wide == [rows, columns]:
        return None
    try:
        more = _core(network, x, wide[0], wide[1], scale)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    less = out[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
    error_map = np.clip(more, 0, 1).astype(np.float64) - np.clip(less, 0, 1)
    mse = float(np.mean(error_map**2))
    return Difference(-10 * math.log10(mse) if mse > 0 else math.inf, 255 * float(np.abs(error_map).max()))
