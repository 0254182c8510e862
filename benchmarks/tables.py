"""Markdown of the tables in results/: PSNR-Y with the gap to full precision, method by bits.

python benchmarks/tables.py results/ptq_first.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ORDER = [
    "fp", "minmax", "percentile", "dobi", "harmoq-literal", "pams", "smoothquant", "repq", "dbdc-pac", "2dquant",
    "gptq", "svdquant", "adaround", "brecq", "qdrop", "harmoq",
]  # fmt: skip


def main(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for model in dict.fromkeys(r["model"] for r in rows):
        own = [r for r in rows if r["model"] == model]
        sets = list(dict.fromkeys(r["dataset"] for r in own))
        print(f"\n### {model}\n")
        print("| method | bits | " + " | ".join(sets) + " | KiB on disk | s to compress |")
        print("|---|---|" + "---|" * (len(sets) + 2))
        keys = dict.fromkeys((r["method"], int(r["w_bits"]), r["options"]) for r in own)
        for method, bits, options in sorted(keys, key=lambda k: (-k[1], ORDER.index(k[0]))):
            chosen = {
                r["dataset"]: r for r in own if (r["method"], int(r["w_bits"]), r["options"]) == (method, bits, options)
            }
            cells = [
                f"{float(r['psnr_y']):.2f}" + (f" ({float(r['gap']):+.2f})" if method != "fp" else "")
                if (r := chosen.get(name))
                else ""
                for name in sets
            ]
            any_row = next(iter(chosen.values()))
            size = f"{int(any_row['bytes']) / 1024:.0f}" if any_row["bytes"] else "simulated"
            seconds = any_row["compress_seconds"]
            name = f"{method} {options}".strip()
            precision = "fp32" if method == "fp" else f"W{bits}A{bits}"
            print(f"| {name} | {precision} | " + " | ".join(cells) + f" | {size} | {seconds} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
