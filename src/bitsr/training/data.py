"""Training pictures: LR made once, both kept as uint8 in memory, cut into random aligned crops with flips and turns."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitsr.data.benchmark import hr_folder, read_pair
from bitsr.data.pictures import check_folder, is_picture
from bitsr.errors import PictureError

HOLD_OUT_EVERY = 10  # every tenth picture, sorted by path, is for validation

Picture = NDArray[np.uint8]


def split(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """All pictures under ``folders``, or under their ``HR``: (for training, held out)."""
    for folder in folders:
        check_folder(folder)
    paths = sorted(p for folder in folders for p in hr_folder(folder).rglob("*") if is_picture(p))
    if len(paths) < 2:
        found = f"{len(paths)} pictures" if paths else "no pictures"
        raise PictureError(f"{found} in {', '.join(map(str, folders))}; training needs one, and one to hold out")
    return [p for i, p in enumerate(paths) if i % HOLD_OUT_EVERY], paths[::HOLD_OUT_EVERY]


@dataclass(frozen=True)
class Place:
    """Where a crop lies in LR pixels, and how it is turned: mirrored or not, then by ``turns`` quarters."""

    picture: int
    y: int
    x: int
    mirrored: bool
    turns: int


class CropDataset:
    """Pairs of pictures large enough for LR crops of ``crop`` x ``crop``; larger ones are drawn more often."""

    def __init__(self, paths: Sequence[Path], scale: int, crop: int) -> None:
        self.scale, self.crop = scale, crop
        self.pairs = [pair for pair in (read_pair(p, None, scale) for p in paths) if min(pair.lr.shape[:2]) >= crop]
        if not self.pairs:
            raise PictureError(f"no picture is large enough for LR crops of {crop}x{crop} at x{scale}")
        areas = np.array([pair.lr.shape[0] * pair.lr.shape[1] for pair in self.pairs], dtype=float)
        self._shares = areas.cumsum() / areas.sum()

    def fingerprint(self) -> int:
        """Equal for equal pictures in equal order."""
        value = 0
        for pair in self.pairs:
            value = zlib.crc32(pair.lr.tobytes(), value)
        return value

    def draw(self, count: int, rng: np.random.Generator) -> list[Place]:
        """Random places; everything random about a batch is in them."""
        places = []
        for number in np.minimum(np.searchsorted(self._shares, rng.random(count)), len(self.pairs) - 1):
            height, width = self.pairs[number].lr.shape[:2]
            y, x = rng.integers((height - self.crop + 1, width - self.crop + 1))
            mirrored, turns = rng.integers((2, 4))
            places.append(Place(int(number), int(y), int(x), bool(mirrored), int(turns)))
        return places

    def cut(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """(LR, HR) uint8 NCHW."""
        batch = []
        for kind, factor in (("lr", 1), ("hr", self.scale)):
            side = self.crop * factor
            crops = np.empty((len(places), 3, side, side), np.uint8)
            for crop, place in zip(crops, places, strict=True):
                y, x = place.y * factor, place.x * factor
                patch = getattr(self.pairs[place.picture], kind)[y : y + side, x : x + side]
                crop[:] = np.rot90(patch[:, ::-1] if place.mirrored else patch, place.turns).transpose(2, 0, 1)
            batch.append(torch.from_numpy(crops))
        return batch[0], batch[1]

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random crops (LR, HR) as :func:`to_unit` gives them."""
        low, high = self.cut(self.draw(size, rng))
        return to_unit(low), to_unit(high)

    def lr_crops(self, count: int, size: int, seed: int) -> list[Picture]:
        """Random LR crops, HxWx3, of one size: ``size`` or what the smallest picture allows.  For calibration."""
        rng = np.random.default_rng(seed)
        size = min(size, *(min(pair.lr.shape[:2]) for pair in self.pairs))
        crops = []
        for place in self.draw(count, rng):
            lr = self.pairs[place.picture].lr
            y, x = min(place.y, lr.shape[0] - size), min(place.x, lr.shape[1] - size)
            crops.append(lr[y : y + size, x : x + size])
        return crops


def to_unit(batch: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 to float32 in [0, 1] on ``device``; what travels there is uint8."""
    return batch.to(device, non_blocking=True).float().div_(255)
