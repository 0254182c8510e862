"""The customary benchmark sets, and whether a folder really holds one: its bicubic PSNR and its pixels tell."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsr.data.benchmark import crop_to_multiple, hr_folder, lr_folder, lr_scales, open_set
from bitsr.data.imresize import imresize
from bitsr.data.pictures import Picture, list_pictures, read_picture, read_rgb, to_uint8
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
        url: address of a public tar archive of the HR pictures.
        digest: :func:`digest_of` the HR pictures.
    """

    name: str
    pictures: int
    bicubic: dict[int, float]
    source: str
    url: str
    digest: str


MIRROR = "https://huggingface.co/datasets/eugenesiow"
SETS = {
    known.name: known
    for known in (
        KnownSet(
            "Set5",
            5,
            {2: 33.66, 4: 28.42},
            "http://people.rennes.inria.fr/Aline.Roumy/results/SR_BMVC12.html",
            f"{MIRROR}/Set5/resolve/main/data/Set5_HR.tar.gz",
            "56d899b36425f6e2932d723ffc58806b5f82e6731427bb2990b7d877f2ea3f95",
        ),
        KnownSet(
            "Set14",
            14,
            {2: 30.24, 4: 26.00},
            "https://sites.google.com/site/romanzeyde/research-interests",
            f"{MIRROR}/Set14/resolve/main/data/Set14_HR.tar.gz",
            "f58a95f24549c95a1b265e155b020c6b54038fe4e3761f7de613678f0ca76a2f",
        ),
        KnownSet(
            "B100",
            100,
            {2: 29.56, 4: 25.96},
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
            f"{MIRROR}/BSD100/resolve/main/data/BSD100_HR.tar.gz",
            "ab7c173f1a42b2df1c15f1559221bb3175e2b6208667cc31ab48a32659a6ab1c",
        ),
        KnownSet(
            "Urban100",
            100,
            {2: 26.88, 4: 23.14},
            "https://github.com/jbhuang0604/SelfExSR",
            f"{MIRROR}/Urban100/resolve/main/data/Urban100_HR.tar.gz",
            "958644bbdf2c4f097b9d8e305be40b0da97b7ff1f364c31d3fde1856e84d407a",
        ),
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
class LowCheck:
    """LR pictures that come with a set: the largest difference, of 255, to the bicubic reduction of their HR."""

    folder: Path
    pictures: int
    largest: int

    def __str__(self) -> str:
        relation = f"up to {self.largest}/255 away from" if self.largest else "equal to"
        return f"{self.folder}: {self.pictures} pictures, {relation} the MATLAB-exact bicubic"


@dataclass(frozen=True)
class Verification:
    """What a folder holds: number of pictures, errors of those that cannot be read, bicubic figures, LR pictures.

    ``known`` is the set that its name promises, ``equal`` the one that it is pixel for pixel.
    """

    folder: Path
    known: KnownSet | None
    pictures: int
    broken: tuple[str, ...] = ()
    bicubic: tuple[BicubicCheck, ...] = ()
    equal: KnownSet | None = None
    low: tuple[LowCheck, ...] = ()

    @property
    def ok(self) -> bool:
        counted = self.known is None or self.pictures == self.known.pictures
        return counted and not self.broken and all(check.ok for check in self.bicubic)

    def __str__(self) -> str:
        expected = f" of {self.known.pictures} that {self.known.name} has" if self.known else ", none of the known sets"
        equal = [f"equal to {self.equal.name} pixel for pixel"] if self.equal else []
        lines = [*self.broken, *map(str, self.bicubic), *equal, *map(str, self.low)]
        return "\n".join([f"{self.folder}: {self.pictures} pictures{expected}", *lines])


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
    """Read every picture of a folder, and compare: bicubic's PSNR-Y with the published figures, HR pictures with the
    known sets, LR pictures with the bicubic reduction of HR.

    ``name`` says which set it should be; without it the folder's name does, and an unknown one is only measured.  The
    published figures take a grey file's own values for Y (an evaluation of networks repeats it to RGB, which moves
    Set14 by 0.09 dB), so that is done here.  ``on_picture`` is called with (number, of how many) after each picture.

    Raises `ConfigError` for an unknown ``name`` and `PictureError` for a missing or empty folder.
    """
    folder = Path(folder)
    paths = list_pictures(hr_folder(folder))
    known = find(name or (folder.resolve().parent if folder.name == "HR" else folder.resolve()).name)
    if name is not None and known is None:
        raise ConfigError(f"unknown set {name!r}, use one of {', '.join(SETS)}")

    scales = tuple(scales)
    sums: dict[int, list[float]] = {scale: [] for scale in scales}
    broken, digests = [], []
    for number, path in enumerate(paths, 1):
        try:
            picture = read_picture(path)
            digests.append(_digest(to_uint8(picture.rgb)))
            for scale, value in bicubic_psnr(picture, scales).items():
                sums[scale].append(value)
        except PictureError as error:
            broken.append(str(error))
        except ValueError as error:
            broken.append(f"{path}: {error}")
        on_picture(number, len(paths))
    checks = tuple(
        BicubicCheck(scale, float(np.mean(values)), known.bicubic.get(scale) if known else None)
        for scale, values in sums.items()
        if values
    )
    whole = _digest_of_digests(digests)
    equal = next((candidate for candidate in SETS.values() if candidate.digest == whole), None)
    low = () if broken else tuple(compare_lr(folder, scale) for scale in lr_scales(folder))
    return Verification(folder, known, len(paths), tuple(broken), checks, equal, low)


def bicubic_psnr(picture: Picture, scales: Iterable[int]) -> dict[int, float]:
    """PSNR-Y in dB of reducing and enlarging a picture by bicubic, for each scale; a grey picture's values are its Y.

    Raises `ValueError` for a picture of which the border leaves nothing.
    """
    compare = psnr_rgb if picture.is_grey else psnr_y
    result = {}
    for scale in scales:
        hr = crop_to_multiple(to_uint8(picture.rgb), scale)
        if hr.size == 0:
            raise ValueError(f"is smaller than the scale {scale}")
        result[scale] = compare(imresize(imresize(hr, 1 / scale), scale), hr, scale)
    return result


def compare_lr(folder: Path, scale: int) -> LowCheck:
    """Compare the LR pictures of a set with the bicubic reduction of its HR pictures."""
    pairs = open_set(folder, scale)
    differences = (np.abs(pair.lr.astype(np.int16) - imresize(pair.hr, 1 / scale)) for pair in pairs)
    return LowCheck(lr_folder(folder, scale), len(pairs), max(int(difference.max()) for difference in differences))


def digest_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the sorted SHA-256 of each picture's shape and RGB pixels; names, order and formats do not count."""
    return _digest_of_digests(_digest(read_rgb(path)) for path in paths)


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _digest_of_digests(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
