"""`--budget` and `--max-drop` of `bitsr compress`: bits per layer are chosen to meet them."""

from __future__ import annotations

import re
from typing import Any

from bitsr.cli.console import UsageError
from bitsr.errors import ConfigError
from bitsr.methods.ptq.goals import Budget, Goal, MaxDrop

UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}


def parse_goal(budget: str | None, max_drop: float | None) -> Goal | None:
    """What the two options ask for; None where neither is given."""
    if budget is not None and max_drop is not None:
        raise UsageError("give --budget or --max-drop, not both")
    if max_drop is not None:
        try:
            return MaxDrop(max_drop)
        except ConfigError as error:
            raise UsageError(f"--max-drop {max_drop}: {error}") from None
    if budget is None:
        return None
    limits: dict[str, Any] = {}
    for word in budget.split(","):
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+|%)", word.strip())
        if not found or float(found[1]) == 0 or (found[2] != "%" and found[2] not in UNITS):
            raise UsageError(f"--budget {word}: takes a size, as in 300KiB or 1.5MB, or a share of BitOps, as in 80%")
        value = float(found[1])
        kind = "bit_ops" if found[2] == "%" else "file_bytes"
        if kind in limits:
            raise UsageError(f"--budget {budget}: takes one size and one share of BitOps at most")
        limits[kind] = value / 100 if kind == "bit_ops" else int(value * UNITS[found[2]])
    return Budget(**limits)
