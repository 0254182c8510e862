"""Where values lie: maps in one arena while some group needs them, tile-local values in the scratch of a thread."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import Any

from bitsr.engine.groups import Group, crossing
from bitsr.engine.ops import Op, Value

ALIGNMENT = 16  # words
Lives = Mapping[Value, tuple[int, int]]  # first and last time of use


@dataclass
class Memory:
    """Offsets in words: of maps in the arena, of local values in the scratch; ``widths`` are those of the latter.

    Values that are parts of others have no place of their own.
    """

    maps: dict[Value, int]
    locals: dict[Value, int]
    widths: dict[Value, int]
    arena_words: int
    scratch_words: int


def place(groups: list[Group], native: Any) -> Memory:
    """Give every value a place that it shares with no value that is needed at the same time."""
    shared = crossing(groups)
    lives = _lives((group.ops for group in groups), shared)
    maps, arena = _first_fit(
        lives, _heirs(groups, lives), lambda v: native.map_words(v.channels, v.height, v.width, v.format, v.border)
    )
    memory = Memory(maps, {}, {}, arena, 0)
    for group in groups:
        here = _lives(([op] for op in group.ops), {v.root for op in group.ops for v in op.touched} - shared)
        width = group.domain.tile_width(native.TILE)
        offsets, top = _first_fit(here, _local_heirs(group.ops, here), partial(_tile_words, native, width))
        memory.locals.update(offsets)
        memory.widths.update(dict.fromkeys(offsets, width))
        memory.scratch_words = max(memory.scratch_words, top)
    return memory


def _tile_words(native: Any, width: int, v: Value) -> int:
    return int(native.tile_words(v.channels, width, v.format))


def _lives(times: Iterable[Iterable[Op]], values: set[Value]) -> dict[Value, tuple[int, int]]:
    """When each of ``values``, or a part of it, is first and last used, in the order of their first use."""
    lives: dict[Value, tuple[int, int]] = {}
    for time, ops in enumerate(times):
        for op in ops:
            lives |= {v.root: (lives.get(v.root, (time, time))[0], time) for v in op.touched if v.root in values}
    return lives


def _local_heirs(ops: list[Op], lives: Lives) -> dict[Value, Value]:
    """Values that are written over the one they are made of, which nothing needs any more."""
    heirs: dict[Value, Value] = {}
    for i, op in enumerate(ops):
        made = op.output
        if made is not None and made in lives:
            for x in op.inputs:
                if x in lives and lives[x][1] == i and x.layout == made.layout and op.may_overwrite(x):
                    heirs[made] = x
    return heirs


def _heirs(groups: list[Group], lives: Lives) -> dict[Value, Value]:
    """Maps that take the place of one that their group reads for the last time, each pixel before it is written."""
    heirs: dict[Value, Value] = {}
    for time, group in enumerate(groups):
        dying = {x.root: i for i, op in enumerate(group.ops) for x in op.inputs if _ends(lives, x.root, time)}
        for op in group.ops:
            for x in op.elsewhere:
                dying.pop(x.root, None)
        for i, op in enumerate(group.ops):
            made = op.output
            if made is None or made not in lives:
                continue
            fitting = [x for x, read in dying.items() if read < i + op.may_overwrite(x) and x.layout == made.layout]
            for x in fitting[:1]:
                heirs[made] = x
                del dying[x]
    return heirs


def _ends(lives: Lives, x: Value, time: int) -> bool:
    """Whether ``x`` was made before ``time`` and is not needed after it."""
    return x in lives and lives[x][0] < time == lives[x][1]


def _first_fit(
    lives: Lives, heirs: Mapping[Value, Value], words: Callable[[Value], int]
) -> tuple[dict[Value, int], int]:
    """An offset for each value, and where they end: the lowest gap that is free for as long as the value lives."""
    offsets: dict[Value, int] = {}
    gaps = [(0, sys.maxsize)]  # start and stop; ascending, never adjacent
    taken: list[tuple[int, int, int]] = []  # last time, start, stop
    inherited = set(heirs.values())
    top = 0
    for value, (first, last) in lives.items():
        while taken and taken[0][0] < first:
            _give_back(gaps, *heappop(taken)[1:])
        size = -(-words(value) // ALIGNMENT) * ALIGNMENT
        if value in heirs:
            start = offsets[heirs[value]]
        else:
            i = next(i for i, (start, stop) in enumerate(gaps) if stop - start >= size)
            start, stop = gaps.pop(i)
            if stop - start > size:
                gaps.insert(i, (start + size, stop))
        offsets[value] = start
        top = max(top, start + size)
        if value not in inherited:
            heappush(taken, (last, start, start + size))
    return offsets, top


def _give_back(gaps: list[tuple[int, int]], start: int, stop: int) -> None:
    i = bisect_left(gaps, (start, stop))
    if i < len(gaps) and gaps[i][0] == stop:
        stop = gaps.pop(i)[1]
    if i > 0 and gaps[i - 1][1] == start:
        i -= 1
        start = gaps.pop(i)[0]
    gaps.insert(i, (start, stop))
