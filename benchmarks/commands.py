"""Wall seconds, CPU seconds and peak memory of whole commands, each in a process of its own (results/commands.csv).

python benchmarks/commands.py --checkpoint swinir_light_x4.safetensors --calib TRAIN --data Set5 --threads 2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import Table


def run(words: list[str], threads: int) -> tuple[float, float, float]:
    """(wall s, CPU s, peak RSS MiB) of ``bitsr WORDS``."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "bitsr", *words],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"bitsr {' '.join(words)} failed")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/commands.csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packed = f"{folder}/model.bitsr"
        calibration = ["--calib", str(options.calib)]
        data = ["--data", str(options.data), "--scale", "4"]
        commands = {
            "compress W4A4": ["compress", str(options.checkpoint), "-o", packed, "--bits", "4", *calibration],
            "eval checkpoint (torch)": ["eval", str(options.checkpoint), *data],
            "eval packed (torch arrays)": ["eval", packed, *data, "--backend", "torch"],
            "eval packed (NumPy)": ["eval", packed, *data, "--backend", "reference"],
        }  # fmt: skip
        table = Table(options.out, ["model", "command", "data", "threads", "wall_s", "cpu_s", "peak_rss_mib"])
        for name, words in commands.items():
            wall, cpu, rss = run(words, options.threads)
            table.add(model=options.checkpoint.stem, command=name, data=options.data.name, threads=options.threads,
                      wall_s=f"{wall:.1f}", cpu_s=f"{cpu:.1f}", peak_rss_mib=f"{rss:.0f}")  # fmt: skip
            print(name, f"{wall:.1f} s wall, {cpu:.1f} s CPU, {rss:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
