"""What each stage of HarmoQ gives: stages are added one after the other, from bare DOBI bounds to the whole method.

    python benchmarks/ptq_stages.py --model imdn_x4=IMDN_x4.pth --data Set5 --calib TRAIN --out results/ptq_stages.csv

Takes the options of ptq_table.py; rows differ in ``options``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# in the order in which they are added; the corrections of the weights remove means, which the bias correction takes up
OFF = {
    "hso": "false",
    "bias_correction": "false",
    "src": "none",
    "rounding": "nearest",
    "abr_steps": "0",
    "distill_steps": "0",
}


def main() -> None:
    remaining = dict(OFF)
    variants = [dict(remaining)]
    for stage in OFF:  # with all of them it is the row of ptq_table.py
        del remaining[stage]
        if remaining:
            variants.append(dict(remaining))
    table = Path(__file__).with_name("ptq_table.py")
    for variant in variants:
        words = ["--set", *(f"{k}={v}" for k, v in variant.items())] if variant else []
        subprocess.run([sys.executable, table, *sys.argv[1:], "--methods", "harmoq", *words], check=True)


if __name__ == "__main__":
    main()
