"""BT.601 colour as the SR literature uses it, and the step from RGB pictures to what a network takes and back.

Luma is in 16/255..235/255, Cb and Cr in 16/255..240/255, as in MATLAB's ``rgb2ycbcr`` and in BasicSR: PSNR-Y and the
networks that work on Y or YCbCr stand on these numbers (JPEG's full-range YCbCr differs).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bitsr.data.imresize import imresize
from bitsr.descriptor import Descriptor
from bitsr.errors import PictureError

# Rows: Y, Cb, Cr; columns: R, G, B in [0, 1]; results in 0..255.
MATRIX = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
OFFSET = np.array([16.0, 128.0, 128.0])
INVERSE = np.linalg.inv(MATRIX)
HIGHEST = 2.0  # of a float picture: what filters overshoot passes, a picture in 0..255 does not
ROWS = 64  # of a picture are rounded at a time


def check_finite(out: NDArray, name: str) -> None:
    """Raises `PictureError` if the network ``name`` gave NaN or infinite values."""
    if bad := out.size - int(np.count_nonzero(np.isfinite(out))):
        raise PictureError(
            f"{name}: {bad} of {out.size} values of the output are NaN or infinite; nothing is written, start again "
            "from sound weights"
        )


def rgb_to_ycbcr(rgb: NDArray) -> NDArray[np.float32]:
    """RGB to YCbCr; both HxWx3 with values in [0, 1]."""
    return ((np.asarray(rgb, np.float64) @ MATRIX.T + OFFSET) / 255).astype(np.float32)


def rgb_to_y(rgb: NDArray) -> NDArray[np.float32]:
    """Luma of an HxWx3 RGB picture in [0, 1]: HxW, values in [16/255, 235/255], unrounded."""
    return ((np.asarray(rgb, np.float64) @ MATRIX[0] + OFFSET[0]) / 255).astype(np.float32)


def ycbcr_to_rgb(ycbcr: NDArray) -> NDArray[np.float32]:
    """Inverse of `rgb_to_ycbcr`; neither clipped nor rounded."""
    return ((np.asarray(ycbcr, np.float64) * 255 - OFFSET) @ INVERSE.T).astype(np.float32)


def check_rgb(picture: NDArray) -> None:
    """Raises `PictureError` unless a picture is HxWx3, not empty, of uint8, uint16, or float32 in about [0, 1]."""
    shape, dtype = np.shape(picture), getattr(picture, "dtype", type(picture).__name__)
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise PictureError(f"expected an RGB picture HxWx3, got an array of shape {shape}")
    if dtype not in (np.uint8, np.uint16, np.float32):
        raise PictureError(f"expected a picture in uint8, uint16 or float32, got {dtype}")
    if dtype == np.float32 and not np.isfinite(picture).all():
        raise PictureError("the picture holds NaN or infinite values")
    if dtype == np.float32 and picture.max() > HIGHEST:
        raise PictureError(f"a picture in float32 has values in [0, 1], got {picture.max():g}; divide it by 255")


def to_float(picture: NDArray) -> NDArray[np.float32]:
    """uint8 or uint16 to float32 in [0, 1]; floats pass as float32."""
    if np.issubdtype(picture.dtype, np.unsignedinteger):
        return (picture / np.float32(np.iinfo(picture.dtype).max)).astype(np.float32)
    return np.asarray(picture, np.float32)


def from_float(picture: NDArray[np.float32], dtype: DTypeLike) -> NDArray:
    """Inverse of `to_float`: clamped to [0, 1] and rounded to nearest for uint8 and uint16; untouched for float32."""
    kind = np.dtype(dtype)
    if kind.kind != "u":
        return picture.astype(kind, copy=False)
    highest = np.float32(256**kind.itemsize - 1)
    result = np.empty(picture.shape, kind)
    for y in range(0, len(picture), ROWS):
        result[y : y + ROWS] = np.rint(np.clip(picture[y : y + ROWS], 0, 1) * highest)
    return result


def to_network(
    rgb: NDArray[np.float32], descriptor: Descriptor
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """HxWx3 RGB in [0, 1] to (the network's HxWxC input in [0, 1], what `from_network` needs to restore colour).

    A network of luma alone ("y") gets HxWx1; Cb and Cr wait beside it as HxWx2.
    """
    if descriptor.color == "rgb":
        return np.asarray(rgb, np.float32), None
    ycbcr = rgb_to_ycbcr(rgb)
    if descriptor.color == "ycbcr":
        return ycbcr, None
    return ycbcr[..., :1], ycbcr[..., 1:]


def from_network(
    out: NDArray[np.float32], side: NDArray[np.float32] | None, descriptor: Descriptor
) -> NDArray[np.float32]:
    """The network's HxWxC output to HxWx3 RGB, not clamped; the colour of a "y" network is upscaled by bicubic."""
    if descriptor.color == "rgb":
        return np.asarray(out, np.float32)
    if descriptor.color == "y":
        if side is None:
            raise ValueError("a network of luma alone needs the chroma that to_network returned")
        chroma = imresize(side, descriptor.scale) if descriptor.scale != 1 else side
        out = np.concatenate([out, chroma.astype(np.float32)], axis=-1)
    return ycbcr_to_rgb(out)
