"""How packed files are called."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".bitsr"


def is_packed(path: str | Path) -> bool:
    """Whether the name is that of a packed file: they end in `.bitsr`."""
    return str(path).lower().endswith(SUFFIX)
