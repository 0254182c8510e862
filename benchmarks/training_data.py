"""Crops per second of the training data, in memory and made anew, and where a training step spends its time.

python benchmarks/training_data.py --data BSDS500 --recipe recipes/train/swinir_light_x4.yaml --out
results/training_throughput.csv

The naive loader opens a picture for every crop, cuts HR and reduces it.  Seconds are CPU seconds of this process with
one thread, so that work beside it counts little.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bitsr.data.imresize import imresize
from bitsr.data.pictures import read_rgb
from bitsr.training.data import CropDataset, split
from bitsr.training.loop import Run
from bitsr.training.recipe import load_recipe

ROWS = 14  # of the profile that are printed


def naive_batch(paths: list[Path], scale: int, crop: int, count: int, rng: np.random.Generator) -> torch.Tensor:
    """LR crops, each from a picture that is opened for it; HR stays behind."""
    low = []
    while len(low) < count:
        hr = read_rgb(paths[rng.integers(len(paths))])
        side = crop * scale
        if min(hr.shape[:2]) < side:
            continue
        y, x = (int(rng.integers(length - side + 1)) for length in hr.shape[:2])
        patch = np.rot90(hr[y : y + side, x : x + side], int(rng.integers(4)))
        low.append(torch.from_numpy(imresize(patch, 1 / scale)))
    return torch.stack(low).permute(0, 3, 1, 2).float() / 255


def crops_per_second(make: Callable[[], object], crops: int, seconds: float = 3.0) -> float:
    make()
    start, calls = time.process_time(), 0
    while time.process_time() - start < seconds:
        make()
        calls += 1
    return crops * calls / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3, help="training steps that are profiled")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    paths, _ = split(options.data)
    size, rng = recipe.batch, np.random.default_rng(0)
    start = time.process_time()
    data = CropDataset(paths, recipe.scale, recipe.crop)
    loading = time.process_time() - start
    rows = [
        ("in memory", crops_per_second(lambda: data.batch(size, rng), size)),
        ("naive", crops_per_second(lambda: naive_batch(paths, recipe.scale, recipe.crop, size, rng), size)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, options.data, Path(folder))
        run.take_step()
        start = time.process_time()
        with profile(activities=[ProfilerActivity.CPU]) as spent:
            for _ in range(options.steps):
                run.take_step()
        rows.append((f"whole step, {recipe.arch}", size * options.steps / (time.process_time() - start)))
    print(spent.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=40))
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "crops_per_cpu_second", "crop", "scale", "pictures", "seconds_to_load_all"])
        for what, rate in rows:
            line = [what, f"{rate:.1f}", recipe.crop, recipe.scale, len(paths), f"{loading:.1f}"]
            writer.writerow(line)
            print(*line)


if __name__ == "__main__":
    main()
