"""What writer and reader agree on: the container's sections, its limits and its checksum."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np

MAGIC: Final = "bitsr"  # the value of "format" in the metadata
VERSION: Final = 6  # what is written
READABLE: Final = (1, 2, 3, 4, 5, 6)
SECTIONS: Final = {"single": "F32", "half": "F16", "codes": "U8", "program": "U8"}  # in file order, with their types
ITEM_SIZES: Final = {"F32": 4, "F16": 2, "U8": 1}
TENSOR_TYPES: Final[dict[str, Any]] = {"single": np.dtype("<f4"), "half": np.dtype("<f2"), "codes": np.dtype("u1")}

HEADER_LIMIT: Final = 1 << 16  # bytes of the container's header
NO_DIGEST: Final = "0" * 64  # stands for the digest while it is computed


def inflated_limit(packed: int) -> int:
    """Most bytes that a program of ``packed`` bytes may inflate to (real ones grow about tenfold)."""
    return min(1 << 23, (1 << 16) + 100 * packed)


def digest_with(data: bytes | memoryview, start: int) -> str:
    """SHA-256 of the file, the 64 bytes from ``start`` on (the digest itself) taken as zeros in ASCII."""
    view = memoryview(data)
    sha = hashlib.sha256(view[:start])
    sha.update(NO_DIGEST.encode())
    sha.update(view[start + 64 :])
    return sha.hexdigest()
