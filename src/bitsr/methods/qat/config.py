"""Options of quantization-aware training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitsr.methods.ptq.config import PTQConfig


@dataclass(frozen=True)
class LSQ(PTQConfig):
    """Learned step sizes (LSQ, LSQ+) on the layers and at the bits that post-training quantization would choose.

    ``start``: the post-training method whose bounds (and, beyond dobi, weights) are the start; ``best`` without its
    last stage, the learning, which is what happens here.  ``calibration``: LR crops for it, each of
    ``calibration_size`` pixels a side.  ``step_rate``: learning rate of step sizes, relative to themselves, and of
    offsets, in steps; as a multiple of the recipe's rate.
    """

    start: Literal["minmax", "percentile", "dobi", "harmoq", "best"] = "best"
    calibration: int = 16
    calibration_size: int = 48
    step_rate: float = 5.0
