"""One benchmark: files and peers are prepared, timed in turns, and each measured once more for its memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.bench.case import Case, network_pictures, open_case
from bitsr.bench.job import Job, Run, load
from bitsr.bench.memory import peak_rss_mib
from bitsr.bench.peers import PEERS, Variant, ours
from bitsr.bench.timing import interleave
from bitsr.errors import BitsrError
from bitsr.format import is_packed
from bitsr.program.reference import run as run_reference


@dataclass(frozen=True)
class Entry:
    """A variant that is loaded and ran; ``network`` is the file of its network that peers run."""

    network: str
    case: Case
    variant: Variant
    job: Job
    run: Run
    agreement_db: float


@dataclass
class Report:
    """``results``: one dictionary a variant, see :func:`row`; ``skipped``: what could not be measured, and why."""

    results: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


def bench(
    files: Sequence[Path], height: int, width: int, *, threads: int, rounds: int, backends: Sequence[str],
    peers: Sequence[Variant], on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Report:  # fmt: skip
    """Measure every backend on every file, beside the peers.

    Files of the same network (a checkpoint and what was packed from it) are timed in the same turns, and peers run the
    checkpoint, or else the first of them.  ``on_step`` is called with (done, of how many): preparations, turns,
    measurements of memory.

    Raises:
        BitsrError: a file cannot be read, or nothing could be measured.
    """
    groups: dict[Any, list[Case]] = {}
    for path in files:
        case = open_case(path, height, width)
        groups.setdefault(case.network(), []).append(case)
    plans = [_plan(sorted(cases, key=_nearness), backends, peers) for cases in groups.values()]
    done, total = count(1), sum(map(len, plans)) * (rounds + 2)
    report = Report()
    for plan in plans:
        with TemporaryDirectory(prefix="bitsr-bench-") as folder:
            _measure(plan, Path(folder), threads, rounds, report, lambda: on_step(next(done), total))
    if not report.results:
        reasons = "; ".join(f"{entry['backend']}: {entry['reason']}" for entry in report.skipped)
        raise BitsrError(f"nothing could be measured ({reasons or 'no backend and no peer is chosen'})")
    return report


def _nearness(case: Case) -> tuple[bool, bool]:
    """A checkpoint goes before a packed file in floating point, and that before one of codes."""
    return case.is_quantized, is_packed(case.name)


def _plan(cases: Sequence[Case], backends: Sequence[str], peers: Sequence[Variant]) -> list[tuple[Case, Variant]]:
    """What is measured of one network; the first case is that which peers run."""
    plan = [(case, ours(backend)) for case in cases for backend in backends]
    plan += [(cases[0], variant) for variant in peers if not variant.of_codes]
    return plan + [(case, variant) for case in cases if case.is_quantized for variant in peers if variant.of_codes]


def _measure(
    plan: Sequence[tuple[Case, Variant]], folder: Path, threads: int, rounds: int, report: Report,
    on_step: Callable[[], None],
) -> None:  # fmt: skip
    """Time one network and add its rows to the report."""
    if not plan:
        return
    first = plan[0][0]
    (picture,) = network_pictures(first.program.descriptor, first.height, first.width, 1)
    expected = run_reference(first.twin, picture)
    entries: dict[str, Entry] = {}
    places = {case: folder / str(number) for number, case in enumerate(dict.fromkeys(case for case, _ in plan))}
    for place in places.values():
        place.mkdir()
    for case, variant in plan:
        try:
            job, run, decibels = _ready(case, variant, places[case], threads, picture, expected)
            entries[f"{variant.name} of {case.name}"] = Entry(first.name, case, variant, job, run, decibels)
        except Exception as error:  # whatever is wrong with one runtime must not stop the others
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            report.skipped.append({"model": case.name, "backend": variant.name, "reason": reason})
        on_step()
    bound = {name: partial(entry.run, _as_taken(picture, entry.job)) for name, entry in entries.items()}
    times = interleave(bound, rounds, on_step)
    measured = []
    for name, entry in entries.items():
        measured.append((entry, times[name].milliseconds(), _memory(entry, report)))
        on_step()
    medians = {entry.variant.name: numbers["median_ms"] for entry, numbers, _ in measured if not is_ours(entry.variant)}
    report.results += [row(entry, numbers, memory, medians) for entry, numbers, memory in measured]


def _ready(
    case: Case,
    variant: Variant,
    folder: Path,
    threads: int,
    picture: NDArray[np.float32],
    expected: NDArray[np.float32],
) -> tuple[Job, Run, float]:
    """Prepare and load a variant, run it once and see how near its output is to the network's in fp32."""
    with _quiet():
        file = variant.prepare(case, folder)
    job = Job(variant.loader, str(file), case.height, case.width, case.program.channels, threads, variant.option)
    run = load(job)
    made = run(_as_taken(picture, job))
    made = made[0].transpose(1, 2, 0) if job.planes else made
    if made.shape != expected.shape:
        raise BitsrError(f"gives a picture of {made.shape}, not {expected.shape}")
    return job, run, agreement(made, expected)


@contextmanager
def _quiet() -> Iterator[None]:
    """Runtimes that report their progress on stdout, or warn of what was meant so, are not heard."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def agreement(made: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """PSNR in dB of one output against another, both in [0, 1]; 200 where they are equal."""
    error = float(np.mean((made.astype(np.float64) - expected) ** 2))
    return min(200.0, -10 * float(np.log10(error))) if error > 0 else 200.0


def is_ours(variant: Variant) -> bool:
    return variant.loader == "ours"


def _as_taken(picture: NDArray[np.float32], job: Job) -> NDArray[np.float32]:
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None]) if job.planes else picture


def _memory(entry: Entry, report: Report) -> float | None:
    try:
        return peak_rss_mib(entry.job)
    except BitsrError as error:
        reason = f"peak memory: {error}"
        report.skipped.append({"model": entry.case.name, "backend": entry.variant.name, "reason": reason})
        return None


def row(entry: Entry, numbers: dict[str, float], memory: float | None, peers: dict[str, float]) -> dict[str, Any]:
    """The result of one variant.

    All is measured: ``median_ms``, ``q1_ms``, ``q3_ms`` and ``min_ms`` elapsed, ``cpu_ms`` the median over all threads,
    ``peak_rss_mib`` of a fresh process, ``agreement_db`` the PSNR of its output against the fp32 network's.  A ratio
    above 1 means faster than ``eager``, or than the fastest peer; ``peers`` are the medians of the peers.
    """
    median = numbers["median_ms"]
    eager, best = peers.get(PEERS["eager"][0].name), min(peers.values(), default=None)
    return {
        "network": entry.network,
        "model": entry.case.name,
        "backend": entry.variant.name,
        "ours": is_ours(entry.variant),
        "threads": entry.job.threads,
        "size": f"{entry.case.width}x{entry.case.height}",
        **{name: round(value, 3) for name, value in numbers.items()},
        "peak_rss_mib": None if memory is None else round(memory, 1),
        "ratio_vs_eager": None if eager is None else round(eager / median, 3),
        "ratio_vs_best_peer": None if best is None else round(best / median, 3),
        "agreement_db": round(entry.agreement_db, 2),
    }
