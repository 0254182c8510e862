"""Options of the methods that train networks of signs.  Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitsr.errors import ConfigError
from bitsr.program.binary import states

KAPPA_RANGE = (0.05, 16.0)


def check_codes(keep: int, block: int) -> None:
    """Raises `ConfigError` where the signs of a block have no code in a packed file."""
    try:
        states(keep, block)
    except ValueError as error:
        raise ConfigError(f"{error}, so they cannot be packed: take shorter blocks, 2 of 4 for instance") from None


@dataclass(frozen=True)
class BSSR:
    """How BSSR's linears are made and trained.

    Forward: ``keep`` of every ``block`` weights stay.  ``order`` 'mask' chooses them by their size and takes statistics
    of those alone; 'binarize' takes them of all weights, and then all weights of a block are equally large, so that the
    first ones stay (the order that the paper argues against).  ``centre``: signs are those of W - mean of the group, as
    printed; else of W.  ``group`` inputs share a scale, ``tiling`` says what happens where they do not fill a row (see
    `scale_groups.group_sizes`).  ``scale_from`` 'raw' is mean |W| as printed, 'centred' mean |W - mean|, the
    least-squares scale of the signs.  ``add_mean`` adds the mean of the group back to its kept weights, which then are
    no signs any more: such a network is trained and measured, not packed, and so is one of 'flat' tiles, whose groups
    run on over the end of a row.

    Backward: the weight's gradient is that of tanh(kappa z) with z the 'raw' weight or the 'normal' one, (W - mean) /
    scale; at kappa = 0.5 the former is constant within 0.3 % for |W| <= 0.1.  ``weight_gradient`` 'none' is eq. 7,
    'scale' multiplies it by the scale; the chain rule of mask * scale * tanh(kappa z) is 'scale' for the raw weight and
    'none' for the normal one, whose own scale cancels.  ``scale_gradient`` lets the gradients of scale and mean
    through.  ``kappa`` is the first value of the slopes, ``kappa_scope`` how many there are (weights and inputs have
    their own).  ``rho`` pulls weights that are not kept to zero: through the 'grad' (which Adam normalizes), or
    'decoupled' from it, at the rate ``decay_rate``, which does not follow the schedule.

    Inputs: sign(gain * x + shift) with a ``gain`` per channel or one for all, and ``activation_surrogate``.

    ``pointwise``: convolutions of 1x1 are linears too (the ``in_proj`` of MambaIRv2).  ``skip``: linears with one of
    these parts in their name stay in floating point, as do those whose inputs are no whole blocks.
    """

    keep: int = 2
    block: int = 4
    order: Literal["mask", "binarize"] = "mask"
    centre: bool = True
    group: int = 32
    tiling: Literal["ragged", "balanced", "row", "flat"] = "ragged"
    scale_from: Literal["raw", "centred"] = "raw"
    add_mean: bool = False
    surrogate_of: Literal["raw", "normal"] = "raw"
    weight_gradient: Literal["none", "scale"] = "none"
    scale_gradient: bool = False
    kappa: float = 0.5
    kappa_learnable: bool = True
    kappa_scope: Literal["layer", "global", "channel"] = "layer"
    rho: float = 0.002
    decay_mode: Literal["grad", "decoupled"] = "grad"
    decay_rate: float = 2e-4
    activation_surrogate: Literal["tanh", "bireal", "clip"] = "tanh"
    gain: Literal["channel", "scalar"] = "channel"
    pointwise: bool = False
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.keep <= self.block or self.group < 1 or self.group % self.block:
            given = f"keep {self.keep}, block {self.block}, group {self.group}"
            raise ConfigError(f"BSSR keeps some weights of each block, and a group is whole blocks; got {given}")
        check_codes(self.keep, self.block)
        if not self.centre and (self.add_mean or self.scale_from == "centred"):
            raise ConfigError("without centre no mean is taken: add_mean and scale_from centred need it")
        if not KAPPA_RANGE[0] <= self.kappa <= KAPPA_RANGE[1]:
            raise ConfigError(f"kappa lies in {KAPPA_RANGE[0]}..{KAPPA_RANGE[1]}, got {self.kappa}")


@dataclass(frozen=True)
class BSSRPlus(BSSR):
    """BSSR with what makes the same file better; each part is an option, and without any of them this is BSSR.

    ``start`` 'least_squares': shifts, signs, masks and scales are fitted layer by layer to what the full-precision
    layer makes of ``calibration`` LR crops of ``calibration_size`` pixels, see `sign_start`.  ``learned_scale``: the
    scales of the groups are parameters.  ``masked_gradient``: weights that are not kept get the gradient of the loss as
    well, so that they can come back; nothing pulls them to zero (``rho``).

    Three parts cost bytes and are off: ``diagonal``, a shortcut with a factor per output, ``rank``, a low-rank branch,
    and ``sparse``, the largest weights, that many for each channel of the wider side (BiMaCoSR: 2).  All are in half
    precision.
    """

    centre: bool = False
    surrogate_of: Literal["raw", "normal"] = "normal"
    kappa: float = 1.0
    rho: float = 0.0
    activation_surrogate: Literal["tanh", "bireal", "clip"] = "bireal"
    start: Literal["weights", "least_squares"] = "least_squares"
    calibration: int = 16
    calibration_size: int = 48
    learned_scale: bool = True
    masked_gradient: bool = True
    diagonal: bool = False
    rank: int = 0
    sparse: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration < 1 or self.calibration_size < 1 or min(self.rank, self.sparse) < 0:
            raise ConfigError("calibration needs crops with pixels, and rank and sparse are not negative")
        if self.start == "least_squares" and not self.learned_scale:
            raise ConfigError("start least_squares fits scales: it needs learned_scale")
        if self.start == "least_squares" and (self.gain, self.order, self.centre) != ("channel", "mask", False):
            raise ConfigError(
                "start least_squares fits a gain per channel, a mask by size and the signs of the weights: "
                "gain channel, order mask, centre false"
            )
        if self.learned_scale and (self.scale_from != "raw" or self.add_mean or self.scale_gradient):
            raise ConfigError("learned scales do not follow from the weights: scale_from, add_mean and scale_gradient "
                              "are for learned_scale: false")  # fmt: skip
        if self.learned_scale and self.tiling == "flat":
            raise ConfigError("learned scales need groups that end with their row, not tiling flat")


@dataclass(frozen=True)
class Binary:
    """A binarizer of the literature on every linear (and ``convolutions``), with an N:M mask.

    ``binarizer`` 'none' leaves inputs and weights in floating point, so that only the mask compresses.  ``keep`` of
    every ``block`` weights stay where there is a ``mask``; 'drc-lite' is no mask but removes half of the channels
    inside each block, and 'drc' half or more, searched in ``search_steps`` steps.  ``full_block`` puts an RPReLU and a
    shortcut around each layer; 'bbcu' is 'reactnet' with a shortcut around the RPReLU.  ``unit_inputs``: DoReFa's
    own {0, 1} in the place of signs.  ``convolutions``: all but the network's first and last one become layers of signs
    as well; those that upsample can be left out with ``skip``, which is as for BSSR.
    """

    binarizer: Literal["none", "dorefa", "reste", "biper", "bhvit", "xnor", "bireal", "reactnet", "bbcu"] = "reactnet"
    mask: Literal["none", "srste", "bimask", "tmask", "sste", "asp", "drc", "drc-lite"] = "none"
    keep: int = 2
    block: int = 4
    search_steps: int = 200
    convolutions: bool = False
    full_block: bool = False
    unit_inputs: bool = False
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.keep < self.block:
            raise ConfigError(f"a mask keeps some weights of each block, not {self.keep} of {self.block}")
        if self.binarizer != "none" and self.masked:
            check_codes(self.keep, self.block)
        if self.search_steps < 0:
            raise ConfigError(f"search_steps is at least 0, got {self.search_steps}")
        if self.mask == "tmask" and (self.keep, self.block) != (2, 4):
            raise ConfigError("tmask keeps 2 of 4")
        if self.mask == "tmask" and self.convolutions:
            raise ConfigError("tmask is made for linears, not for convolutions")
        if self.full_block and self.binarizer == "bbcu":
            raise ConfigError("bbcu brings its own RPReLU and shortcut: leave full_block out")
        if self.full_block and self.binarizer == "none":
            raise ConfigError("full_block is what surrounds binary layers: choose a binarizer")
        if self.convolutions and (self.binarizer == "none" or self.unit_inputs):
            raise ConfigError("convolutions take binarizers of signs: not none, unit_inputs")
        if self.binarizer == "none" and self.mask == "none":
            raise ConfigError("binarizer none without a mask compresses nothing")
        if self.unit_inputs and self.binarizer != "dorefa":
            raise ConfigError("unit_inputs is an option of dorefa")

    @property
    def masked(self) -> bool:
        """Whether weights leave, not channels."""
        return self.mask not in ("none", "drc", "drc-lite")
