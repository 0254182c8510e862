"""Fills the table of docs/binary.md on networks of signs after 5000 steps from results/binary.csv."""

from __future__ import annotations

import re

from results_page import ROOT, SETS
from rows import Table

KIND = {"model": "swinir_2x2_x4", "steps": "5000", "batch": "4", "crop": "16", "lr": "0.001"}
SEEDS = ("0", "1")
FULL = "full precision"
HEADER = "| method, after 5000 steps | hold-out | " + " | ".join(SETS) + " | KiB | paper, Set5 |"


def cells(rows: list[dict[str, str]], full: dict[tuple[str, str], float], paper: str) -> list[str]:
    """One line of the table: both seeds, on each set to full precision of the same seed."""
    seeds = [seed for seed in SEEDS if any(row["seed"] == seed for row in rows)]
    of = {(row["dataset"], row["seed"]): row for row in rows}
    line = [", ".join(f"{float(of['Set5', seed]['holdout_psnr_y']):.2f}" for seed in seeds)]
    for dataset in SETS:
        numbers = [(float(of[dataset, seed]["psnr_y"]), full.get((dataset, seed))) for seed in seeds]
        gaps = ", ".join(f"{psnr - least:+.2f}" for psnr, least in numbers if least is not None)
        line.append(f"{numbers[0][0]:.2f}" + ("" if rows[0]["method"] == FULL else f" ({gaps})"))
    return [*line, f"{int(rows[0]['bytes']) / 1024:.0f}", paper]


def published() -> dict[str, str]:
    """Set5 of the paper's SwinIR-light x4, and the gap to its full precision."""
    rows = Table(ROOT / "results/published/bssr.csv", ()).rows
    rows = [r for r in rows if (r["network"], r["scale"], r["dataset"]) == ("SwinIR-light", "4", "Set5")]
    numbers = {row["method"]: float(row["psnr_y"]) for row in rows if row["psnr_y"]}
    return {name: f"{psnr:.2f} ({psnr - numbers[FULL]:+.2f})" for name, psnr in numbers.items()}


def lines() -> list[str]:
    """Best on the hold-out first."""
    rows = [row for row in Table(ROOT / "results/binary.csv", ()).rows if row.items() >= KIND.items()]
    rows = [row for row in rows if "rest_bits" not in row["options"]]
    full = {(row["dataset"], row["seed"]): float(row["psnr_y"]) for row in rows if row["method"] == FULL}
    methods: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        methods.setdefault(row["method"], []).append(row)
    paper = published()
    ranked = sorted(methods.items(), key=lambda item: -float(item[1][0]["holdout_psnr_y"]))
    body = [" | ".join([name, *cells(found, full, paper.get(name, ""))]) for name, found in ranked]
    return [HEADER, "|---" * (HEADER.count("|") - 1) + "|", *(f"| {line} |" for line in body)]


def main() -> None:
    page = ROOT / "docs/binary.md"
    table = re.compile(rf"^{re.escape(HEADER)}\n.*?\n\n", re.DOTALL | re.MULTILINE)
    text, count = table.subn(lambda _: "\n".join(lines()) + "\n\n", page.read_text(encoding="utf-8"), count=1)
    if not count:
        raise SystemExit(f"{page}: there is no table that begins with {HEADER}")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
