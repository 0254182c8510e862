"""Rows of results/binary*.csv: networks of signs trained from one checkpoint with one budget, as packed files.

python benchmarks/binary_table.py --init swinir_2x2_x4.safetensors --data PHOTOS --sets Set5 Set14 --steps 300

Each row has its entries of the recipe (`method`, for BSSR+ also `distill`); everything else is equal for all rows and
stands in them.  ``mask_moved``: share of weights that a mask keeps at the end and did not keep at the start,
or the other way round.  Finished rows stay, and a run that was stopped goes on.  ``fp_psnr_y`` is that of the
checkpoint; the row "full precision" is the checkpoint trained on with the same budget.  ``holdout_psnr_y`` is that of
held-out training pictures, by which options are chosen; without ``--sets`` nothing else is measured.
"""

from __future__ import annotations

import argparse
import json
import re
import zlib
from pathlib import Path
from typing import Any

from rows import Table

import bitsr
from bitsr.training.recipe import Recipe, recipe_from
from bitsr.training.train import Trained, train

BINARIZERS = {"DoReFa": "dorefa", "Re-STE": "reste", "BiPer": "biper", "BHViT": "bhvit"}
MASKS = {"SR-STE": "srste", "Bi-Mask": "bimask", "DRC-lite": "drc-lite"}


def bssr(**options: Any) -> dict[str, Any]:
    return {"method": {"name": "bssr", **options}}


def binary(binarizer: str, mask: str) -> dict[str, Any]:
    return {"method": {"name": "binary", "binarizer": binarizer, "mask": mask}}


def plus(distill: float = 0.0, **options: Any) -> dict[str, Any]:
    entries = {"method": {"name": "bssr_plus", **options}}
    return entries | ({"distill": {"output": distill}} if distill else {})


GRADIENTS_OF_BSSR = {"activation_surrogate": "tanh", "rho": 0.002}

ROWS: dict[str, dict[str, Any]] = {
    "BSSR": bssr(),
    "BSSR+": plus(1.0),
    "BSSR+ without distillation": plus(),
    **{f"{b} + {m}": binary(BINARIZERS[b], MASKS[m]) for m in MASKS for b in BINARIZERS},
    "BiPer + DRC": binary("biper", "drc"),
    "BiPer + SR-STE, distilled": {**binary("biper", "srste"), "distill": {"output": 1.0}},
    "full precision": {},
    "2:4 in floating point": binary("none", "srste"),
    "BSSR, no mask": bssr(keep=4),
    "BSSR, not centred": bssr(centre=False),
    "BSSR, not centred, a scale per row": bssr(centre=False, tiling="row"),
    # BSSR+ part by part
    "scales": plus(start="weights", masked_gradient=False, **GRADIENTS_OF_BSSR),
    "scales, start": plus(masked_gradient=False, **GRADIENTS_OF_BSSR),
    "scales, start, masked gradient": plus(**GRADIENTS_OF_BSSR),
    "scales, start, masked gradient, distillation": plus(1.0, **GRADIENTS_OF_BSSR),
    "BSSR+, no mask": plus(1.0, keep=4),
    "BSSR+, diagonal": plus(1.0, diagonal=True),
    "BSSR+, rank 2": plus(1.0, rank=2),
    "BSSR+, sparse 2": plus(1.0, sparse=2),
    # Tables 2 and 3 of the paper
    "BSSR, K 16": bssr(group=16),
    "BSSR, K 64": bssr(group=64),
    "BSSR, kappa 0.25": bssr(kappa=0.25),
    "BSSR, kappa 2": bssr(kappa=2),
    "BSSR, kappa 4": bssr(kappa=4),
    "BSSR, rho 0": bssr(rho=0.0),
    "BSSR, rho decoupled": bssr(decay_mode="decoupled"),
    "BSSR, inputs as Bi-Real's": bssr(activation_surrogate="bireal"),
    # what motivates the paper, and our other readings
    "BSSR, binarized first": bssr(order="binarize"),
    "BHViT, mask of the start": binary("bhvit", "asp"),
    "BSSR, surrogate of normal weights": bssr(surrogate_of="normal"),
}

