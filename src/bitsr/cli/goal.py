"""`--budget` and `--max-drop` of `bitsr compress`: bits per layer are chosen to meet them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bitsr
from bitsr.cli.console import UsageError
from bitsr.data.calibration import held_out_pairs, split

JUDGED = 48  # held-out crops for a loss; a quarter of them counts
UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}


@dataclass(frozen=True)
class Goal:
    """Limits of a file's bytes and of BitOps (relative to the config's own bits), or a loss of PSNR-Y in dB."""

    file_bytes: int | None = None
    bit_ops: float | None = None
    max_drop: float | None = None


def parse_goal(budget: str | None, max_drop: float | None) -> Goal | None:
    """What the two options ask for; None where neither is given."""
    if budget is not None and max_drop is not None:
        raise UsageError("give --budget or --max-drop, not both")
    if max_drop is not None:
        if not 0 < max_drop < math.inf:
            raise UsageError(f"--max-drop {max_drop}: takes a number of dB above 0")
        return Goal(max_drop=max_drop)
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
    return Goal(**limits)


def compress_for(
    goal: Goal, module: Any, config: Any, calib: Path | None, precision: Literal["fp16", "fp32"], seed: int
) -> Any:
    """The compressed module.  Every tenth calibration picture is held out, and the choice is judged on those."""
    from bitsr.methods.ptq.mixed import Budget, compress_to_budget, compress_within_drop, survey

    scale = module.descriptor.scale
    calibration, held = split(calib)
    crops = bitsr.calibration_crops(calibration, scale, seed=seed)
    pairs = held_out_pairs(held, scale, JUDGED, seed=seed)
    found = survey(module, config, crops, [pair.lr for pair in pairs], seed)
    if goal.max_drop is not None:
        return compress_within_drop(module, found, crops, pairs, goal.max_drop, seed=seed)
    budget = Budget(goal.file_bytes, goal.bit_ops)
    return compress_to_budget(module, found, crops, budget, precision=precision, seed=seed)
