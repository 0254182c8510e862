"""PNG with 16 bits per sample, which Pillow cuts down to 8."""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import png
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type of the IHDR chunk


def is_png16(path: Path) -> bool:
    """Whether the file begins as a PNG with 16 bits per sample."""
    with open(path, "rb") as file:
        head = file.read(26)
    return head[:8] == SIGNATURE and head[12:16] == b"IHDR" and head[24:25] == b"\x10"


def read_png16(path: Path, max_pixels: int) -> NDArray[np.uint16]:
    """Samples of a 16-bit PNG: HxWxC uint16; a transparent colour becomes an alpha channel.

    Raises ValueError for more than ``max_pixels`` and for data that decompresses to more than the header announces.
    """
    with open(path, "rb") as file:
        reader = png.Reader(file=file)
        reader.preamble()
        reader.sbit = None  # how many bits the camera had; all samples span 16
        if reader.width * reader.height > max_pixels:
            raise ValueError(f"{reader.width}x{reader.height} pixels are more than the limit of {max_pixels}")
        _refuse_bomb(path, reader.height * (reader.width * reader.planes * 2 + 16))
        width, height, rows, info = reader.asDirect()
        flat = np.fromiter(itertools.chain.from_iterable(rows), np.uint16, width * height * info["planes"])
    return flat.reshape(height, width, info["planes"])


def _refuse_bomb(path: Path, limit: int) -> None:
    inflater = zlib.decompressobj()
    produced = 0
    with open(path, "rb") as file:
        for kind, data in png.Reader(file=file).chunks():
            while kind == b"IDAT" and data and not inflater.eof:
                produced += len(inflater.decompress(data, 1 << 20))
                data = inflater.unconsumed_tail
                if produced > limit:
                    raise ValueError("its data decompress to more than the header announces")


def encode_png16(pixels: NDArray[np.uint16], icc: bytes | None = None, exif: bytes | None = None) -> bytes:
    """An HxWxC uint16 picture (C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA) as the bytes of a PNG file.

    Each row is stored as its difference to the row above (filter "up").
    """
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])

    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPE[channels], 0, 0, 0))]
    if icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
