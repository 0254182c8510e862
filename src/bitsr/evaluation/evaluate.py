"""The customary evaluation: upscale a benchmark set, compare with the originals on Y, average over the pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.data.benchmark import Pair, open_set
from bitsr.data.imresize import imresize
from bitsr.errors import ConfigError, PictureError
from bitsr.evaluation.metrics import psnr_y, ssim_y

Upscaler = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
PSNR_OF_EQUALS = 100.0  # dB, where a mean is to stay finite


@dataclass(frozen=True)
class Score:
    """One picture: PSNR-Y in dB, SSIM-Y, and the seconds that upscaling took (measured)."""

    name: str
    psnr_y: float
    ssim_y: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """Means over a set; ``seconds`` of upscaling alone are measured, ``file_bytes`` is the size on disk of a file."""

    model: str
    dataset: str
    scale: int
    images: int
    psnr_y: float
    ssim_y: float
    backend: str
    seconds: float
    file_bytes: int | None = None
    per_image: tuple[Score, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The keys that ``bitsr eval --json`` prints; an infinite PSNR (equal pictures) becomes None."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "scale": self.scale,
            "images": self.images,
            "psnr_y": self.psnr_y if math.isfinite(self.psnr_y) else None,
            "ssim_y": self.ssim_y,
            "backend": self.backend,
            "seconds": self.seconds,
            "file_bytes": self.file_bytes,
        }


@dataclass(frozen=True)
class Bicubic:
    """MATLAB's bicubic as an upscaler, the baseline of every SR table: HxWx3 uint8 to (H scale)x(W scale)x3."""

    scale: int
    name: str = "bicubic"
    backend: str = "numpy"

    def __call__(self, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return imresize(lr, self.scale)


def bicubic(scale: int) -> Bicubic:
    """The bicubic baseline at a scale."""
    return Bicubic(scale)


def psnr_of_pairs(upscaler: Upscaler, pairs: Iterable[Pair], scale: int) -> NDArray[np.float64]:
    """PSNR-Y in dB of each pair, a border of ``scale`` left out; at most 100, where the pictures are equal."""
    return np.array([min(PSNR_OF_EQUALS, psnr_y(upscaler(pair.lr), pair.hr, scale)) for pair in pairs])


def evaluate(
    upscaler: Upscaler | Any,
    folder: str | Path,
    scale: int,
    *,
    limit: int | None = None,
    name: str = "",
    on_image: Callable[[int, int, Score], None] | None = None,
) -> Result:
    """Measure an upscaler on a benchmark folder (see `bitsr.data.benchmark.open_set`).

    ``upscaler`` takes and gives HxWx3 uint8; a torch module with a ``descriptor`` is wrapped to do so.  ``limit``
    takes only the first pictures.  ``name`` is how the model is called in the result; without it, its own name.
    ``on_image`` is called after each picture with (number, of how many, score).  The border left out is ``scale``
    pixels wide.

    Raises `ConfigError` if the network's scale is another, `PictureError` for pictures that cannot be read or compared.
    """
    descriptor = getattr(upscaler, "descriptor", None)
    if descriptor is not None and descriptor.scale != scale:
        raise ConfigError(f"{name or descriptor.arch} upscales by {descriptor.scale}, not by {scale}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    name = name or getattr(upscaler, "name", "") or getattr(descriptor, "arch", "") or type(upscaler).__name__
    backend = getattr(upscaler, "backend", "")
    file_bytes = getattr(upscaler, "file_bytes", None)
    if hasattr(upscaler, "state_dict"):
        from bitsr.archs.upscaler import ModuleUpscaler

        module: Any = upscaler
        upscaler, backend = ModuleUpscaler(module), "eager"

    pairs = open_set(folder, scale)
    dataset = pairs.name
    pairs = pairs[:limit]
    scores: list[Score] = []
    for number, pair in enumerate(pairs, 1):
        start = time.perf_counter()
        sr = upscaler(pair.lr)
        seconds = time.perf_counter() - start
        try:
            score = Score(pair.name, psnr_y(sr, pair.hr, scale), ssim_y(sr, pair.hr, scale), seconds)
        except ValueError as error:
            raise PictureError(f"{dataset}/{pair.name}: {error}") from error
        scores.append(score)
        if on_image:
            on_image(number, len(pairs), score)
    return Result(
        model=name,
        dataset=dataset,
        scale=scale,
        images=len(scores),
        psnr_y=sum(s.psnr_y for s in scores) / len(scores),
        ssim_y=sum(s.ssim_y for s in scores) / len(scores),
        backend=backend or "python",
        seconds=sum(s.seconds for s in scores),
        file_bytes=file_bytes,
        per_image=tuple(scores),
    )
