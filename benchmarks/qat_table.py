"""Rows of results/qat.csv: networks trained with quantization, as packed files run by the engine.

python benchmarks/qat_table.py --run imdn_x4=runs/lsq_imdn_x4_w4a4 --data Set5 Set14 --full results/ptq_first.csv
--out results/qat.csv

Columns are those of ptq_first.csv; ``options`` and ``compress_seconds`` (wall clock beside other work) tell the budget,
``full`` the table that holds the rows of the networks in full precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ptq_table import COLUMNS, Benchmark
from rows import Table

import bitsr
from bitsr.methods.trained import trained_config
from bitsr.training.log import read_log
from bitsr.training.recipe import Recipe, load_recipe


def budget(recipe: Recipe) -> str:
    return f"start={trained_config(recipe.method).start} steps={recipe.steps} batch={recipe.batch} crop={recipe.crop}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="append", required=True, help="NAME=FOLDER of bitsr train")
    parser.add_argument("--data", nargs="+", type=Benchmark.parse, required=True, help="PATH or PATH:N")
    parser.add_argument("--full", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/qat.csv"))
    options = parser.parse_args()
    table, full = Table(options.out, COLUMNS), Table(options.full, COLUMNS)
    for pair in options.run:
        name, folder = pair.split("=")
        recipe, last = load_recipe(Path(folder) / "recipe.yaml"), read_log(Path(folder))[-1]
        config, file = trained_config(recipe.method), Path(folder) / "model.bitsr"
        if last["step"] != recipe.steps:
            raise SystemExit(f"{folder}: stopped at step {last['step']} of {recipe.steps}")
        row = {"model": name, "method": recipe.method["name"], "w_bits": config.w_bits, "scope": config.scope,
               "seed": recipe.seed, "options": budget(recipe)}  # fmt: skip
        for data in options.data:
            start = full.find(model=name, method="fp", dataset=data.name)
            if start is None or table.find(**row, dataset=data.name) is not None:
                continue
            if table.find(model=name, method="fp", dataset=data.name) is None:
                table.add(**start)
            result = bitsr.evaluate(bitsr.open(file, threads=1), data.folder, recipe.scale, limit=data.limit)
            psnr, fp = f"{result.psnr_y:.4f}", start["fp_psnr_y"]
            table.add(**row, a_bits=config.a_bits, dataset=data.name, images=result.images, psnr_y=psnr,
                      ssim_y=f"{result.ssim_y:.4f}", fp_psnr_y=fp, gap=f"{result.psnr_y - float(fp):.4f}",
                      bytes=file.stat().st_size, fp32_bytes=start["fp32_bytes"],
                      compress_seconds=f"{last['seconds']:.1f}", threads=1, file_psnr_y=psnr)  # fmt: skip
            print(name, config.w_bits, data.name, f"{psnr} ({result.psnr_y - float(fp):+.2f})", flush=True)


if __name__ == "__main__":
    main()
