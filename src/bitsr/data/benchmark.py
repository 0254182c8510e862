"""Benchmark sets: pairs of low- and high-resolution pictures, as every SR paper makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bitsr.data.imresize import imresize
from bitsr.data.pictures import list_pictures, read_rgb
from bitsr.errors import ConfigError, PictureError


@dataclass(frozen=True)
class Pair:
    """One picture of a set: ``lr`` is hxwx3 uint8, ``hr`` is (h scale)x(w scale)x3 uint8."""

    name: str
    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]


class BenchmarkSet(Sequence[Pair]):
    """A sequence of pairs in order of file name; each is read when it is asked for and none is kept."""

    def __init__(self, name: str, scale: int, files: Sequence[tuple[Path, Path | None]]) -> None:
        self.name, self.scale, self.files = name, scale, list(files)

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> BenchmarkSet: ...
    def __getitem__(self, index: int | slice) -> Pair | BenchmarkSet:
        if isinstance(index, slice):
            return BenchmarkSet(self.name, self.scale, self.files[index])
        return read_pair(*self.files[index], self.scale)

    def __iter__(self) -> Iterator[Pair]:
        return (read_pair(hr, lr, self.scale) for hr, lr in self.files)


def open_set(folder: str | Path, scale: int) -> BenchmarkSet:
    """The pairs of a folder at a scale.

    The folder holds HR pictures, or has ``HR/`` and perhaps ``LR_bicubic/X{scale}/`` inside.  Where LR pictures are
    given they are used, found by the HR name's stem, also with "x{scale}" behind it.  Otherwise HR is cropped to a
    multiple of the scale and LR is its MATLAB-exact bicubic reduction.  Grey pictures are repeated to RGB.

    Raises `PictureError` for a missing or empty folder and for an HR picture without its LR, `ConfigError` for a scale
    below 1.
    """
    if scale < 1:
        raise ConfigError(f"scale is at least 1, got {scale}")
    folder = Path(folder)
    pictures = list_pictures(hr_folder(folder))
    name = folder.resolve().parent.name if folder.name == "HR" else folder.resolve().name
    low = lr_folder(folder, scale)
    if not low.is_dir():
        return BenchmarkSet(name, scale, [(path, None) for path in pictures])

    by_stem = {path.stem: path for path in list_pictures(low)}
    files = []
    for path in pictures:
        lr = by_stem.get(path.stem) or by_stem.get(f"{path.stem}x{scale}")
        if lr is None:
            raise PictureError(f"{low}: has no LR picture for {path.name}; add it, or remove the folder")
        files.append((path, lr))
    return BenchmarkSet(name, scale, files)


def hr_folder(folder: str | Path) -> Path:
    """Where a set keeps its HR pictures: in ``HR`` inside, if there is one."""
    inner = Path(folder) / "HR"
    return inner if inner.is_dir() else Path(folder)


def lr_folder(folder: Path, scale: int) -> Path:
    """Where a set keeps its LR pictures of a scale, if it has any."""
    return folder / "LR_bicubic" / f"X{scale}"


def lr_scales(folder: Path) -> list[int]:
    """The scales of which a set has LR pictures."""
    names = (path.name.removeprefix("X") for path in (folder / "LR_bicubic").glob("X*"))
    return sorted(int(name) for name in names if name.isdecimal())


def crop_to_multiple(picture: NDArray, scale: int) -> NDArray:
    """The top left part of an HxWxC picture whose sides are multiples of ``scale``."""
    return picture[: picture.shape[0] // scale * scale, : picture.shape[1] // scale * scale]


def read_pair(hr_path: Path, lr_path: Path | None, scale: int) -> Pair:
    """Read one pair; without ``lr_path`` LR is made from HR."""
    hr = crop_to_multiple(read_rgb(hr_path), scale)
    if hr.size == 0:
        raise PictureError(f"{hr_path}: is smaller than the scale {scale}")
    lr = imresize(hr, 1 / scale) if lr_path is None else read_rgb(lr_path)
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    if lr.shape[:2] != (height, width):
        found = f"{lr.shape[1]}x{lr.shape[0]}"
        raise PictureError(f"{lr_path}: is {found}, but {hr_path.name} at x{scale} needs {width}x{height}")
    return Pair(hr_path.stem, lr, hr)
