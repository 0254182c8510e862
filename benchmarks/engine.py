"""The native engine beside other runtimes: rows of results/engine.csv, a process per model and number of threads.

python benchmarks/engine.py --model imdn_x4=IMDN_x4.pth      # beside the bundled SwinIR-light and RFDN; a quiet machine

Each checkpoint is first packed as `bitsr compress --bits 8` does it; checkpoint and packed file are timed in one run,
with --also further packed files of that network, a model of signs for instance.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from rows import Table

BUNDLED = ("swinir_light_x4", "rfdn_x4")
COLUMNS = (
    "model", "backend", "file", "threads", "size", "median_ms", "q1_ms", "q3_ms", "min_ms", "cpu_ms", "peak_rss_mib",
    "ratio_vs_eager", "ratio_vs_best_peer", "agreement_db", "cpu", "isa",
)  # fmt: skip


def bitsr(*words: str) -> str:
    """What the command prints."""
    done = subprocess.run([sys.executable, "-m", "bitsr", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"bitsr {' '.join(words)} failed")
    return done.stdout


def rows(name: str, kinds: dict[str, str], content: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of the table from the command's JSON; of this machine's paths only their ``kinds``."""
    where = {key: content["machine"][key] for key in ("cpu", "isa")}
    return [{**row, **where, "model": name, "file": kinds[row["model"]]} for row in content["results"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[], metavar="NAME=CHECKPOINT")
    parser.add_argument("--only", nargs="*", help="names of the models to measure")
    parser.add_argument("--also", nargs="*", default=[], metavar="KIND=FILE", help="packed files, with one --only")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", default="128x128")
    parser.add_argument("--rounds", default="15")
    parser.add_argument("--out", type=Path, default=Path("results/engine.csv"))
    options = parser.parse_args()
    models = {name: str(files("bitsr") / "assets" / "models" / f"{name}.safetensors") for name in BUNDLED}
    models |= dict(word.split("=", 1) for word in options.model)
    table = Table(options.out, COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        for name, checkpoint in models.items():
            if options.only and name not in options.only:
                continue
            packed = f"{folder}/{name}.bitsr"
            bitsr("compress", checkpoint, "-o", packed, "--bits", "8")
            kinds = {checkpoint: "fp32", packed: "W8A8"}
            kinds |= {file: kind for kind, _, file in (word.rpartition("=") for word in options.also)}
            for threads in options.threads:
                words = ("--size", options.size, "--threads", str(threads), "--rounds", options.rounds, "--json")
                content = json.loads(bitsr("bench", *kinds, *words))
                for entry in content["skipped"]:
                    print(f"{name}: skipped {entry['backend']}: {entry['reason']}", flush=True)
                for row in rows(name, kinds, content):
                    table.add(**row)
                    print(name, row["backend"], row["file"], f"{threads} threads: {row['median_ms']:.1f} ms,",
                          f"{row['ratio_vs_best_peer']} x best peer", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
