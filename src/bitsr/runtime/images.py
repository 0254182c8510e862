"""Picture files through a model: depth, grey, alpha, orientation and profile are kept; a bad file stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bitsr.data.imresize import imresize
from bitsr.data.pictures import SUFFIXES, Picture, list_pictures, read_picture, write_picture
from bitsr.descriptor import Descriptor
from bitsr.errors import BitsrError, PictureError
from bitsr.runtime.color import from_float, to_float
from bitsr.runtime.tiles import Tiling

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # equal channels keep their value


class Upscaler(Protocol):
    """What `bitsr.runtime.model.Model` offers to this module."""

    @property
    def descriptor(self) -> Descriptor: ...

    def upscale_array(self, lr: NDArray, tile: int | Literal["auto"] = "auto") -> tuple[NDArray, Tiling]: ...


@dataclass(frozen=True)
class Done:
    """A picture that was written: its new size in pixels, the measured seconds, and how it was tiled."""

    source: Path
    target: Path
    width: int
    height: int
    seconds: float
    tiling: Tiling

    def __str__(self) -> str:
        return f"{self.target}: {self.width}x{self.height}, {self.seconds:.1f} s, {self.tiling}"


@dataclass(frozen=True)
class Failure:
    """A picture that was not written, and the reason, which names it."""

    source: Path
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Report:
    """What became of each picture, in order; printing it lists the failures at the end."""

    done: tuple[Done, ...]
    failed: tuple[Failure, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        lines = [*map(str, self.done)]
        if self.failed:
            total = len(self.done) + len(self.failed)
            lines += [f"{len(self.failed)} of {total} pictures failed:", *map(str, self.failed)]
        return "\n".join(lines)


def upscale_picture(model: Upscaler, picture: Picture, tile: int | Literal["auto"] = "auto") -> tuple[Picture, Tiling]:
    """Upscale in the picture's own depth; grey stays grey, alpha goes by bicubic, profile and EXIF travel along."""
    sr, tiling = model.upscale_array(to_float(picture.rgb), tile)
    if picture.is_grey:
        sr = (sr @ LUMA)[..., None]
    if picture.alpha is not None:
        alpha = imresize(to_float(picture.alpha), model.descriptor.scale)
        sr = np.concatenate([sr, alpha], axis=2)
    return Picture(from_float(sr, picture.pixels.dtype), picture.icc, picture.exif), tiling


def upscale_file(model: Upscaler, source: Path, target: Path, tile: int | Literal["auto"] = "auto") -> Done:
    """Upscale one file into another, whose suffix names the format; ``target`` appears whole or not at all."""
    if target.exists() and target.samefile(source):
        raise PictureError(f"{source}: the result would replace it; choose another name or folder")
    if target.suffix.lower() not in SUFFIXES:
        raise PictureError(f"{source}: nothing is written as {target.suffix}; name a file, as in -o large.png")
    start = time.perf_counter()
    try:
        sr, tiling = upscale_picture(model, read_picture(source), tile)
    except MemoryError as error:
        raise PictureError(f"{source}: memory does not suffice to upscale it") from error
    except BitsrError as error:
        if str(source) in str(error):
            raise
        raise PictureError(f"{source}: {error}") from error
    write_picture(target, sr)
    height, width = sr.pixels.shape[:2]
    return Done(source, target, width, height, time.perf_counter() - start, tiling)


def upscale_files(
    model: Upscaler,
    jobs: Sequence[tuple[Path, Path]],
    tile: int | Literal["auto"] = "auto",
    on_picture: Callable[[Done | Failure], None] | None = None,
) -> Report:
    """Upscale each (source, target); what fails is reported and the rest goes on.  No result replaces a source."""
    done: list[Done] = []
    failed: list[Failure] = []
    taken: dict[Path, Path] = {}
    sources = {_identity(source): source for source, _ in jobs if source.exists()}
    for source, target in jobs:
        outcome: Done | Failure
        try:
            if target in taken:
                raise PictureError(f"{source}: its result {target} would replace that of {taken[target]}")
            if target.exists() and (replaced := sources.get(_identity(target), source)) != source:
                raise PictureError(f"{source}: its result would replace the picture {replaced}; choose another folder")
            outcome = upscale_file(model, source, target, tile)
            taken[target] = source
            done.append(outcome)
        except (BitsrError, OSError) as error:
            outcome = Failure(source, str(error))
            failed.append(outcome)
        if on_picture:
            on_picture(outcome)
    return Report(tuple(done), tuple(failed))


def _identity(path: Path) -> tuple[int, int]:
    """Equal for names of one file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def upscale_path(model: Upscaler, source: Path, target: Path, tile: int | Literal["auto"] = "auto") -> Report:
    """Upscale a file to a file (or into a folder, under its own name), or every picture of a folder into a folder.

    Raises `PictureError` for a single file that fails, for an empty folder, and when no picture of a folder could be
    upscaled; otherwise failures stand in the report.
    """
    if source.is_dir():
        if target.is_file():
            raise PictureError(f"{target}: is a file; the pictures of {source} need a folder")
        report = upscale_files(model, [(path, target / path.name) for path in list_pictures(source)], tile)
        if not report.done:
            raise PictureError(f"{source}: no picture could be upscaled, the first because: {report.failed[0]}")
        return report
    named = target.suffix.lower() in SUFFIXES and not target.is_dir()
    return Report((upscale_file(model, source, target if named else target / source.name, tile),))
