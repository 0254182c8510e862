"""Calibration crops: the low-resolution patches on which quantizers find their bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsr.data.benchmark import crop_to_multiple
from bitsr.data.imresize import imresize
from bitsr.data.pictures import list_pictures, read_rgb
from bitsr.errors import PictureError

BUNDLED = Path(__file__).resolve().parents[1] / "assets" / "calibration"


def calibration_crops(
    folder: str | Path | None, scale: int, count: int = 32, size: int = 64, seed: int = 0
) -> list[NDArray[np.uint8]]:
    """``count`` LR crops, each ``size`` x ``size`` x 3 uint8, from HR pictures; the same for the same arguments.

    The pictures are those of ``folder``, or of ``folder/HR``, or the bundled ones for None.  Each is reduced by
    ``scale`` with the MATLAB-exact bicubic, as a network meets its input in evaluation.  A picture too small for that
    is reduced only so far that its short side is ``size``: sharper than true LR, but in the same range of values.
    One smaller than the crop itself is left out.  Pictures take turns in random order, so all are used before one is
    used twice; crops are flipped at random.

    Raises `PictureError` if no picture is large enough.
    """
    if folder is None:
        paths = list_pictures(BUNDLED)
    else:
        inner = Path(folder) / "HR"
        paths = list_pictures(inner if inner.is_dir() else folder)

    rng = np.random.default_rng(seed)
    crops: list[NDArray[np.uint8]] = []
    low: dict[Path, NDArray[np.uint8]] = {}
    order = [paths[i] for i in rng.permutation(len(paths))]
    while len(crops) < count:
        for path in order[: count - len(crops)]:
            if path not in low:
                low[path] = reduced(read_rgb(path), scale, size)
            if min(low[path].shape[:2]) >= size:
                crops.append(random_crop(low[path], size, rng))
        order = [path for path in order if path not in low or min(low[path].shape[:2]) >= size]
        if not order:
            raise PictureError(f"{folder}: no picture is at least {size}x{size}, which calibration crops need")
    return crops


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
