"""HarmoQ (harmonized post-training quantization for SR), in its corrected form.

Structural residual calibration (SRC), harmonized scale optimization (HSO) and adaptive boundary refinement (ABR),
with GPTQ rounding and a short distillation of the bounds.  Where the paper's formulas do not hold as printed:

* SRC is the exact ridge regression on the *quantized* input (H = I).  The printed one regresses on the full-precision
input, which inflates the weights by the noise it wants to remove, and overwrites W at every iteration, which
diverges.
* A scalar HSO factor is a gauge, Q(x/s; l/s, u/s) s = Q(x; l, u), and changes nothing; here it is per input channel.
* ABR minimises the exact layer error, with learning rates relative to each range, and keeps the best state of
held-out rows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.bounds import Bounds, dobi, minmax, one_sided, round_to_grid
from bitsr.methods.ptq.config import HarmoQ
from bitsr.methods.ptq.distill import distill
from bitsr.methods.ptq.gptq import round_with_gptq
from bitsr.methods.ptq.pipeline import (
    LayerStep,
    Seen,
    Stage,
    Work,
    apply_weight,
    bound_operands,
    centred,
    correct_bias,
    groups_of,
    layerwise,
    round_to_nearest,
    row_grid,
    set_bounds,
)  # fmt: skip
from bitsr.methods.ptq.samples import some_of
from bitsr.methods.ptq.smoothing import scalable_channels
from bitsr.methods.ptq.structural import SPATIAL, Reading, correction
from bitsr.parts.layers import QuantLayer
from bitsr.parts.quantizer import AffineQuantizer

TILES = 64  # of 8x8 positions, for the spatial readings of SRC

HEADROOM = 0.1  # of the calibration range, on each side


def bounds(v: Tensor, bits: int) -> Bounds:
    """DOBI below 8 bit.  From 8 bit on the whole calibration range, and headroom for the extremes of other pictures
    (above only, where the tensor is one-sided), which is better than DOBI there."""
    if bits < 8:
        return dobi(v, bits)
    low, high = minmax(v)
    room = HEADROOM * (high - low)
    return (low if one_sided(v) else low - room), high + room


# ---- HSO -----------------------------------------------------------------------------------------------------------

SMOOTHING = (0.0, 0.25, 0.5, 0.75, 1.0)
SCALE_LIMITS = (0.1, 10.0)  # of the geometric mean


def channel_ranges(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Ranges of each input channel over calibration rows (N, c, taps), and of each weight column over rows (out, c,
    taps)."""
    return x.amax((0, 2)) - x.amin((0, 2)), weight.amax((0, 2)) - weight.amin((0, 2))


def harmonized_scale(x_range: Tensor, w_range: Tensor, t: float) -> Tensor:
    """s_j = R_x,j^t / R_w,j^(1-t), around a geometric mean of 1; t = 0.5 is HSO per channel (SmoothQuant with
    ranges)."""
    s = x_range.clamp_min(1e-5) ** t / w_range.clamp_min(1e-5) ** (1 - t)
    s = s / s.log().mean().exp()
    return s.clamp(*SCALE_LIMITS)


def layer_error(x: Tensor, weight: Tensor, s: Tensor, shift: Tensor, layer: QuantLayer) -> float:
    """Mean squared output error with both operands re-quantized (DOBI bounds, nearest rounding) in the smoothed
    domain."""
    smoothed = ((x - shift[:, None]) / s[:, None]).flatten(1)
    scaled = (weight * s[:, None]).flatten(1)
    quantized, rounded = smoothed, scaled
    if layer.a_bits < 16:
        lower, upper = dobi(some_of(smoothed, 2**15), layer.a_bits, candidates=25)
        step = (upper - lower) / (2**layer.a_bits - 1)
        quantized = round_to_grid(smoothed, lower, step, 2**layer.a_bits - 1) * step + lower
    if layer.w_bits < 16:
        low, size = row_grid(scaled, layer.w_bits, lambda v, b: dobi(v, b, candidates=25))
        rounded = round_to_grid(scaled, low, size, 2**layer.w_bits - 1) * size + low
    return float((quantized @ rounded.T - smoothed @ scaled.T).square().mean())


