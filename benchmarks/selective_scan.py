"""CPU seconds and memory of the scan in chunks beside the plain recurrence: rows of results/selective_scan.csv.

python benchmarks/selective_scan.py --out results/selective_scan.csv

48 channels with 8 states each, as in MambaIRv2-light; one thread; every row in a process of its own.  ``peak_mib`` is
what a run adds to the process's peak resident memory.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from bitsr.archs.selective_scan import selective_scan, sequential_scan

CHANNELS, STATES = 48, 8
SCANS = {"chunks": selective_scan, "sequential": sequential_scan}


def inputs(length: int, gradients: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x, delta = torch.randn(2, 1, length, CHANNELS)
    b, c = torch.randn(2, 1, length, STATES)
    decay = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    made = [x, F.softplus(delta - 3), decay, b, c, torch.ones(CHANNELS)]
    return [v.clone().requires_grad_(gradients) for v in made]


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(scan: str, length: int, gradients: bool) -> tuple[float, float]:
    """(CPU seconds, MiB) of one pass, after a small one that loads what torch loads late."""
    torch.set_num_threads(1)

    def run(values: list[torch.Tensor]) -> None:
        y = SCANS[scan](*values)
        if gradients:
            y.square().sum().backward()

    run(inputs(64, gradients))
    values = inputs(length, gradients)
    before, start = peak_mib(), time.process_time()
    run(values)
    return time.process_time() - start, peak_mib() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096, 16384, 65536])
    parser.add_argument("--out", type=Path, default=Path("results/selective_scan.csv"))
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["scan", "tokens", "backward", "cpu_seconds", "peak_mib"])
        for length in options.lengths:
            for gradients in (False, True):
                for scan in SCANS:
                    with context.Pool(1) as pool:
                        seconds, mib = pool.apply(measure, (scan, length, gradients))
                    writer.writerow([scan, length, gradients, f"{seconds:.3f}", f"{mib:.0f}"])
                    file.flush()
                    print(scan, length, gradients, f"{seconds:.3f} s, {mib:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
