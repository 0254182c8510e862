"""Fills the table of docs/binary.md on networks of signs after 5000 steps from results/binary.csv."""

from __future__ import annotations

import statistics

from results_page import ROOT, SETS, fill
from rows import Table

KIND = {"model": "swinir_2x2_x4_long", "steps": "5000", "batch": "4", "crop": "16"}
FULL = "full precision"
HEADER = "| method, after 5000 steps | rate (of) | hold-out | " + " | ".join(SETS) + " | KiB | paper, Set5 |"

Rows = list[dict[str, str]]


def cells(rows: Rows, full: dict[str, float], paper: str) -> list[str]:
    """Of one line: the hold-out of each seed, on each set the mean of seeds and its gap to full precision."""
    seeds = sorted({(row["seed"], f"{float(row['holdout_psnr_y']):.2f}") for row in rows})
    line = [", ".join(holdout for _, holdout in seeds)]
    for dataset in SETS:
        psnr = mean(rows, dataset)
        line.append(f"{psnr:.2f}" + ("" if rows[0]["method"] == FULL else f" ({psnr - full[dataset]:+.2f})"))
    return [*line, f"{int(rows[0]['bytes']) / 1024:.0f}", paper]


def mean(rows: Rows, dataset: str) -> float:
    """PSNR of all seeds."""
    return statistics.mean(float(row["psnr_y"]) for row in rows if row["dataset"] == dataset)


def at_best_rate(rows: Rows, tried: Rows) -> tuple[str, Rows]:
    """The rate of the best hold-out among all that were tried, in words, and its rows."""
    of_rate = {float(row["lr"]): float(row["holdout_psnr_y"]) for row in tried if row["seed"] == "0"}
    best = max(of_rate, key=lambda rate: of_rate[rate])
    others = ", ".join(f"{1000 * rate:g}" for rate in sorted(of_rate))
    return f"{1000 * best:g}e-3 ({others})", [row for row in rows if float(row["lr"]) == best]


def published() -> dict[str, str]:
    """Set5 of the paper's SwinIR-light x4, and the gap to its full precision."""
    rows = Table(ROOT / "results/published/bssr.csv", ()).rows
    rows = [r for r in rows if (r["network"], r["scale"], r["dataset"]) == ("SwinIR-light", "4", "Set5")]
    numbers = {row["method"]: float(row["psnr_y"]) for row in rows if row["psnr_y"]}
    return {name: f"{psnr:.2f} ({psnr - numbers[FULL]:+.2f})" for name, psnr in numbers.items()}


def lines() -> list[str]:
    """Best on the hold-out first, each method at its best rate."""
    found: dict[str, list[Rows]] = {}
    for place, name in enumerate(("binary", "binary_trials")):
        for row in Table(ROOT / f"results/{name}.csv", ()).rows:
            if row.items() >= KIND.items() and "rest_bits" not in row["options"]:
                found.setdefault(row["method"], [[], []])[place].append(row)
    measured = {name: at_best_rate(rows, rows + trials) for name, (rows, trials) in found.items() if rows}
    full = {dataset: mean(measured[FULL][1], dataset) for dataset in SETS}
    ranked = sorted(measured.items(), key=lambda item: -float(item[1][1][0]["holdout_psnr_y"]))
    paper = published()
    body = [" | ".join([name, rate, *cells(rows, full, paper.get(name, ""))]) for name, (rate, rows) in ranked]
    return [HEADER, "|---" * (HEADER.count("|") - 1) + "|", *(f"| {line} |" for line in body)]


if __name__ == "__main__":
    fill(ROOT / "docs/binary.md", HEADER, lines())
