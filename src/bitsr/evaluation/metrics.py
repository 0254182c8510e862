"""PSNR and SSIM as BasicSR computes them, which most SR papers report.

Y is BT.601 luma in 16..235, not rounded.  SSIM (Wang et al., "Image Quality Assessment: From Error Visibility to
Structural Similarity", 2004) has an 11x11 Gaussian window of sigma 1.5 and counts only positions where it lies inside
the picture.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bitsr.runtime.color import rgb_to_y, to_float

WINDOW = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
WINDOW /= WINDOW.sum()
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr_y(a: NDArray[np.uint8], b: NDArray[np.uint8], crop: int) -> float:
    """PSNR in dB of the luma of two HxWx3 uint8 RGB pictures without ``crop`` pixels of border; infinite if equal."""
    return _psnr(*(_luma(x) for x in _trim(a, b, crop)))


def psnr_rgb(a: NDArray[np.uint8], b: NDArray[np.uint8], crop: int) -> float:
    """PSNR in dB over all channels of two HxWxC uint8 pictures without ``crop`` pixels of border; infinite if equal."""
    return _psnr(*(x.astype(np.float64) for x in _trim(a, b, crop)))


def ssim_y(a: NDArray[np.uint8], b: NDArray[np.uint8], crop: int) -> float:
    """SSIM (at most 1) of the luma of two HxWx3 uint8 RGB pictures; 11x11 pixels must be left after cropping."""
    return _ssim(*(_luma(x) for x in _trim(a, b, crop)))


def ssim_rgb(a: NDArray[np.uint8], b: NDArray[np.uint8], crop: int) -> float:
    """SSIM, as the mean over the channels of two HxWxC uint8 pictures; see `ssim_y`."""
    x, y = (picture.astype(np.float64) for picture in _trim(a, b, crop))
    return float(np.mean([_ssim(x[..., c], y[..., c]) for c in range(x.shape[2])]))


def _trim(a: NDArray, b: NDArray, crop: int) -> tuple[NDArray, NDArray]:
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"two pictures of the same shape HxWxC are compared, got {a.shape} and {b.shape}")
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"pictures are compared as uint8, got {a.dtype} and {b.dtype}")
    if min(a.shape[:2]) <= 2 * crop:
        raise ValueError(f"a picture of {a.shape[1]}x{a.shape[0]} pixels has nothing left without a border of {crop}")
    inside = slice(crop, -crop or None)
    return a[inside, inside], b[inside, inside]


def _luma(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    y = rgb_to_y(to_float(rgb)) * np.float32(255)  # in float32, as BasicSR does
    return y.astype(np.float64)


def _psnr(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    mse = float(np.mean(np.square(a - b)))
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


def _ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if min(a.shape) < len(WINDOW):
        raise ValueError(f"SSIM needs at least 11x11 pixels, got {a.shape[1]}x{a.shape[0]}")
    mean_a, mean_b = _blur(a), _blur(b)
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    covariance = _blur(a * b) - product
    variances = _blur(a * a + b * b) - squares
    return float(np.mean((2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))))


def _blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gaussian window as two passes, at positions where it lies inside: HxW to (H-10)x(W-10)."""
    for _ in range(2):  # rows, then columns, which transposing twice brings back into place
        height = len(x) - 10
        out = WINDOW[5] * x[5 : 5 + height]
        for tap in range(5):  # the window is symmetric
            out += WINDOW[tap] * (x[tap : tap + height] + x[10 - tap : 10 - tap + height])
        x = out.T
    return x
