"""`bitsr demo`: the whole way on bundled data, from a checkpoint to a picture upscaled by a packed model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import bitsr
from bitsr.cli.config import choose_config
from bitsr.cli.console import human_bytes, option, print_table, working
from bitsr.cli.models import load_checkpoint
from bitsr.data.benchmark import crop_to_multiple
from bitsr.data.files import check_output, write_atomically
from bitsr.data.imresize import imresize
from bitsr.data.pictures import read_rgb, write_picture
from bitsr.errors import BitsrError
from bitsr.evaluation.evaluate import Bicubic
from bitsr.evaluation.metrics import psnr_y, ssim_y

CHECKPOINT, PICTURE = "models/rfdn_x4.safetensors", "demo.png"
CROP, ZOOM, LABEL = 96, 3, 28  # pixels of the HR crop that is shown, how often it is enlarged, height of the label


@dataclass(frozen=True)
class Row:
    """One line of the report; ``psnr_y`` in dB on the demo picture, ``file_bytes`` and ``seconds`` measured."""

    name: str
    psnr_y: float
    ssim_y: float
    file_bytes: int | None
    seconds: float


def demo(*, output: Annotated[Path, option("DIR", "-o")] = Path("bitsr-demo")) -> int:
    """Compress the bundled model to 4 bits, pack it, and upscale a bundled picture with it; minutes on 2 cores.

    Args:
        output: folder for the packed model, the pictures and the report
    """
    check_output(output, folder=True)
    assets = files("bitsr") / "assets"
    if not (assets / CHECKPOINT).is_file():
        raise BitsrError(f"this installation holds no bundled model ({CHECKPOINT}); install bitsr again")
    with as_file(assets / CHECKPOINT) as checkpoint, as_file(assets / PICTURE) as picture:
        run(checkpoint, picture, output)
    return 0


def run(checkpoint: Path, picture: Path, output: Path, options: tuple[str, ...] = ()) -> list[Row]:
    """The demo on any checkpoint and HR picture; ``options`` are `--set` words for the default method at W4A4."""
    output.mkdir(parents=True, exist_ok=True)
    packed = output / "demo.bitsr"
    module = load_checkpoint(checkpoint)
    scale = module.descriptor.scale
    hr = crop_to_multiple(read_rgb(picture), scale)
    lr = imresize(hr, 1 / scale)

    config = choose_config(list(options), bits=4)
    start = time.perf_counter()
    with working("compressing to W4A4"):
        small = bitsr.compress(module, config, bitsr.calibration_crops(None, scale))
        bitsr.save(small, packed)
    seconds = time.perf_counter() - start

    full = bitsr.ModuleUpscaler(module)
    upscalers: list[tuple[str, Callable[[NDArray], NDArray], int | None]] = [
        ("bicubic", Bicubic(scale), None),
        (f"{module.descriptor.arch}, full precision", full, checkpoint.stat().st_size),
        (f"{module.descriptor.arch}, packed W4A4", bitsr.open(packed), packed.stat().st_size),
    ]
    rows, results = [], []
    for name, upscaler, size in upscalers:
        with working(f"upscaling: {name}"):
            row, result = measure(name, upscaler, lr, hr, scale, size)
        rows.append(row)
        results.append(result)

    write_picture(output / "lr.png", lr)
    write_picture(output / "upscaled.png", results[-1])
    write_picture(output / "before_after.png", before_after(lr, results[0], results[-1], hr, scale))
    report = {"scale": scale, "compress_seconds": seconds, "rows": [asdict(row) for row in rows]}
    write_atomically(output / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    print_table((f"x{scale}, one picture", "PSNR-Y (dB)", "SSIM-Y", "file", "seconds"), map(cells, rows))
    print(f"Compressed in {seconds:.0f} s. Before and after: {output / 'before_after.png'}   The model: {packed}")
    return rows


def cells(row: Row) -> tuple[str, ...]:
    """A row as the report's table shows it."""
    size = "" if row.file_bytes is None else human_bytes(row.file_bytes)
    return (row.name, f"{row.psnr_y:.2f}", f"{row.ssim_y:.4f}", size, f"{row.seconds:.1f}")


def measure(
    name: str, upscaler: Callable[[NDArray], NDArray], lr: NDArray, hr: NDArray, scale: int, file_bytes: int | None
) -> tuple[Row, NDArray[np.uint8]]:
    """The report's line of one upscaler, and its HxWx3 uint8 result."""
    start = time.perf_counter()
    sr = upscaler(lr)
    seconds = time.perf_counter() - start
    return Row(name, psnr_y(sr, hr, scale), ssim_y(sr, hr, scale), file_bytes, seconds), sr


def before_after(
    lr: NDArray[np.uint8], bicubic: NDArray[np.uint8], packed: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int
) -> NDArray[np.uint8]:
    """LR, bicubic, packed result and HR side by side, enlarged and labelled, where bicubic shows the most contours."""
    y, x = most_detailed(bicubic, CROP)
    panels = {
        "low resolution": np.kron(lr, np.ones((scale, scale, 1), np.uint8)),
        "bicubic": bicubic,
        "bitsr, 4 bit": packed,
        "original": hr,
    }
    crops = [Image.fromarray(panel[y : y + CROP, x : x + CROP]) for panel in panels.values()]
    width, height = crops[0].width * ZOOM, crops[0].height * ZOOM
    sheet = Image.new("RGB", (len(crops) * width, height + LABEL), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for number, (label, crop) in enumerate(zip(panels, crops, strict=True)):
        sheet.paste(crop.resize((width, height), Image.Resampling.NEAREST), (number * width, LABEL))
        draw.text((number * width + 8, LABEL // 2), label, fill="black", font=font, anchor="lm")
    return np.asarray(sheet)


def most_detailed(picture: NDArray[np.uint8], size: int, step: int = 8) -> tuple[int, int]:
    """(row, column) of the size x size crop with the largest sum of squared differences of neighbouring pixels."""
    grey = picture.mean(axis=2)
    energy = np.zeros((grey.shape[0] + 1, grey.shape[1] + 1))
    down, right = np.diff(grey, axis=0, append=grey[-1:]), np.diff(grey, axis=1, append=grey[:, -1:])
    energy[1:, 1:] = (down**2 + right**2).cumsum(0).cumsum(1)
    rows, columns = (range(0, max(1, side - size + 1), step) for side in grey.shape)

    def inside(y: int, x: int) -> float:
        bottom, end = min(y + size, grey.shape[0]), min(x + size, grey.shape[1])
        return float(energy[bottom, end] - energy[y, end] - energy[bottom, x] + energy[y, x])

    return max(((y, x) for y in rows for x in columns), key=lambda place: inside(*place))
