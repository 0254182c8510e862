"""DBDC+Pac (Tu et al., CVPR 2023, PTQ4SR): density-based dual clipping, then pixel-aware calibration.

DBDC drops the emptier end of a histogram until a share ``tail`` of the values is outside.  Pac trains activation
bounds, then weight bounds, on the output and on normalized feature maps.

Errata of the release, as options or mended: its configured tail of 5e-4 never reaches the quantizer (1e-4 is in
effect, 1e-5 at 8 bit, which ``released_tail`` reproduces); its feature maps are detached, so that their term has no
gradient (``detached``).  Rates are in quantization steps: the released ones hardly move a weight's bounds.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bitsr.methods.ptq.bounds import Bounds, minmax
from bitsr.methods.ptq.config import DBDCPac
from bitsr.methods.ptq.distill import Outputs, activation_rates, features_of, train, weight_rates
from bitsr.methods.ptq.pams import attention_map
from bitsr.methods.ptq.pipeline import Stage, Work, bound_operands, layerwise, set_bounds
from bitsr.methods.ptq.twodquant import bound_weights

BINS = 2048
FEATURE_WEIGHT = 5.0


def dbdc(v: Tensor, bits: int, tail: float) -> Bounds:
    """Dual clipping of one tensor: bounds (1), from a histogram of 2048 bins.

    While more than a share 1 - ``tail`` of the values is kept, the end bin with the smaller count goes, the lower one
    only if it is strictly smaller.  Both bounds are upper edges of bins, as in the release.
    """
    flat = v.flatten()
    low, high = flat.min(), flat.max()
    width = (high - low) / BINS
    counts = torch.histc(flat.float(), BINS, float(low), float(high)).tolist()
    first, last, kept = 0, BINS - 1, float(len(flat))
    while kept > (1 - tail) * len(flat) and first < last:
        if counts[first] < counts[last]:
            kept -= counts[first]
            first += 1
        else:
            kept -= counts[last]
            last -= 1
    return (low + (first + 1) * width)[None], (low + (last + 1) * width)[None]


def effective_tail(bits: int) -> float:
    """What the released code clips, whatever is configured."""
    return 1e-5 if bits >= 8 else 1e-4


def pac_loss(compressed: Outputs, full: Outputs, detached: bool = False) -> Tensor:
    """L1 of the outputs + 5 x mean over blocks of the squared distance of normalized attention maps."""
    loss = (compressed[0] - full[0]).abs().mean()
    if len(full) == 1 or detached:
        return loss
    pairs = zip(compressed[1:], full[1:], strict=True)
    terms = [(attention_map(q) - attention_map(f)).square().mean() for q, f in pairs]
    return loss + FEATURE_WEIGHT * torch.stack(terms).mean()


def calibrate(work: Work) -> None:
    """Pac: first all activation bounds, then all weight bounds."""
    config = work.config
    assert isinstance(config, DBDCPac)
    for rates in (activation_rates(work, config.lr), weight_rates(work, config.weight_lr)):
        train(
            work, rates, partial(pac_loss, detached=config.detached), steps=config.steps, batch=config.batch,
            crop=config.crop, floor=0.4, features=features_of(work.teacher, "blocks"),
        )  # fmt: skip


def stages(config: DBDCPac) -> list[Stage]:
    def search(v: Tensor, bits: int) -> Bounds:
        return dbdc(v, bits, effective_tail(bits) if config.released_tail else config.tail)

    bounds = layerwise([set_bounds(search), bound_weights(minmax)], bound_operands(search))
    return [bounds, calibrate] if config.steps else [bounds]
