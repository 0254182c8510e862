"""Networks that bitsr does not ship, compressed from Python: rows of results/users_networks.csv.

python benchmarks/users_networks.py --network hit_srf --checkpoint hitsr_x4.pth --data Set5 --calib TRAIN
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rows import Table

import bitsr
from bitsr.methods.registry import config_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from compress_your_own import build  # noqa: E402

COLUMNS = [
    "network", "method", "bits", "options", "dataset", "psnr_y", "fp_psnr_y", "gap", "compress_seconds",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=["hit_srf", "carn_m"], required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=["dobi", "harmoq"])
    parser.add_argument("--set", nargs="*", default=[], help="options of harmoq, key=value")
    parser.add_argument("--crops", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("results/users_networks.csv"))
    options = parser.parse_args()
    module = build(options.network, options.checkpoint)
    crops = bitsr.calibration_crops(options.calib, 4, options.crops)
    full = bitsr.evaluate(module, options.data, 4).psnr_y
    table = Table(options.out, COLUMNS)
    for method in options.methods:
        words = options.set if method == "harmoq" else []
        config = config_for(method, options.bits, options.bits, overrides=dict(w.split("=") for w in words))
        start = time.perf_counter()
        compressed = bitsr.compress(module, config, crops)
        seconds = time.perf_counter() - start
        psnr = bitsr.evaluate(compressed, options.data, 4).psnr_y
        table.add(network=options.network, method=method, bits=options.bits, dataset=options.data.name,
                  options=" ".join([*words, f"crops={options.crops}"]), psnr_y=f"{psnr:.4f}", fp_psnr_y=f"{full:.4f}",
                  gap=f"{psnr - full:.4f}", compress_seconds=f"{seconds:.1f}")  # fmt: skip
        print(method, f"{psnr:.2f} ({psnr - full:+.2f})", flush=True)


if __name__ == "__main__":
    main()
