"""Options of the post-training methods.  Plain frozen dataclasses; every number is in the unit its comment names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bitsr.errors import ConfigError

BITS = (2, 3, 4, 6, 8, 16, 32)
COUNTED = {  # options of which there must be one
    "batch", "candidates", "crop", "distill_batch", "distill_crop", "groups", "iterations", "patch", "samples",
}  # fmt: skip
KINDS: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"), float: (Real, "a number"), bool: (bool, "true or false"),
}  # fmt: skip


@dataclass(frozen=True)
class PTQConfig:
    """What every post-training method needs to know.

    ``w_bits`` / ``a_bits``: 2, 3, 4, 6 or 8; 16 and 32 leave the operand in floating point.  ``scope``: 'full'
    packs every layer (in transformers the convolutions at ``conv_bits``; in CNNs the first and last convolution and the
    channel/spatial attention branches at 8 bit); 'paper' quantizes what the papers do (transformers: linears and
    attention matmuls only; CNNs: every body convolution at the given bits).  ``layer_bits``: layer name -> (weight
    bits, activation bits) of layers that differ from that; [weight bits, activation bits] in files.  ``conv_bits``, of
    weights and inputs, is for a transformer's convolutions but the first and the last, which keep 8 bit.
    ``attention_bits``, of both operands, is for its attention products, which else take ``a_bits``.
    """

    w_bits: int = 4
    a_bits: int = 4
    scope: Literal["full", "paper"] = "full"
    layer_bits: dict[str, tuple[int, int]] = field(default_factory=dict, hash=False)
    conv_bits: int = 8
    attention_bits: int | None = None

    def __post_init__(self) -> None:
        for name in ("w_bits", "a_bits", "conv_bits", "attention_bits"):
            if getattr(self, name) is not None:
                check_bits(name, getattr(self, name))
        check_options(self)
        object.__setattr__(self, "layer_bits", pairs(self.layer_bits))

    @property
    def fewest_bits(self) -> int:
        """Of any weight or activation."""
        attention = self.a_bits if self.attention_bits is None else self.attention_bits
        return min(self.w_bits, self.a_bits, attention, *(bits for pair in self.layer_bits.values() for bits in pair))

    @property
    def shared(self) -> dict[str, Any]:
        """The options that every method has."""
        return {option.name: getattr(self, option.name) for option in fields(PTQConfig)}

    @property
    def crop_count(self) -> int:
        """How many calibration crops are cut where the pictures are given as a folder."""
        return 128

    def unpackable(self, attention: bool) -> str | None:
        """Why no file can be made of a network so compressed, with ``attention`` maps or without, and what can be done
        instead; None where it can."""
        return None


def check_bits(name: str, bits: int) -> None:
    if bits not in BITS:
        known = ", ".join(map(str, BITS))
        training = "; 1 bit needs training: bitsr train with method bssr_plus" if bits == 1 else ""
        raise ConfigError(f"{name}={bits!r}: post-training quantization takes {known} bits{training}")


def check_options(config: PTQConfig) -> None:
    """Raises `ConfigError` for a word that is none of the choices, a number of another kind, below its least, or not
    finite."""
    hints = get_type_hints(type(config))
    for name in (option.name for option in fields(config)):
        value, choices = getattr(config, name), get_args(hints[name])
        if get_origin(hints[name]) is Literal and value not in choices:
            raise ConfigError(f"{name} is one of {', '.join(map(str, choices))}, got {value!r}")
        kind = next((k for k in (hints[name], *choices) if k in KINDS), None)
        if (
            kind
            and value is not None
            and (isinstance(value, bool) != (kind is bool) or not isinstance(value, KINDS[kind][0]))
        ):
            raise ConfigError(f"{name} is {KINDS[kind][1]}, got {value!r}")
        least = 1 if name in COUNTED else 0
        if isinstance(value, int | float) and not least <= value < math.inf:
            raise ConfigError(f"{name} is at least {least}, got {value}")


def pairs(given: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """``layer_bits`` as typed or read from a file, checked."""
    found = {}
    for name, bits in given.items():
        if not isinstance(bits, list | tuple) or len(bits) != 2:
            raise ConfigError(f"layer_bits: {name} takes [weight bits, activation bits], got {bits!r}")
        for value in bits:
            check_bits(f"layer_bits: {name}", value)
        found[str(name)] = (bits[0], bits[1])
    return found


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
class TwoDQuant(PTQConfig):
    """2DQuant: DOBI, then DQC.

    ``candidates``: of the search.  ``loss``: 'paper' is eq. 6, 'released' what the published code computes.
    ``weights``: bounds per 'row', or per 'tensor' as in the paper; weights of 8 bits, such as those of a CNN's first
    layer, have a symmetric grid per row.  ``steps`` of Adam with ``batch`` crops of ``crop`` LR pixels (paper: 3000,
    32, 64); ``lr`` in quantization steps.
    """

    candidates: int = 100
    loss: Literal["paper", "released"] = "paper"
    weights: Literal["row", "tensor"] = "row"
    steps: int = 150
    batch: int = 4
    crop: int = 32
    lr: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights == "tensor" and self.w_bits >= 8:
            raise ConfigError("weights of 8 bits have a symmetric grid per row: weights=tensor is for fewer bits")


@dataclass(frozen=True)
class AdaRound(PTQConfig):
    """AdaRound: ``steps`` of Adam on the rounding of each layer, ``batch`` rows each (paper: 10000).

    ``regularization``: of the term that pushes to 0 or 1, relative to the output's variance.  ``groups``: how often the
    quantized prefix is run to refresh the rows, of which there are ``samples``.
    """

    steps: int = 400
    batch: int = 512
    lr: float = 0.05
    regularization: float = 0.1
    groups: int = 8
    samples: int = 8192


@dataclass(frozen=True)
class BRECQ(PTQConfig):
    """BRECQ: ``steps`` of Adam on a block's rounding (paper: 20000), then ``activation_steps`` (5000) on its bounds,
    ``batch`` calibration crops each.

    ``regularization`` as in AdaRound; ``activation_lr`` in quantization steps; ``samples``: rows for the first bounds.
    """

    steps: int = 100
    batch: int = 1
    lr: float = 0.05
    regularization: float = 0.1
    activation_steps: int = 40
    activation_lr: float = 0.02
    samples: int = 4096


@dataclass(frozen=True)
class QDrop(PTQConfig):
    """QDrop: as BRECQ, rounding and bounds together; an element stays in floating point with probability ``drop``."""

    steps: int = 140
    batch: int = 1
    lr: float = 0.05
    regularization: float = 0.1
    activation_lr: float = 0.02
    drop: float = 0.5
    samples: int = 4096


@dataclass(frozen=True)
class DBDCPac(PTQConfig):
    """DBDC+Pac: ``tail`` is the share of values that is clipped; ``released_tail`` the one that the published code
    really clips.  ``detached``: without the feature term, whose gradient the published code cuts.  ``steps`` for each
    of the two phases; ``lr`` and ``weight_lr`` in quantization steps."""

    tail: float = 5e-4
    released_tail: bool = False
    detached: bool = False
    steps: int = 80
    batch: int = 4
    crop: int = 32
    lr: float = 0.15
    weight_lr: float = 0.15


@dataclass(frozen=True)
class GPTQ(PTQConfig):
    """GPTQ: ``damping`` is relative to the mean of the second moment's diagonal; ``groups`` and ``samples`` as in
    AdaRound."""

    damping: float = 0.01
    groups: int = 8
    samples: int = 8192


@dataclass(frozen=True)
class SmoothQuant(PTQConfig):
    """SmoothQuant with MinMax bounds: ``strength`` is the paper's alpha.  ``unfolded``: layers without a LayerNorm
    before them are scaled too, when the network runs.  ``samples``: rows on which channels are measured."""

    strength: float = 0.5
    unfolded: bool = True
    samples: int = 4096


@dataclass(frozen=True)
class RepQ(PTQConfig):
    """RepQ-ViT: ``softmax`` 'log' is the paper's quantizer of base sqrt 2, which cannot be packed; 'affine' can.
    ``samples``: rows on which channels are calibrated."""

    softmax: Literal["log", "affine"] = "log"
    samples: int = 4096

    def unpackable(self, attention: bool) -> str | None:
        if not attention or self.softmax == "affine" or (self.attention_bits or self.a_bits) >= 16:
            return None
        return "repq's logarithmic softmax has no step in packed files; give softmax=affine, or measure it from Python"


@dataclass(frozen=True)
class SVDQuant(PTQConfig):
    """SVDQuant: ``rank`` of the floating-point branch.  ``weighted``: singular values of the weight times a root of the
    input's second moment, so that the branch takes what matters in the output.  ``strength`` as in SmoothQuant, the
    others as in GPTQ."""

    rank: int = 4
    weighted: bool = True
    strength: float = 0.5
    damping: float = 0.1
    groups: int = 8
    samples: int = 8192


@dataclass(frozen=True)
class PAMS(PTQConfig):
    """PAMS as a post-training method: only alpha is learned.  ``narrow``: the paper's grid of 2^b - 1 levels, which
    cannot be packed.  ``steps``, ``batch``, ``crop``, ``lr`` as in 2DQuant."""

    narrow: bool = False
    steps: int = 150
    batch: int = 4
    crop: int = 32
    lr: float = 0.5

    def unpackable(self, attention: bool) -> str | None:
        if not self.narrow or self.a_bits >= 16:
            return None
        return "PAMS's own grid of 2^b - 1 levels cannot be packed; leave out narrow=true, or measure it from Python"


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
    src: Literal[
        "exact", "printed", "sylvester", "subspace", "random_subspace", "laplacian", "sobel", "dct", "learned",
        "random", "mix", "none",
    ] = "exact"  # fmt: skip
    ridge: float = 0.03
    rounding: Literal["gptq", "nearest"] = "gptq"
    damping: float = 0.1
    bias_correction: bool = True
    abr_steps: int = 20
    abr_loss: Literal["exact", "first_order"] = "exact"
    groups: int = 8
    samples: int = 8192
    distill_steps: int = 100
    distill_batch: int = 4
    distill_crop: int = 32
    distill_lr: float = 0.05


@dataclass(frozen=True)
class Best(PTQConfig):
    """The stages that gain most, under one budget.

    ``effort`` says how often statistics are refreshed (``groups``), from how many rows (``samples``), and how long the
    whole network is learned (``learn_steps``, 0: not); each of those given goes before it.  ``learn_rate`` of weights
    is in quantization steps; 0 leaves their codes as GPTQ has them and learns bounds alone.  ``rank`` of a low-rank
    branch in floating point beside each layer, as in SVDQuant.  ``row_scale``: attention maps get a scale
    per query when the network runs; without it one for all, as in the papers.
    """

    effort: Literal["fast", "default", "max"] = "default"
    groups: int | None = None
    samples: int | None = None
    learn_steps: int | None = None
    learn_rate: float = 0.02
    rank: int = 0
    row_scale: bool = True

    @property
    def crop_count(self) -> int:
        """Weights that are learned for long learn 128 crops by heart."""
        return 512 if self.effort == "max" else super().crop_count


@dataclass(frozen=True)
class HarmoQLiteral(PTQConfig):
    """HarmoQ's Algorithm 1 as printed.  ``iterations`` over each layer ("10-20"); ``anchored``: SRC starts from the
    pristine weight each time; ``ridge`` is lambda, absolute; ``samples``: rows of each layer."""

    iterations: int = 15
    anchored: bool = False
    ridge: float = 0.01
    samples: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(bits > 8 for pair in ((self.w_bits, self.a_bits), *self.layer_bits.values()) for bits in pair):
            raise ConfigError("harmoq-literal corrects weights and inputs together: give both 2 to 8 bits")


@dataclass(frozen=True)
class GranularDQ(PTQConfig):
    """Granular-DQ: weights of 8 bits, activations of 4 to 8 that each ``patch`` of so many LR pixels gets when the
    network runs.  ``steps``, ``batch``, ``crop``, ``lr`` as in 2DQuant; ``samples``: rows for the first bounds."""

    w_bits: int = 8
    a_bits: int = 8
    patch: int = 96
    steps: int = 100
    batch: int = 4
    crop: int = 32
    lr: float = 0.05
    samples: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_bits:
            raise ConfigError("Granular-DQ chooses bits itself; layer_bits are for the other methods")
        if (self.w_bits, self.a_bits) != (8, 8):
            raise ConfigError(
                f"Granular-DQ has weights of 8 bits and chooses those of activations itself, got W{self.w_bits}"
                f"A{self.a_bits}: leave both at 8; it is measured from Python and has no file (fixed bits are "
                "--method 2dquant --w-bits 8 --a-bits N)"
            )

    def unpackable(self, attention: bool) -> str | None:
        return (
            "granular-dq chooses bits while the network runs, so there is no file of it: measure it from Python with "
            "bitsr.compress and bitsr.evaluate; with fixed bits it is --method 2dquant --w-bits 8 --a-bits N"
        )
