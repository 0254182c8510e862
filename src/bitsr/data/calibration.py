"""Calibration crops: the low-resolution patches on which quantizers find their bounds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsr.data.benchmark import Pair, crop_to_multiple, hr_folder
from bitsr.data.imresize import imresize
from bitsr.data.pictures import list_pictures, read_rgb
from bitsr.errors import ConfigError, PictureError

BUNDLED = Path(__file__).resolve().parents[1] / "assets" / "calibration"
HOLD_OUT = 10  # every so many pictures one is held out, where there are twice as many
SELECTION = 8  # every so many crops one is for choosing among what the others have taught
LEAST, MOST = 32, 160  # LR pixels a side: of a picture to judge on, and of the crop of it

Pictures = str | Path | Sequence[Path] | None


def calibration_crops(
    folder: Pictures, scale: int, count: int = 128, size: int = 64, seed: int = 0
) -> list[NDArray[np.uint8]]:
    """``count`` LR crops, each ``size`` x ``size`` x 3 uint8, from HR pictures; the same for the same arguments.

    The pictures are those of ``folder``, or of ``folder/HR``, or a list of files, or the bundled ones for None.  Each
    is reduced by ``scale`` with the MATLAB-exact bicubic, as a network meets its input in evaluation.  A picture too
    small for that is reduced only so far that its short side is ``size``: sharper than true LR, but in the same range
    of values. One smaller than the crop itself is left out.  Pictures come in random order and give one crop each; of
    fewer than ``count`` they take turns, but the last eighth of the crops is from pictures of its own (an eighth of
    them, at least one of several), because methods that learn choose their best state there.  Crops are flipped at
    random.

    Raises `PictureError` if no picture is large enough, `ConfigError` for numbers below 1 and a seed below 0.
    """
    return crops_and_rest(folder, scale, count, size, seed)[0]


def crops_and_rest(
    folder: Pictures, scale: int, count: int, size: int = 64, seed: int = 0
) -> tuple[list[NDArray[np.uint8]], list[Path]]:
    """(the crops of `calibration_crops`, the pictures that none of them is from): where there are more pictures than
    crops, some are left to judge on."""
    check_numbers(scale=scale, count=count, size=size)
    rng = generator(seed)
    paths = paths_of(folder)
    unread = deque(paths[i] for i in rng.permutation(len(paths)))
    low: list[NDArray[np.uint8]] = []
    while unread and len(low) < count:
        picture = reduced(read_rgb(unread.popleft()), scale, size)
        if min(picture.shape[:2]) >= size:
            low.append(picture)
    if not low:
        raise PictureError(
            f"{place(folder)}: no picture is at least {size}x{size}, which calibration crops need; add larger ones"
        )
    crops = [random_crop(picture, size, rng) for picture in in_turns(low, count)]
    return crops, [path for path in paths if path in unread]


def selection(count: int) -> int:
    """How many of ``count`` crops, the last ones, are for choosing a state; none of one."""
    return max(1, count // SELECTION) if count > 1 else 0


def in_turns(pictures: list[NDArray[np.uint8]], count: int) -> list[NDArray[np.uint8]]:
    """``count`` of them; of fewer the last eighth is from pictures that are not among the others."""
    if len(pictures) == count:
        return pictures
    own = selection(len(pictures))
    selected = selection(count) if own else 0
    to_learn, to_select = pictures[own:], pictures[:own]
    turns = [to_learn[i % len(to_learn)] for i in range(count - selected)]
    return turns + [to_select[i % own] for i in range(selected)]


def held_out_pairs(folder: Pictures, scale: int, count: int = 16, size: int = 64, seed: int = 0) -> list[Pair]:
    """``count`` pairs of an LR crop, ``size`` x ``size`` x 3 uint8, and its HR, for choices that calibration should
    not judge itself; the same for the same arguments.

    LR is made from the whole picture, as in evaluation.  Pictures too small for a crop are left out; those that are
    left take turns.  Raises `PictureError` if there is none.
    """
    check_numbers(scale=scale, count=count, size=size)
    rng = generator(seed, 1)
    whole = whole_pairs(folder, scale, count, size, rng)
    return [random_pair(whole[n % len(whole)], size, scale, rng) for n in range(count)]


def pair_per_picture(folder: Pictures, scale: int, count: int = 16, pixels: int = 150_000, seed: int = 0) -> list[Pair]:
    """Pairs as of `held_out_pairs`, but one of each picture, at most ``count``, and as large as the pictures, a side
    of 160 and ``pixels``, the LR pixels of all together, allow: for means as over a benchmark, where many small crops
    would count every patch of sky as a picture.

    Pictures below 32 LR pixels a side are left out.  Raises `PictureError` if there is no other.
    """
    check_numbers(scale=scale, count=count, pixels=pixels)
    rng = generator(seed, 1)
    whole = whole_pairs(folder, scale, count, LEAST, rng)
    size = min(max(LEAST, math.isqrt(pixels // len(whole))), MOST)
    return [random_pair(pair, size, scale, rng) for pair in whole]


def whole_pairs(folder: Pictures, scale: int, count: int, least: int, rng: np.random.Generator) -> list[Pair]:
    """Whole pictures in random order, at most ``count``, of at least ``least`` LR pixels a side."""
    paths = paths_of(folder)
    whole: list[Pair] = []
    for i in rng.permutation(len(paths)):
        hr = crop_to_multiple(read_rgb(paths[i]), scale)
        if min(hr.shape[:2]) >= least * scale:
            whole.append(Pair(paths[i].name, imresize(hr, 1 / scale), hr))
        if len(whole) == count:
            break
    if not whole:
        side = least * scale
        raise PictureError(
            f"{place(folder)}: no picture is at least {side}x{side}, which held-out crops need; add larger ones"
        )
    return whole


def check_numbers(**numbers: int) -> None:
    """Raises `ConfigError` for the first that is not at least 1."""
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} is at least 1, got {value}")


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Random numbers of a seed; raises `ConfigError` for a negative one."""
    if seed < 0:
        raise ConfigError(f"seed is at least 0, got {seed}")
    return np.random.default_rng((seed, *stream) if stream else seed)


