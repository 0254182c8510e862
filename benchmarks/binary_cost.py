"""Rows of results/binary_cost.csv: what files of signs take and cost, beside the same network in floating point.

python benchmarks/binary_cost.py "full precision=fp.bitsr" "BSSR=bssr.bitsr" "BiPer + SR-STE=biper.bitsr"

Bytes of the file are measured; those of the layers of signs are counted, and so are multiplications per LR pixel, where
64 products of signs count as one.  Milliseconds are those of the native engine, all files in turns; files of other
shapes than the first one's (DRC) are timed by themselves, so their ratio is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from engine import bitsr
from rows import Table

from bitsr.program.binary_cost import BITS_PER_FLOP
from bitsr.program.counting import FLOAT_BITS

COLUMNS = (
    "model", "method", "bytes", "sign_bytes", "sign_products", "sign_operations", "operations", "threads", "size",
    "median_ms", "speed_vs_first",
)  # fmt: skip
FLOAT_PRODUCT = FLOAT_BITS**2  # what `bitsr info` counts for one in floating point


def counted(file: str) -> dict[str, Any]:
    """Of one file, per LR pixel; a multiplication with a scale is one operation."""
    content = json.loads(bitsr("info", file, "--json"))
    signs = [layer for layer in content["layers"] if layer["kind"].startswith("binary")]
    products = sum(layer["macs"] for layer in signs)
    scales = (sum(layer["bit_ops"] for layer in signs) - products) / FLOAT_PRODUCT
    rest = sum(layer["bit_ops"] for layer in content["layers"] if layer not in signs) / FLOAT_PRODUCT
    operations = products / BITS_PER_FLOP + scales
    return {
        "bytes": content["file_bytes"], "sign_bytes": sum(layer["bytes"] for layer in signs),
        "sign_products": round(products), "sign_operations": round(operations), "operations": round(operations + rest),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE", help="packed files of one network")
    parser.add_argument("--model", default="swinir_2x2_x4", help="name of the network")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--size", default="128x128")
    parser.add_argument("--rounds", default="15")
    parser.add_argument("--out", type=Path, default=Path("results/binary_cost.csv"))
    options = parser.parse_args()
    names = {file: name for name, _, file in (word.rpartition("=") for word in options.files)}
    counts = {file: counted(file) for file in names}
    first = next(iter(names))
    table = Table(options.out, COLUMNS)
    for threads in options.threads:
        words = ("--size", options.size, "--threads", str(threads), "--rounds", options.rounds)
        results = json.loads(bitsr("bench", *names, *words, "--against", "none", "--backends", "native", "--json"))
        rows = {row["model"]: row for row in results["results"]}
        for file, row in rows.items():
            together = row["network"] == rows[first]["network"]
            table.add(
                model=options.model, method=names[file], **counts[file], threads=threads, size=row["size"],
                median_ms=row["median_ms"],
                speed_vs_first=round(rows[first]["median_ms"] / row["median_ms"], 3) if together else None,
            )  # fmt: skip


if __name__ == "__main__":
    main()
