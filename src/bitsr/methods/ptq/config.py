"""Options of the post-training methods.  Plain frozen dataclasses; every number is in the unit its comment names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitsr.errors import ConfigError

BITS = (2, 3, 4, 6, 8, 16, 32)


@dataclass(frozen=True)
class PTQConfig:
    """What every post-training method needs to know.

    ``w_bits`` / ``a_bits``: 2, 3, 4, 6 or 8; 16 and 32 leave the operand in floating point.  ``scope``: 'full'
    packs every layer (in transformers the convolutions at 8 bit; in CNNs the first and last convolution and the
    channel/spatial attention branches at 8 bit); 'paper' quantizes what the papers do (transformers: linears and
    attention matmuls only; CNNs: every body convolution at the given bits).
    """

    w_bits: int = 4
    a_bits: int = 4
    scope: Literal["full", "paper"] = "full"

    def __post_init__(self) -> None:
        for name in ("w_bits", "a_bits"):
            if getattr(self, name) not in BITS:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: post-training quantization takes {', '.join(map(str, BITS))} bits"
                    " (1 bit needs training)"
                )
        if self.scope not in ("full", "paper"):
            raise ConfigError(f"scope is 'full' or 'paper', got {self.scope!r}")


@dataclass(frozen=True)
class MinMax(PTQConfig):
    """Bounds at the extremes of weights (per row) and calibration activations (per tensor)."""


@dataclass(frozen=True)
class Percentile(PTQConfig):
    """Bounds at the ``tail`` and 1 - ``tail`` quantiles of the activations; weights as in MinMax."""

    tail: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tail < 0.5:
            raise ConfigError(f"tail is a share between 0 and 0.5, got {self.tail}")


@dataclass(frozen=True)
class Dobi(PTQConfig):
    """Stage 1 of 2DQuant: bounds by exhaustive search for the least squared error, weights and activations."""

    candidates: int = 100


@dataclass(frozen=True)
class HarmoQ(PTQConfig):
    """HarmoQ in its corrected form; each stage can be switched off to measure what it gives.

    ``hso``: smooth input channels against weight columns.  ``src``: 'exact' regresses on the quantized input,
    'none' leaves the weights.  ``ridge``: relative to the mean of the covariance's diagonal.  ``rounding``: 'gptq'
    towards the corrected weights, or 'nearest'.  ``damping``: of GPTQ, relative as the ridge.  ``bias_correction``:
    mean output error into the bias.  ``abr_steps``: Adam steps on one layer's bounds. ``groups``: how often the
    quantized prefix is run to refresh the statistics.  ``distill_steps``: Adam steps on all bounds and biases
    against the full-precision output, ``distill_batch`` crops of ``distill_crop`` LR pixels each; ``distill_lr`` is
    in quantization steps.
    """

    hso: bool = True
    src: Literal["exact", "none"] = "exact"
    ridge: float = 0.03
    rounding: Literal["gptq", "nearest"] = "gptq"
    damping: float = 0.1
    bias_correction: bool = True
    abr_steps: int = 20
    groups: int = 8
    samples: int = 8192
    distill_steps: int = 100
    distill_batch: int = 4
    distill_crop: int = 32
    distill_lr: float = 0.05
