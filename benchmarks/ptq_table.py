"""Rows of results/ptq_first.csv: post-training methods at several bits on the benchmark sets.

python benchmarks/ptq_table.py --model imdn_x4=IMDN_x4.pth --data Set5 Set14 B100 --calib TRAIN --out
results/ptq_first.csv

Every row is written as soon as it is measured and skipped when it is there already.  Calibration uses training
pictures only.  ``bytes`` is the size of the packed file on disk.  PSNR and SSIM are those of the simulation, and
``file_psnr`` the PSNR of the file run by the interpreter on the first set (empty where it was not run); with
``--packed-only`` they are those of the file on the native engine, and of the simulation only where a method cannot be
packed; a file that is there from an earlier row is measured on further sets as it is.  ``evaluated`` says which.
``compress_cpu_seconds`` is what counts where other work ran beside it, ``compress_peak_mib`` the memory of the process
at its peak meanwhile, torch and all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import Table

import bitsr
from bitsr.bench.memory import own_peak_mib
from bitsr.errors import UnsupportedLayer
from bitsr.methods.registry import config_for

COLUMNS = [
    "model", "method", "w_bits", "a_bits", "scope", "seed", "options", "dataset", "images", "psnr_y", "ssim_y",
    "fp_psnr_y", "gap", "bytes", "fp32_bytes", "compress_seconds", "threads", "file_psnr_y", "evaluated",
    "compress_cpu_seconds", "compress_peak_mib",
]  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """A benchmark folder, given as PATH or PATH:N for its first N pictures; a subset says so in its name."""

    folder: Path
    limit: int | None

    @property
    def name(self) -> str:
        return self.folder.name if self.limit is None else f"{self.folder.name} (first {self.limit})"

    @classmethod
    def parse(cls, word: str) -> Benchmark:
        path, _, limit = word.partition(":")
        return cls(Path(path), int(limit) if limit else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True, help="NAME=CHECKPOINT")
    parser.add_argument("--methods", nargs="+", default=["minmax", "percentile", "dobi", "harmoq"])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3, 2])
    parser.add_argument("--a-bits", type=int, help="of activations, where they are not those of --bits")
    parser.add_argument("--data", nargs="+", type=Benchmark.parse, required=True, help="PATH or PATH:N")
    parser.add_argument("--calib", type=Path, required=True, help="folder of training pictures (HR)")
    parser.add_argument("--crops", type=int, default=128, help="of 64x64 LR pixels; bounds see the first 32")
    parser.add_argument("--scope", default="full")
    parser.add_argument("--set", nargs="*", default=[], help="options of the method, key=value")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--file-check", action="store_true", help="run the packed file on the first set, too")
    parser.add_argument("--packed-only", action="store_true", help="evaluate the packed file, not the simulation")
    parser.add_argument("--out", type=Path, default=Path("results/ptq_first.csv"))
    parser.add_argument("--packed", type=Path, default=Path("runs/packed"))
    options = parser.parse_args()
    options.packed.mkdir(parents=True, exist_ok=True)
    table = Table(options.out, COLUMNS)
    for pair in options.model:
        name, checkpoint = pair.split("=")
        module = bitsr.load(checkpoint)
        fp32_bytes = sum(p.numel() for p in module.parameters()) * 4
        for folder in options.data:
            if table.find(model=name, method="fp", dataset=folder.name) is None:
                result = bitsr.evaluate(module, folder.folder, options.scale, limit=folder.limit)
                psnr = f"{result.psnr_y:.4f}"
                table.add(model=name, method="fp", w_bits=32, a_bits=32, scope="full", seed=0, dataset=folder.name,
                          images=result.images, psnr_y=psnr, ssim_y=f"{result.ssim_y:.4f}", fp_psnr_y=psnr, gap="0",
                          bytes=fp32_bytes, fp32_bytes=fp32_bytes)  # fmt: skip
        for bits in options.bits:
            for method in options.methods:
                row = {"model": name, "method": method, "w_bits": bits, "a_bits": options.a_bits or bits,
                       "scope": options.scope, "seed": options.seed,
                       "options": " ".join([f"crops={options.crops}", *options.set])}  # fmt: skip
                todo = [f for f in options.data if table.find(**row, dataset=f.name) is None]
                if todo:
                    measure(table, row, module, todo, options, fp32_bytes)


def forget_peak() -> None:
    """What the process needed so far (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def pack(compressed: torch.nn.Module, path: Path) -> tuple[Any, int | None]:
    """The packed file on the native engine and its size; None for a method that stays a simulation."""
    try:
        bitsr.save(compressed, path)
    except UnsupportedLayer as error:
        print(error)
        return None, None
    return bitsr.open(path, backend="native"), os.stat(path).st_size


def measure(
    table: Table, row: dict[str, object], module: torch.nn.Module, folders: list[Benchmark],
    options: argparse.Namespace, fp32_bytes: int,
) -> None:  # fmt: skip
    """Compress once, pack, and evaluate on every folder."""
    bits, a_bits = int(str(row["w_bits"])), int(str(row["a_bits"]))
    name = f"w{bits}" if a_bits == bits else f"w{bits}a{a_bits}"
    words = "_".join([name, f"s{options.seed}", *str(row["options"]).split()])
    path = options.packed / f"{row['model']}_{row['method']}_{words}.bitsr"
    before = table.find(**row, evaluated="native")
    if options.packed_only and before and path.exists() and before["bytes"] == str(os.stat(path).st_size):
        compressed, upscaler, size = None, bitsr.open(path, backend="native"), os.stat(path).st_size
        seconds, cpu = float(before["compress_seconds"]), float(before["compress_cpu_seconds"])
        peak = before["compress_peak_mib"]
    else:
        overrides = dict(word.split("=") for word in options.set)
        config = config_for(str(row["method"]), bits, a_bits, options.scope, overrides)
        images = bitsr.calibration_crops(options.calib, options.scale, options.crops, 64, options.seed)
        forget_peak()
        start, cpu = time.perf_counter(), time.process_time()
        compressed = bitsr.compress(module, config, images, seed=options.seed)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = f"{own_peak_mib():.0f}"
        upscaler, size = pack(compressed, path)
        if not options.packed_only or size is None:
            upscaler = compressed
    for number, folder in enumerate(folders):
        result = bitsr.evaluate(upscaler, folder.folder, options.scale, limit=folder.limit)
        full = table.find(model=row["model"], method="fp", dataset=folder.name)
        fp = float(full["psnr_y"]) if full else float("nan")
        check = ""
        if options.file_check and number == 0 and size is not None:
            check = f"{bitsr.evaluate(bitsr.open(path), folder.folder, options.scale, limit=folder.limit).psnr_y:.4f}"
        table.add(**row, dataset=folder.name, images=result.images, psnr_y=f"{result.psnr_y:.4f}",
                  ssim_y=f"{result.ssim_y:.4f}", fp_psnr_y=f"{fp:.4f}", gap=f"{result.psnr_y - fp:.4f}",
                  bytes="" if size is None else size, fp32_bytes=fp32_bytes, compress_seconds=f"{seconds:.1f}",
                  threads=torch.get_num_threads(), file_psnr_y=check,
                  evaluated="simulation" if upscaler is compressed else "native",
                  compress_cpu_seconds=f"{cpu:.1f}", compress_peak_mib=peak)  # fmt: skip
        figures = f"{result.psnr_y:.2f} ({result.psnr_y - fp:+.2f})"
        print(row["model"], row["method"], bits, folder.name, figures, flush=True)


if __name__ == "__main__":
    main()
