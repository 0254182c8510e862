"""Padding of pictures that are smaller than what a network can take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pad_to_minimum(x: NDArray, min_size: int) -> tuple[NDArray, tuple[int, int]]:
    """Pad an HxWxC picture at the bottom and right until both sides reach ``min_size``; also gives its original (H, W).

    The padding mirrors the picture without repeating its border, as often as needed; a side of one pixel is repeated.
    """
    height, width = x.shape[:2]
    below, right = max(0, min_size - height), max(0, min_size - width)
    if below or right:
        x = np.pad(x, [(0, below), (0, right), (0, 0)], mode="reflect")  # numpy repeats a side of one pixel
    return x, (height, width)


def crop_to(out: NDArray, original: tuple[int, int], scale: int) -> NDArray:
    """The part of an upscaled HxWxC picture that belongs to the original (H, W) before padding."""
    return out[: original[0] * scale, : original[1] * scale]
