"""Public checkpoints whose state dict leaves something open, by the SHA-256 of the file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Known:
    """A published file and the hyper-parameters that it does not hold (keywords of the network's constructor)."""

    title: str
    config: dict[str, Any] = field(default_factory=dict)


KNOWN = {
    "dc1c29c27c570c6c699bc44766ca22be810757099dae08c0ec172cca47b32412": Known(
        "RFDN x4, trained by bitsr", {"feature_range": 1.0}
    ),
    "740b39653592bd3f49955a21cd9e16f2d37f2c413368cc09327601b8fbe42ce1": Known("IMDN x2, Zheng222/IMDN"),
    "e660c38221147217a136debeb99eb304d62d9c0f73ac421ed66281b619719714": Known("IMDN x4, Zheng222/IMDN"),
    "11af8ec8ebd68689e90ef1e29044f9804c72d3bd9f7573820b7b26035782760c": Known(
        "RFDN_AIM x4, njulj/RFDN", {"feature_range": 255.0}
    ),
    "3e80def799232727ff0663f2b922135ba7d377699ad7b527862256f402414317": Known(
        "MambaIRv2-light x4, NTIRE 2025 ESR team 40"
    ),
    "d3394590387d79949fd557611e3254cc637ff5e0a6b6b7f061f0ce1a6bc11dde": Known(
        "ESPCN x2, Nhat-Thanh/ESPCN-Pytorch", {"color": "ycbcr"}
    ),
    "456c2382c157bf064c31f297374564417d9687dd93de47d41dffdb79b527abb1": Known(
        "ESPCN x4, Nhat-Thanh/ESPCN-Pytorch", {"color": "ycbcr"}
    ),
}


def known_checkpoint(path: Path) -> Known | None:
    """The entry for a file, None if it is none of the known ones."""
    with path.open("rb") as file:
        return KNOWN.get(hashlib.file_digest(file, "sha256").hexdigest())
