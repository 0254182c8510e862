"""Bicubic resizing that equals MATLAB's ``imresize`` (antialiased, a = -0.5), bit for bit on uint8.

MATLAB resizes one dimension after the other, rows first, and rounds uint8 pictures after *each* pass.  Every published
SR benchmark number stands on low-resolution pictures made this way; Pillow's or torch's bicubic differ by up to 0.2 dB.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5, support [-2, 2]."""
    a = np.abs(x)
    near = 1.5 * a**3 - 2.5 * a**2 + 1
    far = -0.5 * a**3 + 2.5 * a**2 - 4 * a + 2
    return np.where(a <= 1, near, np.where(a <= 2, far, 0.0))


@lru_cache(maxsize=64)
def contributions(
    length: int, out_length: int, scale: float, antialias: bool
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Indices and weights, both (out_length, taps), of the input samples that make each output sample.

    Positions outside the picture are mirrored (half-sample symmetric), as MATLAB does.
    """
    stretch = 1.0 / scale if antialias and scale < 1 else 1.0  # the kernel widens when shrinking
    centre = np.arange(1, out_length + 1) / scale + 0.5 * (1 - 1 / scale)
    first = np.floor(centre - 2 * stretch)
    positions = first[:, None] + np.arange(math.ceil(4 * stretch) + 2)
    weights = cubic((centre[:, None] - positions) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    indices = mirrored[np.mod(positions.astype(np.intp) - 1, 2 * length)]
    used = np.any(weights != 0, axis=0)
    return indices[:, used], weights[:, used]


def _resize_rows(picture: NDArray, scale: float, antialias: bool) -> NDArray[np.float64]:
    indices, weights = contributions(picture.shape[0], math.ceil(picture.shape[0] * scale), scale, antialias)
    out = np.zeros((indices.shape[0], *picture.shape[1:]))
    for tap in range(indices.shape[1]):
        out += weights[:, tap].reshape(-1, *[1] * (picture.ndim - 1)) * picture[indices[:, tap]]
    return out


def imresize(picture: NDArray, scale: float, antialias: bool = True) -> NDArray:
    """Resize an HxW or HxWxC picture by ``scale``; the output side is ceil(side * scale).

    uint8 stays uint8 (rounded half up and clipped after each pass); floats stay floats and are neither rounded nor
    clipped.
    """
    if picture.ndim not in (2, 3) or 0 in picture.shape:
        raise ValueError(f"imresize takes a non-empty HxW or HxWxC picture, got shape {picture.shape}")
    if not scale > 0:
        raise ValueError(f"imresize takes a scale above 0, got {scale}")
    dtype = picture.dtype

    def settle(x: NDArray[np.float64]) -> NDArray:
        return np.clip(np.floor(x + 0.5), 0, 255).astype(np.uint8) if dtype == np.uint8 else x

    rows = settle(_resize_rows(picture, scale, antialias))
    columns = settle(_resize_rows(np.swapaxes(rows, 0, 1), scale, antialias))
    out = np.swapaxes(columns, 0, 1)
    return np.ascontiguousarray(out if dtype == np.uint8 else out.astype(dtype))
