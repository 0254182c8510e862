"""Codes of b bits as a dense bit stream: really b bits per code, whatever b is.

Code i occupies the bits i * b ... i * b + b - 1 of the stream, low bits first; bit n of the stream is bit n % 8 of
byte n // 8.  So 4-bit codes lie two to a byte, low nibble first, 2-bit codes four to a byte, and 8 codes of 3 bits fill
3 bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 20  # codes at a time, a multiple of 8: every chunk but the last fills whole bytes


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` codes."""
    return -(-count * bits // 8)


def pack(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Pack codes 0..2**bits - 1 (1 <= bits <= 8), flattened; unused bits of the last byte are 0.

    Raises:
        ValueError: a code does not fit.
    """
    flat = np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >= 2**bits:
        raise ValueError(f"code {int(flat.max())} does not fit into {bits} bits")
    chunks = (flat[i : i + _CHUNK, None] for i in range(0, flat.size, _CHUNK))
    return b"".join(
        np.packbits(np.unpackbits(chunk, axis=1, count=bits, bitorder="little"), bitorder="little").tobytes()
        for chunk in chunks
    )


def unpack(packed: bytes | memoryview, bits: int, count: int) -> NDArray[np.uint8]:
    """``count`` codes, uint8, from their :func:`packed_size` bytes."""
    stream = np.frombuffer(packed, np.uint8)
    if stream.size != packed_size(count, bits):
        raise ValueError(f"{count} codes of {bits} bits fill {packed_size(count, bits)} bytes, got {stream.size}")
    codes = np.empty(count, np.uint8)
    for i in range(0, count, _CHUNK):
        many = min(_CHUNK, count - i)
        piece = stream[i * bits // 8 : i * bits // 8 + packed_size(many, bits)]
        each = np.unpackbits(piece, count=many * bits, bitorder="little").reshape(many, bits)
        codes[i : i + many] = np.packbits(each, axis=1, bitorder="little")[:, 0]
    return codes