def split(folder: Pictures) -> tuple[list[Path], list[Path]]:
    """(pictures to calibrate on, pictures to judge on): every tenth is held out.  Of fewer than 20 all serve for both,
    and only the places of the crops differ."""
    paths = paths_of(folder)
    if len(paths) < 2 * HOLD_OUT:
        return paths, paths
    return [p for i, p in enumerate(paths) if i % HOLD_OUT != HOLD_OUT - 1], paths[HOLD_OUT - 1 :: HOLD_OUT]


def paths_of(folder: Pictures) -> list[Path]:
    """Picture files: of ``folder``, of ``folder/HR``, the bundled ones for None, or those that are listed."""
    if folder is None:
        return list_pictures(BUNDLED)
    if not isinstance(folder, str | Path):
        return list(folder)
    return list_pictures(hr_folder(folder))


def place(folder: Pictures) -> str:
    """How an error names the pictures."""
    if folder is None or isinstance(folder, str | Path):
        return str(folder or BUNDLED)
    return str(folder[0].parent) if folder else "an empty list"


def random_pair(pair: Pair, size: int, scale: int, rng: np.random.Generator) -> Pair:
    """The same random place of both pictures, ``size`` LR pixels a side or what there is."""
    sides = [min(size, length) for length in pair.lr.shape[:2]]
    y, x = (int(rng.integers(length - side + 1)) for length, side in zip(pair.lr.shape, sides, strict=False))
    height, width = sides
    lr = pair.lr[y : y + height, x : x + width]
    hr = pair.hr[y * scale : (y + height) * scale, x * scale : (x + width) * scale]
    return Pair(pair.name, np.ascontiguousarray(lr), np.ascontiguousarray(hr))


def reduced(hr: NDArray[np.uint8], scale: int, size: int) -> NDArray[np.uint8]:
    """``hr`` reduced by ``scale``, or by as much as leaves a short side of ``size``; unchanged if it is not larger."""
    hr_cropped = crop_to_multiple(hr, scale)
    if min(hr_cropped.shape[:2]) >= size * scale:
        return imresize(hr_cropped, 1 / scale)
    return imresize(hr, size / short) if (short := min(hr.shape[:2])) > size else hr


def random_crop(picture: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A ``size`` x ``size`` patch at a random place, flipped with even chance in each axis."""
    y = int(rng.integers(picture.shape[0] - size + 1))
    x = int(rng.integers(picture.shape[1] - size + 1))
    crop = picture[y : y + size, x : x + size]
    if rng.integers(2):
        crop = crop[:, ::-1]
    if rng.integers(2):
        crop = crop[::-1]
    return np.ascontiguousarray(crop)
