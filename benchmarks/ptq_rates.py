"""Rows of results/ptq_rates.csv: the learning rates of the trained methods, judged on held-out training pictures.

    python benchmarks/ptq_rates.py --model rfdn_x4=RFDN_AIM.pth --calib TRAIN

Every tenth picture of TRAIN is held out; a method compresses with its own steps and each of a few rates, and the loss
against full precision on crops of the held-out pictures is written down.  Nothing else is measured, so that the rates
of baselines are chosen as our own are.  Finished rows stay.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from rows import Table

import bitsr
from bitsr.data.calibration import pair_per_picture, split
from bitsr.evaluation.evaluate import psnr_of_pairs
from bitsr.methods.registry import config_for

COLUMNS = ["model", "method", "bits", "seed", "options", "holdout_gap", "compress_cpu_seconds"]
RATES = {  # options of each method that are learning rates (percentile: the share clipped); all are multiplied alike
    "percentile": ["tail"],
    "2dquant": ["lr"],
    "dbdc-pac": ["lr", "weight_lr"],
    "pams": ["lr"],
    "adaround": ["lr"],
    "brecq": ["lr", "activation_lr"],
    "qdrop": ["lr", "activation_lr"],
    "harmoq": ["distill_lr"],
    "best": ["learn_rate"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True, help="NAME=CHECKPOINT")
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0, 0.3, 3.0], help="of the default rates")
    parser.add_argument("--set", nargs="*", default=[], help="further options of the method, key=value")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--calib", type=Path, required=True, help="folder of training pictures (HR)")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/ptq_rates.csv"))
    options = parser.parse_args()
    calibration, held = split(options.calib)
    crops = bitsr.calibration_crops(calibration, options.scale, 128, 64, options.seed)
    pairs = pair_per_picture(held, options.scale)
    table = Table(options.out, COLUMNS)
    for name, checkpoint in (pair.split("=") for pair in options.model):
        module = bitsr.load(checkpoint, scale=options.scale)
        full = psnr_of_pairs(bitsr.ModuleUpscaler(module), pairs, options.scale)
        for method in options.methods:
            config = config_for(method, options.bits, options.bits)
            for factor in options.factors:
                rates = {rate: f"{getattr(config, rate) * factor:g}" for rate in RATES[method]}
                overrides = dict(word.split("=") for word in options.set) | rates
                row = {"model": name, "method": method, "bits": str(options.bits), "seed": str(options.seed),
                       "options": " ".join(f"{k}={v}" for k, v in overrides.items())}  # fmt: skip
                if table.find(**row):
                    continue
                start = time.process_time()
                tried = config_for(method, options.bits, options.bits, overrides=overrides)
                small = bitsr.compress(module, tried, crops, seed=options.seed)
                seconds = time.process_time() - start
                found = psnr_of_pairs(bitsr.ModuleUpscaler(small), pairs, options.scale)
                gap = f"{float(np.mean(found - full)):.4f}"
                table.add(**row, holdout_gap=gap, compress_cpu_seconds=f"{seconds:.1f}")
                print(name, method, row["options"], gap, f"{seconds:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
