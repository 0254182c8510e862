"""Rows of results/binary.csv: networks of signs trained from one checkpoint with one budget, as packed files.

python benchmarks/binary_table.py --init swinir_2x2_x4.safetensors --data PHOTOS --sets Set5 Set14 --steps 400

``method`` is the entry of the recipe; everything else is equal for all rows and stands in them.  Finished rows stay,
and a run that was stopped goes on.  ``fp_psnr_y`` is that of the checkpoint; the row "full precision" is the checkpoint
trained on with the same budget.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import bitsr
from bitsr.training.recipe import Recipe, recipe_from
from bitsr.training.train import train

METHODS: dict[str, dict[str, Any]] = {
    "full precision": {},
    "2:4 in floating point": {"name": "binary", "binarizer": "none", "mask": "srste"},
    "BSSR": {"name": "bssr"},
    "BSSR, dense": {"name": "bssr", "keep": 4, "block": 4},
    "ReActNet, dense": {"name": "binary", "binarizer": "reactnet"},
    "BHViT + SR-STE": {"name": "binary", "binarizer": "bhvit", "mask": "srste"},
    "Re-STE + SR-STE": {"name": "binary", "binarizer": "reste", "mask": "srste"},
    "DoReFa + SR-STE": {"name": "binary", "binarizer": "dorefa", "mask": "srste"},
    "BiPer + SR-STE": {"name": "binary", "binarizer": "biper", "mask": "srste"},
    "BHViT + Bi-Mask": {"name": "binary", "binarizer": "bhvit", "mask": "bimask"},
    "BSSR, surrogate of normal weights": {"name": "bssr", "surrogate_of": "normal"},
    "BSSR, scale per row": {"name": "bssr", "tiling": "row"},
    "BSSR, rho 0": {"name": "bssr", "rho": 0.0},
}
COLUMNS = [
    "model", "method", "options", "seed", "steps", "batch", "crop", "lr", "dataset", "images", "fp_psnr_y", "psnr_y",
    "gap", "ssim_y", "bytes", "train_seconds",
]  # fmt: skip


def recipe_of(method: dict[str, Any], options: argparse.Namespace) -> Recipe:
    return recipe_from(
        {
            "init": str(options.init), "scale": options.scale, "method": method, "steps": options.steps,
            "batch": options.batch, "crop": options.crop, "lr": options.lr, "warmup": 10, "ema": 0.98,
            "seed": options.seed, "checkpoint_every": 50, "validate_every": options.steps, "validation_pictures": 3,
        }
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init", type=Path, required=True, help="checkpoint in full precision")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training pictures")
    parser.add_argument("--sets", type=Path, nargs="+", required=True, help="benchmark sets")
    parser.add_argument("--only", nargs="*", default=list(METHODS), help="names of methods")
    parser.add_argument("--out", type=Path, default=Path("results/binary.csv"))
    parser.add_argument("--runs", type=Path, default=Path("runs/binary"))
    for name, default in (("scale", 4), ("steps", 400), ("batch", 8), ("crop", 32), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=2e-4)
    options = parser.parse_args()

    start = bitsr.load(options.init, scale=options.scale)
    bitsr.save(start, options.runs.with_suffix(".fp.bitsr"))
    floating = bitsr.open(options.runs.with_suffix(".fp.bitsr"), threads=1)
    full = {folder.name: bitsr.evaluate(floating, folder, options.scale) for folder in options.sets}
    for name in options.only:
        recipe = recipe_of(METHODS[name], options)
        key = {"model": options.init.stem, "method": name, "seed": str(recipe.seed), "steps": str(recipe.steps)}
        if any(all(row[k] == v for k, v in key.items()) for row in rows_of(options.out)):
            continue
        folder = options.runs / f"{name.replace(' ', '_')}_{recipe.seed}_{recipe.steps}"
        trained = train(recipe, options.data, folder, resume=True)
        if trained.weights is None:
            raise SystemExit(f"{name}: {trained.unpacked}")
        file = trained.weights
        if file.suffix != ".bitsr":
            file = folder / "model.bitsr"
            bitsr.save(bitsr.load(trained.weights, scale=options.scale), file)
        model = bitsr.open(file, threads=1)
        results = {data.name: bitsr.evaluate(model, data, options.scale) for data in options.sets}
        new = not options.out.exists()
        with open(options.out, "a", newline="") as out:
            table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
            if new:
                table.writeheader()
            for data, result in results.items():
                before = full[data].psnr_y
                table.writerow(
                    key | {
                        "options": json.dumps(METHODS[name]), "batch": recipe.batch, "crop": recipe.crop,
                        "lr": recipe.lr, "dataset": data, "images": result.images, "fp_psnr_y": f"{before:.4f}",
                        "psnr_y": f"{result.psnr_y:.4f}", "gap": f"{result.psnr_y - before:.4f}",
                        "ssim_y": f"{result.ssim_y:.4f}", "bytes": file.stat().st_size,
                        "train_seconds": trained.entry["seconds"],
                    }
                )  # fmt: skip
                print(name, data, f"{result.psnr_y:.2f} ({result.psnr_y - before:+.2f})", flush=True)


if __name__ == "__main__":
    main()
