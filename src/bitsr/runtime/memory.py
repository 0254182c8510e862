"""How many pixels are run at a time: what a program holds per LR pixel, against what the machine has free.

Networks that tiles do not change run in a modest amount of memory on the native engine, unless the tiles' overlap would
cost much more work.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from bitsr.program.dataflow import maps_of, releases
from bitsr.program.program import Program
from bitsr.program.shapes import map_shapes
from bitsr.runtime.tiles import overlap_of

SHARE = 0.5  # of the free memory is used
COPIES = 3  # of the maps that a step reads and writes, as its working space
MODEST = 60 << 20  # bytes of the native engine's maps, for networks that may be tiled
LEAST_CORE = 8  # side of a tile's core over its overlap, whatever that takes
PROBE = 240  # side of the picture that is counted; a multiple of the usual windows


def input_pixels_that_fit(program: Program, arena_bytes: Callable[[int, int], int] | None = None) -> int:
    """Number of LR pixels that one run of the program should take, with at most half of the free memory.

    ``arena_bytes`` is the native engine's count for a picture of some height and width, where that engine runs.
    """
    each = bytes_per_pixel(program) if arena_bytes is None else arena_bytes(PROBE, PROBE) / PROBE**2
    most = SHARE * available_bytes() / each
    if arena_bytes is not None and program.descriptor.tiling != "global":
        most = min(most, max(MODEST / each, ((LEAST_CORE + 2) * overlap_of(program.descriptor)) ** 2))
    return max(1, int(most))


def available_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can be had without swapping, in bytes: of the machine, or of the control group, a container for
    example, if that is less."""
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such group, or its limit is the word max
        return _of_the_machine()
    return min(_of_the_machine(), max(0, limit - used))


def _of_the_machine() -> int:
    """Half of the whole where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return 2 << 30


def bytes_per_pixel(program: Program) -> float:
    """Peak of what is alive at one step, in bytes per LR pixel.

    Counted are the float32 feature maps that a later step still reads, and `COPIES` more of what the step itself
    reads and writes: codes, padded and shifted maps, integer sums.
    """
    shapes = map_shapes(program, PROBE, PROBE)
    size = {name: 4 * math.prod(shape) / PROBE**2 for name, shape in shapes.items()}
    alive, peak = {program.input}, size[program.input]
    for step, released in zip(program.steps, releases(program), strict=True):
        alive.add(step.output)
        touched = {*maps_of(step), step.output}
        peak = max(peak, sum(size[name] for name in alive) + COPIES * sum(size[name] for name in touched))
        alive -= set(released)
    return peak
