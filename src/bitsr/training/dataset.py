"""Training pictures: uint8 in memory, random aligned LR/HR crops with flips and quarter turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitsr.data.benchmark import crop_to_multiple
from bitsr.data.imresize import imresize
from bitsr.data.pictures import is_picture, read_rgb

HOLD_OUT_EVERY = 10  # every tenth picture, sorted by path, is for validation


def split(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """All pictures under ``folders``: (for training, held out)."""
    paths = sorted(p for folder in folders for p in Path(folder).rglob("*") if is_picture(p))
    if not paths:
        raise FileNotFoundError(f"no pictures in {', '.join(str(f) for f in folders)}")
    held = paths[::HOLD_OUT_EVERY]
    return [p for i, p in enumerate(paths) if i % HOLD_OUT_EVERY], held


def load_pair(path: Path, scale: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(LR, HR), both HxWx3 uint8; HR is cropped to a multiple of the scale, LR is MATLAB-exact bicubic."""
    hr = crop_to_multiple(read_rgb(path), scale)
    return imresize(hr, 1 / scale), hr


class CropDataset:
    """Random crops; everything random comes from the generator that is handed in, so a run can be resumed bit-equal."""

    def __init__(self, paths: Sequence[Path], scale: int, crop: int) -> None:
        self.scale, self.crop = scale, crop
        self.pairs = [pair for pair in (load_pair(p, scale) for p in paths) if min(pair[0].shape[:2]) >= crop]
        if not self.pairs:
            raise ValueError(f"no picture is large enough for LR crops of {crop}x{crop} at x{scale}")
        areas = np.array([lr.shape[0] * lr.shape[1] for lr, _ in self.pairs], dtype=float)
        self.probability = areas / areas.sum()

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(LR, HR) float32 NCHW in [0,1]."""
        low: list[Tensor] = []
        high: list[Tensor] = []
        for _ in range(size):
            lr, hr = self.pairs[rng.choice(len(self.pairs), p=self.probability)]
            y = int(rng.integers(lr.shape[0] - self.crop + 1))
            x = int(rng.integers(lr.shape[1] - self.crop + 1))
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))
            for picture, s, out in ((lr, 1, low), (hr, self.scale, high)):
                patch = picture[y * s : (y + self.crop) * s, x * s : (x + self.crop) * s]
                patch = np.rot90(patch[:, ::-1] if flip else patch, turns)
                out.append(torch.from_numpy(np.ascontiguousarray(patch)))
        return tuple(torch.stack(p).permute(0, 3, 1, 2).float() / 255 for p in (low, high))  # type: ignore[return-value]