@torch.no_grad()
def smooth(work: Work, rows: int = 512) -> None:
    """HSO for every layer, folded into the layer before where the network allows, a run-time multiplication
    elsewhere.

    The exponent (and whether to shift, behind a LayerNorm) is the one of least layer error; no smoothing is a
    candidate.
    """
    for channels in scalable_channels(work, rows):
        x, weight = channels.x, channels.layer.weight.detach().view_as(channels.weight)
        none = weight.new_zeros(weight.shape[1])
        middle = (x.amax((0, 2)) + x.amin((0, 2))) / 2
        shifts = (none, middle) if channels.shiftable else (none,)
        x_range, w_range = channel_ranges(x, weight)
        options = [(torch.ones_like(none), none)]
        options += [(harmonized_scale(x_range, w_range, t), shift) for t in SMOOTHING for shift in shifts]
        errors = [layer_error(x, weight, s, shift, channels.layer) for s, shift in options]
        s, shift = options[errors.index(min(errors))]
        channels.smooth(work, s, shift if bool(shift.any()) else None)


# ---- SRC -----------------------------------------------------------------------------------------------------------


def correct(ridge: float, reading: Reading = "exact") -> LayerStep:
    """SRC: W <- W + D, always from the pristine weight, means removed: the bias takes those."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        x, quantized = centred(seen.x), centred(seen.quantized(layer))
        tiles = None
        if seen.tiles is not None:
            tiles = (seen.tiles, seen.tiles if layer.quantizer is None else layer.quantizer(seen.tiles))
        flat, pristine = layer.weight.detach().flatten(1), seen.weight.flatten(1)
        for rows, columns in groups_of(layer):
            part = None if tiles is None else (tiles[0][..., columns], tiles[1][..., columns])
            found = correction(reading, pristine[rows], x[:, columns], quantized[:, columns], ridge, part)
            flat[rows] = pristine[rows] + found

    return step


# ---- ABR -----------------------------------------------------------------------------------------------------------


def refine_bounds(
    steps: int, loss: Literal["exact", "first_order"] = "exact", rate: float = 2e-3, batch: int = 512
) -> LayerStep:
    """Adam on the layer's bounds, weight scales and offsets against the layer error |W x - W^ x~|^2; codes stay.

    ``loss`` 'first_order' is the printed |W delta_x + delta_W x|^2, which leaves delta_W delta_x out.
    """

    def step(layer: QuantLayer, seen: Seen) -> None:
        parameters: list[tuple[nn.Parameter, float]] = []
        if isinstance(layer.quantizer, AffineQuantizer):
            size = float(layer.quantizer.upper - layer.quantizer.lower)
            parameters += [(layer.quantizer.lower, rate * size), (layer.quantizer.upper, rate * size)]
        if layer.decided is not None:
            size = float(layer.decided.scale.abs().mean())
            parameters += [(p, rate * size) for p in (layer.decided.scale, layer.decided.mid) if p is not None]
        if not parameters or not steps:
            return
        held = len(seen.x) // 4

        def error(x: Tensor, target: Tensor) -> Tensor:
            quantized, weight = x if layer.quantizer is None else layer.quantizer(x), layer.effective_weight()
            difference = target - apply_weight(layer, weight, quantized)
            if loss == "first_order":
                difference = difference + apply_weight(layer, weight - layer.weight.detach(), quantized - x)
            return centred(difference).square().mean()

        best, kept = float(error(seen.x[:held], seen.target[:held])), [p.detach().clone() for p, _ in parameters]
        optimizer = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in parameters])
        generator = torch.Generator().manual_seed(0)
        for number in range(1, steps + 1):
            chosen = torch.randint(held, len(seen.x), (batch,), generator=generator)
            with torch.enable_grad():
                optimizer.zero_grad()
                error(seen.x[chosen], seen.target[chosen]).backward()
            optimizer.step()
            if number % 10 == 0 or number == steps:
                now = float(error(seen.x[:held], seen.target[:held]))
                if now < best:
                    best, kept = now, [p.detach().clone() for p, _ in parameters]
        for (p, _), value in zip(parameters, kept, strict=True):
            p.data = value

    return step


# ---- the method ----------------------------------------------------------------------------------------------------


def stages(config: HarmoQ) -> list[Stage]:
    steps: list[LayerStep] = [set_bounds(bounds)]
    if config.src != "none":
        steps.append(correct(config.ridge, config.src))
    steps.append(round_with_gptq(config.damping, search=dobi) if config.rounding == "gptq" else round_to_nearest(dobi))
    if config.abr_steps:
        steps.append(refine_bounds(config.abr_steps, config.abr_loss))
    if config.bias_correction:
        steps.append(correct_bias)
    whole: list[Stage] = [smooth] if config.hso else []
    whole.append(
        layerwise(
            steps,
            bound_operands(bounds),
            config.groups,
            config.samples,
            TILES if config.src in SPATIAL else 0,
        )
    )
    if config.distill_steps and config.fewest_bits < 8:  # nothing is left to gain at 8 bit
        whole.append(distill)
    return whole
