"""Rows of results/mixed_precision.csv: bits per layer against the same bits everywhere, at equal size and BitOps.

python benchmarks/mixed_precision.py --model rfdn_x4=RFDN_AIM.pth --bits 4 3 --data Set5 Set14 --calib TRAIN
python benchmarks/mixed_precision.py --model rfdn_x4=RFDN_AIM.pth --bits 8 --drop 0.05 --data Set5 --calib TRAIN

``goal``: 'uniform'; 'bytes', at most the uniform file's; 'bytes and BitOps', both at most as uniform; or 'drop D', the
cheapest that loses at most D dB on the best quarter of held-out crops.  Every tenth training picture is held out, and
bits are chosen on those.  ``bytes`` on disk; ``bit_ops`` counted, of the program per LR pixel.  PSNR and SSIM are
those of the packed file on the native engine; ``held_out_drop`` is the mean over 16 of the held-out crops that the
choice has seen.
``predicted`` is the sum of the layers' single errors, ``rounded`` the measured error of the output (held-out crops,
mean squared, in [0, 1]) with all of them rounded to nearest, ``error`` that of the method.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Table
from torch import nn

import bitsr
from bitsr.data.calibration import calibration_crops, held_out_pairs, split
from bitsr.methods.ptq import mixed
from bitsr.methods.ptq.config import Dobi
from bitsr.methods.ptq.goals import Budget, MaxDrop
from bitsr.methods.ptq.pipeline import to_batches
from bitsr.methods.ptq.scope import assign_bits
from bitsr.methods.ptq.sensitivity import CROPS, SIDE, middle
from bitsr.methods.ptq.survey import Survey, survey
from bitsr.methods.registry import config_for, name_of
from bitsr.program.counting import cost

COLUMNS = [
    "model", "method", "w_bits", "a_bits", "options", "goal", "dataset", "images", "psnr_y", "ssim_y", "fp_psnr_y",
    "gap", "bytes", "bit_ops", "held_out_drop", "predicted", "rounded", "error", "cpu_seconds",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="NAME=CHECKPOINT")
    parser.add_argument("--method", default="best")
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3])
    parser.add_argument("--drop", type=float, help="instead of the uniform file's size and BitOps")
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--calib", type=Path, required=True, help="folder of training pictures (HR)")
    parser.add_argument("--set", nargs="*", default=[], help="options of the method, key=value")
    parser.add_argument("--out", type=Path, default=Path("results/mixed_precision.csv"))
    parser.add_argument("--packed", type=Path, default=Path("runs/packed"))
    options = parser.parse_args()
    options.packed.mkdir(parents=True, exist_ok=True)
    table = Table(options.out, COLUMNS)
    name, checkpoint = options.model.split("=")
    module = bitsr.load(checkpoint)
    scale = module.descriptor.scale
    calibration, held = split(options.calib)
    crops, pairs = calibration_crops(calibration, scale), held_out_pairs(held, scale)
    lr = [pair.lr for pair in pairs]
    full = {folder: bitsr.evaluate(module, folder, scale).psnr_y for folder in options.data}
    found = survey(module, Dobi(), crops, lr)
    for bits in options.bits:
        config = config_for(options.method, bits, bits, overrides=dict(word.split("=") for word in options.set))
        found = dataclasses.replace(found, config=config, uniform=assign_bits(module, list(found.sizes), config))
        size = None
        for goal in ["uniform", *(["bytes", "bytes and BitOps"] if options.drop is None else [f"drop {options.drop}"])]:
            key = {"model": name, "method": name_of(config), "w_bits": bits, "a_bits": bits,
                   "options": " ".join(options.set), "goal": goal}  # fmt: skip
            path = options.packed / f"{name}_{options.method}_{bits}_{goal.replace(' ', '_')}.bitsr"
            if table.find(**key) and (goal != "uniform" or path.exists()):
                size = size or path.stat().st_size
                continue
            start = time.process_time()
            if goal == "uniform":
                small = bitsr.compress(module, config, crops)
            elif options.drop is not None:
                judged = held_out_pairs(held, scale, mixed.JUDGED)
                small = mixed.compress_within_drop(module, found, crops, judged, MaxDrop(options.drop))
            else:
                budget = Budget(size, 1.0 if "BitOps" in goal else None)
                small = mixed.compress_to_budget(module, found, crops, budget)
            seconds = time.process_time() - start
            bitsr.save(small, path)
            size = size or path.stat().st_size
            model = bitsr.open(path, backend="native")
            lost = float(np.mean(mixed.scores(module, pairs) - mixed.scores(small, pairs)))
            figures = {
                "bytes": path.stat().st_size, "bit_ops": f"{cost(model.program).bit_ops:.0f}",
                "held_out_drop": f"{lost:.4f}", "cpu_seconds": f"{seconds:.0f}",
                **errors(module, small, found, crops, lr),
            }  # fmt: skip
            for folder in options.data:
                result = bitsr.evaluate(model, folder, scale)
                table.add(**key | figures | {
                    "dataset": folder.name, "images": result.images, "psnr_y": f"{result.psnr_y:.4f}",
                    "ssim_y": f"{result.ssim_y:.5f}", "fp_psnr_y": f"{full[folder]:.4f}",
                    "gap": f"{result.psnr_y - full[folder]:.4f}",
                })  # fmt: skip
                print(*key.values(), folder.name, f"{result.psnr_y - full[folder]:+.3f}", figures, flush=True)


def errors(
    module: nn.Module, small: nn.Module, found: Survey, crops: Sequence[NDArray[np.uint8]],
    held: Sequence[NDArray[np.uint8]],
) -> dict[str, str]:  # fmt: skip
    """Of the chosen bits: predicted, measured with nearest rounding, measured with the method."""
    asked = small.compression["layer_bits"] or found.uniform  # type: ignore[index]
    bits = {name: tuple(asked.get(name, (16, 16))) for name in found.sizes}
    plain = bitsr.compress(module, dataclasses.replace(Dobi(), layer_bits=bits), crops)
    x = torch.cat(to_batches([middle(p, SIDE) for p in held[:CROPS]], module.descriptor))  # type: ignore[arg-type]
    with torch.no_grad():
        rounded, error = (float((network(x) - module(x)).square().mean()) for network in (plain, small))
    figures = {"predicted": found.total(bits, "error"), "rounded": rounded, "error": error}
    return {key: f"{value:.3e}" for key, value in figures.items()}


if __name__ == "__main__":
    main()
