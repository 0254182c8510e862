"""Times of several variants of the same work, taken in turns: what disturbs the machine disturbs all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

TURN = 0.1  # seconds that a variant at least runs before the next one has its turn
PAUSE = 0.02  # seconds between turns, in which thread pools that still spin come to rest
WARM_UP = 2  # runs before anything is timed


@dataclass
class Times:
    """Seconds per run, one entry for each turn: elapsed, and of all threads of the process together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def milliseconds(self) -> dict[str, float]:
        """Median and quartiles of the elapsed time, and the median of CPU time."""
        first, median, third = (float(x) * 1e3 for x in np.percentile(self.wall, (25, 50, 75)))
        return {
            "median_ms": median, "q1_ms": first, "q3_ms": third, "min_ms": min(self.wall) * 1e3,
            "cpu_ms": float(np.median(self.cpu)) * 1e3,
        }  # fmt: skip


def warm_up(run: Callable[[], object]) -> float:
    """Seconds of the last of a few runs."""
    for _ in range(WARM_UP):
        start = time.perf_counter()
        run()
    return time.perf_counter() - start


def interleave(
    runs: Mapping[str, Callable[[], object]], rounds: int, on_turn: Callable[[], None] = lambda: None
) -> dict[str, Times]:
    """Warm every variant up, then let them take turns; short ones run several times a turn, once of it untimed."""
    repeats = {name: max(1, math.ceil(TURN / max(warm_up(run), 1e-6))) for name, run in runs.items()}
    times = {name: Times() for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            if repeats[name] > 1:
                run()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                run()
            times[name].cpu.append((time.process_time() - cpu) / repeats[name])
            times[name].wall.append((time.perf_counter() - wall) / repeats[name])
            on_turn()
    return times