COLUMNS = [
    "model", "method", "options", "seed", "steps", "batch", "crop", "lr", "holdout_psnr_y", "mask_moved", "dataset",
    "images", "fp_psnr_y", "psnr_y", "gap", "ssim_y", "bytes", "train_seconds",
]  # fmt: skip


def recipe_of(entries: dict[str, Any], options: argparse.Namespace) -> Recipe:
    return recipe_from(
        {
            "init": str(options.init), "scale": options.scale, "steps": options.steps, "batch": options.batch,
            "crop": options.crop, "lr": options.lr, "warmup": 10, "ema": 0.98, "seed": options.seed,
            "checkpoint_every": 50, "validate_every": options.steps, "validation_pictures": 20, **entries,
        }
    )  # fmt: skip


def packed(trained: Trained, scale: int) -> Path:
    """The packed file of a run; one of full precision is packed here."""
    if trained.weights is None:
        raise SystemExit(trained.unpacked)
    if trained.weights.suffix == ".bitsr":
        return trained.weights
    file = trained.weights.with_name("model.bitsr")
    bitsr.save(bitsr.load(trained.weights, scale=scale), file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init", type=Path, required=True, help="checkpoint in full precision")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training pictures")
    parser.add_argument("--sets", type=Path, nargs="*", default=[], help="benchmark sets")
    parser.add_argument("--only", nargs="*", default=list(ROWS), help="names of rows")
    parser.add_argument("--entries", default="{}", help="JSON: more entries of the recipe, for trials of one row")
    parser.add_argument("--out", type=Path, default=Path("results/binary.csv"))
    parser.add_argument("--runs", type=Path, default=Path("runs/binary"))
    for name, default in (("scale", 4), ("steps", 300), ("batch", 4), ("crop", 32), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()

    options.runs.mkdir(parents=True, exist_ok=True)
    table = Table(options.out, COLUMNS)
    start = options.runs / f"{options.init.stem}.bitsr"
    bitsr.save(bitsr.load(options.init, scale=options.scale), start)
    floating = bitsr.open(start, threads=1)
    full = {folder: bitsr.evaluate(floating, folder, options.scale) for folder in options.sets}
    for name in options.only:
        extra = json.loads(options.entries)
        method = ROWS[name].get("method", {}) | extra.pop("method", {})
        entries = {**ROWS[name], **extra, "method": method}
        recipe = recipe_of(entries, options)
        row: dict[str, Any] = {
            "model": options.init.stem, "method": name, "options": json.dumps(entries), "seed": recipe.seed,
            "steps": recipe.steps, "batch": recipe.batch, "crop": recipe.crop, "lr": recipe.lr,
        }  # fmt: skip
        if table.find(**row) is not None:
            continue
        digest = zlib.crc32(json.dumps(recipe.to_dict()).encode())
        folder = options.runs / f"{re.sub('[^a-zA-Z0-9]+', '_', name)}_{digest:08x}"
        trained = train(recipe, options.data, folder, resume=True)
        row["holdout_psnr_y"] = f"{trained.entry['holdout_psnr_y']:.4f}"
        row["mask_moved"] = trained.entry.get("mask_moved")
        row["train_seconds"] = trained.entry["seconds"]
        print(name, row["options"], row["seed"], row["lr"], row["holdout_psnr_y"], flush=True)
        file = packed(trained, options.scale)
        row["bytes"] = file.stat().st_size
        if not options.sets:
            table.add(**row)
        model = bitsr.open(file, threads=1)
        for data in options.sets:
            result, before = bitsr.evaluate(model, data, options.scale), full[data].psnr_y
            row |= {
                "dataset": data.name, "images": result.images, "fp_psnr_y": f"{before:.4f}",
                "psnr_y": f"{result.psnr_y:.4f}", "gap": f"{result.psnr_y - before:.4f}",
                "ssim_y": f"{result.ssim_y:.4f}",
            }  # fmt: skip
            table.add(**row)
            print("   ", data.name, f"{result.psnr_y:.2f} ({result.psnr_y - before:+.2f})", flush=True)


if __name__ == "__main__":
    main()
