"""The customary benchmark sets, and whether a folder really holds one: its bicubic PSNR tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitsr.data.benchmark import crop_to_multiple
from bitsr.data.imresize import imresize
from bitsr.data.pictures import list_pictures, read_picture, to_uint8
from bitsr.errors import ConfigError, PictureError
from bitsr.evaluation.metrics import psnr_rgb, psnr_y

TOLERANCE = 0.03  # dB between a correct evaluation and the published bicubic figures


@dataclass(frozen=True)
class KnownSet:
    """A benchmark set.

    Attributes:
        pictures: how many HR pictures it has.
        bicubic: scale -> published PSNR-Y of bicubic in dB (crop = scale).
        source: where its authors publish it.
    """

    name: str
    pictures: int
    bicubic: dict[int, float]
    source: str


SETS = {
    known.name: known
    for known in (
        KnownSet("Set5", 5, {2: 33.66, 4: 28.42}, "http://people.rennes.inria.fr/Aline.Roumy/results/SR_BMVC12.html"),
        KnownSet("Set14", 14, {2: 30.24, 4: 26.00}, "https://sites.google.com/site/romanzeyde/research-interests"),
        KnownSet("B100", 100, {2: 29.56, 4: 25.96}, "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/"),
        KnownSet("Urban100", 100, {2: 26.88, 4: 23.14}, "https://github.com/jbhuang0604/SelfExSR"),
    )
}
ALIASES = {"bsd100": "B100", "bsds100": "B100"}


@dataclass(frozen=True)
class BicubicCheck:
    """PSNR-Y in dB of bicubic at one scale: measured here, and published (None for an unknown set)."""

    scale: int
    measured: float
    published: float | None

    @property
    def ok(self) -> bool:
        return self.published is None or abs(self.measured - self.published) <= TOLERANCE

    def __str__(self) -> str:
        if self.published is None:
            return f"bicubic x{self.scale}: {self.measured:.2f} dB"
        verdict = "as published" if self.ok else "DIFFERS from published"
        return f"bicubic x{self.scale}: {self.measured:.2f} dB, {verdict} {self.published:.2f}"


@dataclass(frozen=True)
class Verification:
    """What a folder holds: number of pictures, errors of those that cannot be read, bicubic figures."""

    folder: Path
    known: KnownSet | None
    pictures: int
    broken: tuple[str, ...] = ()
    bicubic: tuple[BicubicCheck, ...] = ()

    @property
    def ok(self) -> bool:
        counted = self.known is None or self.pictures == self.known.pictures
        return counted and not self.broken and all(check.ok for check in self.bicubic)

    def __str__(self) -> str:
        expected = f" of {self.known.pictures} that {self.known.name} has" if self.known else ", none of the known sets"
        return "\n".join([f"{self.folder}: {self.pictures} pictures{expected}", *self.broken, *map(str, self.bicubic)])


def find(name: str) -> KnownSet | None:
    """The set that is called so, in any case or under an alias; None if there is none."""
    by_name = {known.casefold(): SETS[known] for known in SETS}
    return by_name.get(ALIASES.get(name.casefold(), name).casefold())


def verify(
    folder: str | Path,
    name: str | None = None,
    scales: Iterable[int] = (2, 4),
    on_picture: Callable[[int, int], None] = lambda number, total: None,
) -> Verification:
    """Read every picture of a folder and compare its bicubic PSNR-Y with the published figures.

    ``name`` says which set it should be; without it the folder's name does, and an unknown one is only measured.  The
    published figures take a grey file's own values for Y (an evaluation of networks repeats it to RGB, which moves
    Set14 by 0.09 dB), so that is done here.  ``on_picture`` is called with (number, of how many) after each picture.

    Raises `ConfigError` for an unknown ``name`` and `PictureError` for a missing or empty folder.
    """
    folder = Path(folder)
    inner = folder / "HR"
    paths = list_pictures(inner if inner.is_dir() else folder)
    known = find(name or (folder.resolve().parent if folder.name == "HR" else folder.resolve()).name)
    if name is not None and known is None:
        raise ConfigError(f"unknown set {name!r}, use one of {', '.join(SETS)}")

    scales = tuple(scales)
    sums: dict[int, list[float]] = {scale: [] for scale in scales}
    broken = []
    for number, path in enumerate(paths, 1):
        try:
            for scale, value in bicubic_psnr(path, scales).items():
                sums[scale].append(value)
        except PictureError as error:
            broken.append(str(error))
        on_picture(number, len(paths))
    checks = tuple(
        BicubicCheck(scale, float(np.mean(values)), known.bicubic.get(scale) if known else None)
        for scale, values in sums.items()
        if values
    )
    return Verification(folder, known, len(paths), tuple(broken), checks)


def bicubic_psnr(path: Path, scales: Iterable[int]) -> dict[int, float]:
    """PSNR-Y in dB of reducing and enlarging one picture by bicubic, for each scale; a grey file's values are its Y."""
    picture = read_picture(path)
    compare = psnr_rgb if picture.is_grey else psnr_y
    result = {}
    for scale in scales:
        hr = crop_to_multiple(to_uint8(picture.rgb), scale)
        try:
            result[scale] = compare(imresize(imresize(hr, 1 / scale), scale), hr, scale)
        except ValueError as error:
            raise PictureError(f"{path}: {error}") from error
    return result
