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

from functools import partial

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.bounds import Bounds, dobi, minmax, one_sided, round_to_grid
from bitsr.methods.ptq.config import HarmoQ
from bitsr.methods.ptq.distill import distill
from bitsr.methods.ptq.gptq import gptq, refit
from bitsr.methods.ptq.pipeline import (
    SYMMETRIC_FROM,
    LayerStep,
    Seen,
    Stage,
    Work,
    apply_weight,
    decide,
    groups_of,
    layerwise,
    round_to_nearest,
    row_grid,
    set_bounds,
)  # fmt: skip
from bitsr.methods.ptq.samples import collect
from bitsr.parts.folding import divide_output, multiply_input
from bitsr.parts.layers import QuantConv2d, QuantLayer
from bitsr.parts.quantizer import AffineQuantizer

# ---- bounds --------------------------------------------------------------------------------------------------------

HEADROOM = 0.1  # of the calibration range, on each side


def activation_bounds(v: Tensor, bits: int) -> Bounds:
    """DOBI below 8 bit.  From 8 bit on clipping a rare extreme costs more than resolution does: the whole calibration
    range, and headroom for the extremes of other pictures (above only, where the tensor is one-sided)."""
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
        lower, upper = dobi(smoothed.flatten()[:: max(1, smoothed.numel() // 2**15)], layer.a_bits, candidates=25)
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
    folds = {fold.consumer: fold for fold in (work.student.folds() if hasattr(work.student, "folds") else ())}  # type: ignore[operator]
    layers = {n: m for n, m in work.layers.items() if isinstance(m, QuantLayer) and m.a_bits < 16}
    seen, _ = collect(work.student, list(layers), work.batches, rows, seed=work.seed)
    for name, layer in layers.items():
        if isinstance(layer, QuantConv2d) and layer.groups > 1:
            continue
        weight = layer.weight.detach().flatten(2) if layer.weight.ndim > 2 else layer.weight.detach()[..., None]
        x = seen[name].rows.view(-1, *weight.shape[1:])
        fold = folds.get(name)
        producer = work.student.get_submodule(fold.producer) if fold else None
        none = weight.new_zeros(weight.shape[1])
        middle = (x.amax((0, 2)) + x.amin((0, 2))) / 2
        shifts = (none, middle) if isinstance(producer, nn.LayerNorm) and layer.bias is not None else (none,)
        x_range, w_range = channel_ranges(x, weight)
        options = [(torch.ones_like(none), none)]
        options += [(harmonized_scale(x_range, w_range, t), shift) for t in SMOOTHING for shift in shifts]
        errors = [layer_error(x, weight, s, shift, layer) for s, shift in options]
        s, shift = options[errors.index(min(errors))]
        moved = shift if bool(shift.any()) else None
        if fold is None:
            multiply_input(layer, s, None)
            layer.input_scale = None if bool((s == 1).all()) else 1 / s
            continue
        assert producer is not None
        multiply_input(layer, s, moved)
        divide_output(producer, s, moved, fold.rows)


# ---- SRC -----------------------------------------------------------------------------------------------------------


def centred(x: Tensor) -> Tensor:
    return x - x.mean(0, keepdim=True)


def residual_correction(weight: Tensor, quantized: Tensor, target: Tensor, ridge: float) -> Tensor:
    """D that minimises E|target - (W + D) x~|^2 + lambda |D|^2 (reading R1), means removed: the bias takes those.

    ``weight`` (out, d), ``quantized`` x~ (N, d), ``target`` W x + b (N, out); ``ridge`` is lambda relative to the
    mean of the covariance's diagonal.  Without quantization error D is 0.
    """
    x = centred(quantized).double()
    error = centred(target).double() - x @ weight.double().T
    covariance = x.T @ x
    covariance.diagonal().add_(ridge * covariance.diagonal().mean().clamp_min(1e-12))
    return torch.cholesky_solve(x.T @ error, torch.linalg.cholesky(covariance)).T.float()


def correct(ridge: float) -> LayerStep:
    """SRC: W <- W + D, always from the pristine weight."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        quantized, target = seen.quantized(layer), seen.target
        flat = layer.weight.detach().flatten(1)
        for rows, columns in groups_of(layer):
            flat[rows] += residual_correction(flat[rows], quantized[:, columns], target[:, rows], ridge)

    return step


# ---- rounding, bias ------------------------------------------------------------------------------------------------


def round_with_gptq(damping: float) -> LayerStep:
    """GPTQ towards the (corrected) weights under the covariance of the quantized input, then scale and offset
    refitted."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        if layer.w_bits < 16:
            _round_with_gptq(layer, seen, damping)

    return step


def _round_with_gptq(layer: QuantLayer, seen: Seen, damping: float) -> None:
    flat = layer.weight.detach().flatten(1)
    symmetric = layer.w_bits >= SYMMETRIC_FROM
    codes = torch.empty_like(flat, dtype=torch.uint8)
    scale, mid = flat.new_empty(flat.shape[0]), flat.new_zeros(flat.shape[0])
    quantized = centred(seen.quantized(layer))
    for rows, columns in groups_of(layer):
        x = quantized[:, columns].double()
        covariance = x.T @ x / len(x)
        damped = covariance.clone()
        damped.diagonal().add_(damping * covariance.diagonal().mean())
        search = partial(dobi, weight=damped.diagonal().float())
        lower, step = row_grid(flat[rows], layer.w_bits, search)
        codes[rows] = gptq(flat[rows], damped, lower, step, layer.w_bits, 0.0)
        scale[rows], middle = refit(codes[rows], flat[rows], damped, symmetric, layer.w_bits)
        if middle is not None:
            mid[rows] = middle
    decide(layer, codes, scale, None if symmetric else mid)


def correct_bias(layer: QuantLayer, seen: Seen) -> None:
    """b <- E[(W x + b) - W^ x~], the mean of the output."""
    if layer.bias is None:
        return
    layer.bias.data = (seen.target - apply_weight(layer, layer.effective_weight(), seen.quantized(layer))).mean(0)


# ---- ABR -----------------------------------------------------------------------------------------------------------


def refine_bounds(steps: int, rate: float = 2e-3, batch: int = 512) -> LayerStep:
    """Adam on the layer's bounds, weight scales and offsets against the exact layer error |W x - W^ x~|^2; codes
    stay."""

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
            x = x if layer.quantizer is None else layer.quantizer(x)
            return centred(target - apply_weight(layer, layer.effective_weight(), x)).square().mean()

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
    steps: list[LayerStep] = [set_bounds(activation_bounds)]
    if config.src == "exact":
        steps.append(correct(config.ridge))
    steps.append(round_with_gptq(config.damping) if config.rounding == "gptq" else round_to_nearest(dobi))
    if config.abr_steps:
        steps.append(refine_bounds(config.abr_steps))
    if config.bias_correction:
        steps.append(correct_bias)
    whole: list[Stage] = [smooth] if config.hso else []
    whole.append(layerwise(steps, activation_bounds, config.groups, config.samples))
    if config.distill_steps and min(config.w_bits, config.a_bits) < 8:  # nothing is left to gain at 8 bit
        whole.append(distill)
    return whole
