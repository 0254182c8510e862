"""RepQ-ViT (Li et al., ICCV 2023): calibrate with complex quantizers, run with simple ones.

LayerNorm outputs get bounds per channel first; scale and shift per channel then go into the LayerNorm and its
consumer, after which one pair of bounds serves all channels.  Softmax maps get a logarithmic quantizer of base sqrt 2,
which packed files do not have: with ``softmax='affine'`` the method can be packed.  A network without LayerNorms and
attention keeps only the choice among percentiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsr.methods.ptq.bounds import Bounds, least_error, minmax, nothing_found, percentile
from bitsr.methods.ptq.config import RepQ
from bitsr.methods.ptq.pipeline import (
    OperandStep,
    Stage,
    Work,
    bound_operands,
    layerwise,
    round_to_nearest,
    set_bounds,
)  # fmt: skip
from bitsr.methods.ptq.smoothing import scalable_channels
from bitsr.parts.layers import QuantMatMul
from bitsr.parts.quantizer import LogSqrt2Quantizer

TAILS = (1e-3, 1e-4, 1e-5)  # the 99.9, 99.99 and 99.999 % percentiles


def best_percentile(v: Tensor, bits: int) -> Bounds:
    """The pair of percentiles with the least squared error, along the last axis."""
    pairs = (percentile(v, bits, tail) for tail in TAILS)
    return least_error(v, bits, pairs, nothing_found(*minmax(v)))[1:]


def reparametrization(lower: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, shift) per channel so that (x - shift) / scale has the same bounds in every channel: eqs. 8 and 9.

    ``lower`` and ``step`` (c); the common grid is the mean of all steps, and of all lower bounds in units of the step
    (the zero points).
    """
    common = step.mean()
    zero = (lower / step).mean()
    scale = step / common
    return scale, lower - scale * (zero * common)


@torch.no_grad()
def reparametrize(work: Work) -> None:
    """Behind every LayerNorm; exact in floating point."""
    config = work.config
    assert isinstance(config, RepQ)
    for channels in scalable_channels(work, config.samples):
        if not channels.shiftable or channels.layer.a_bits >= 16:
            continue
        lower, upper = best_percentile(channels.x.transpose(0, 1).flatten(1), channels.layer.a_bits)
        step = ((upper - lower) / (2**channels.layer.a_bits - 1)).clamp_min(1e-8)
        channels.smooth(work, *reparametrization(lower.flatten(), step.flatten()))


def bound_attention(layer: QuantMatMul, operands: tuple[Tensor, Tensor]) -> None:
    """The first operand logarithmically, if it is a softmax map."""
    bound_operands(best_percentile)(layer, operands)
    if layer.a_bits < 16 and layer.softmax:
        layer.quantizer_a = LogSqrt2Quantizer(layer.a_bits, operands[0].max())


def stages(config: RepQ) -> list[Stage]:
    operands: OperandStep = bound_attention if config.softmax == "log" else bound_operands(best_percentile)
    steps = [set_bounds(best_percentile), round_to_nearest(best_percentile)]
    return [reparametrize, layerwise(steps, operands)]
