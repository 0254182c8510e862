"""What every post-training method shares: the networks at work, and bounds and rounding layer by layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError
from bitsr.methods.ptq.bounds import Search, minmax, round_to_grid
from bitsr.methods.ptq.config import PTQConfig
from bitsr.methods.ptq.samples import Rows, collect, some_of
from bitsr.methods.ptq.scope import assign_bits, execution_order
from bitsr.parts.folding import fold_batch_norms
from bitsr.parts.layers import QuantConv2d, QuantLayer, QuantMatMul, replace, replaceable
from bitsr.parts.quantizer import AffineQuantizer
from bitsr.parts.undecided import on_grid
from bitsr.runtime.color import to_float, to_network

BATCH = 4
STATISTICS = 32  # crops: further ones are for learning alone
SYMMETRIC_FROM = 8  # weight bits from which rows are symmetric: no sum over the inputs when executed


def to_batches(pictures: Sequence[NDArray[np.uint8]], descriptor: Descriptor | None = None) -> list[Tensor]:
    """Equal-sized HxWx3 uint8 RGB pictures -> batches NCHW in [0,1], in the colours that the network takes."""
    for picture in pictures:
        check_picture(picture, descriptor)
    if len({p.shape for p in pictures}) > 1:
        raise ConfigError("calibration pictures must have one size; cut them into crops (bitsr.calibration_crops does)")
    floats = [to_float(p) for p in pictures]
    if descriptor is not None:
        floats = [to_network(p, descriptor)[0] for p in floats]
    return list(torch.from_numpy(np.stack(floats)).permute(0, 3, 1, 2).contiguous().split(BATCH))


def check_picture(picture: NDArray, descriptor: Descriptor | None) -> None:
    """Raises `ConfigError` for what is no array HxWxC, RGB where the network is described, of values as pictures have
    them."""
    if not isinstance(picture, np.ndarray):
        raise ConfigError(f"calibration takes NumPy pictures HxWx3 uint8, got a {type(picture).__name__}")
    channels = {3} if descriptor is not None else set(picture.shape[-1:])
    if picture.ndim != 3 or 0 in picture.shape or picture.shape[2] not in channels:
        raise ConfigError(f"calibration takes pictures HxWx3, got an array of shape {picture.shape}")
    if picture.dtype.kind != "u" and not (picture.dtype.kind == "f" and 0 <= picture.min() <= picture.max() <= 1):
        raise ConfigError(f"calibration takes pictures of uint8, or of floats in [0, 1], got {picture.dtype}")


@dataclass
class Work:
    """Teacher (untouched) and student (compressed in place), and the calibration crops as batches on their device:
    ``batches`` for statistics, all in ``crops``."""

    teacher: nn.Module
    student: nn.Module
    batches: list[Tensor]
    crops: list[Tensor]
    config: PTQConfig
    seed: int
    layers: dict[str, QuantLayer | QuantMatMul] = field(default_factory=dict)
    output_std: dict[str, float] = field(default_factory=dict)


Stage = Callable[[Work], None]


def begin(model: nn.Module, pictures: Sequence[NDArray[np.uint8]], config: PTQConfig, seed: int) -> Work:
    """Copy the network and put the compressed twins in place; they compute what the originals did."""
    if pictures is None:
        raise ConfigError(
            "calibration takes pictures; bitsr.calibration_crops(None, scale) makes crops of bundled ones"
        )
    if len(pictures) == 0:
        raise ConfigError("calibration needs at least one picture")
    if replaceable(model):
        raise ConfigError(f"a network is a module with layers; put the {type(model).__name__} into nn.Sequential")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ConfigError(f"{name} holds NaN or infinite values; load sound weights")
    where = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batch_norms(teacher)
    student = copy.deepcopy(teacher)
    crops = [b.to(where) for b in to_batches(pictures, getattr(model, "descriptor", None))]
    batches = crops[: STATISTICS // BATCH]
    bits = assign_bits(teacher, execution_order(teacher, batches[0][:1]), config)
    if not bits and min(config.w_bits, config.a_bits) < 16 and not config.layer_bits:
        raise ConfigError(f"{type(model).__name__} has no linear layer or convolution that could be compressed")
    work = Work(teacher, student, batches, crops, config, seed)
    for name, (w_bits, a_bits) in bits.items():
        work.layers[name] = replace(student, name, w_bits, a_bits)
    return work


# ---- one layer -----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """One layer's data: the rows ``x`` (N, d) that the quantized prefix delivers, multiplied by the layer's input
    scale but not yet quantized, and ``target`` (N, out), what the full-precision weights make of them.

    So a layer answers for its own error alone.  Letting each layer make up for the error of the whole prefix as
    well needs fresh statistics after every single layer; with fewer, several layers correct the same error over and
    over (measured on IMDN x4 at W4A4: 0.4 dB worse by the biases alone).
    """

    x: Tensor
    target: Tensor
    weight: Tensor  # that makes ``target``, whatever a step makes of the layer's own
    extremes: Tensor  # least and greatest input of each channel over all positions, not only the sampled ones: (2, c)
    tiles: Tensor | None = None  # (N, 8, 8, d) neighbouring positions, where a stage asked for them
    certain: bool = False  # no picture goes beyond the extremes: the layer reads the picture itself

    def quantized(self, layer: QuantLayer) -> Tensor:
        return self.x if layer.quantizer is None else layer.quantizer(self.x)


LayerStep = Callable[[QuantLayer, Seen], None]


def groups_of(layer: QuantLayer) -> Iterator[tuple[slice, slice]]:
    """(output rows, columns of the unfolded input) of each convolution group; one pair for everything else."""
    groups = layer.groups if isinstance(layer, QuantConv2d) else 1
    rows, columns = layer.weight.shape[0] // groups, layer.weight[0].numel()
    for g in range(groups):
        yield slice(g * rows, (g + 1) * rows), slice(g * columns, (g + 1) * columns)


def apply_weight(layer: QuantLayer, weight: Tensor, x: Tensor) -> Tensor:
    """Rows (N, d) times the weight (out, ...) of a linear or of an unfolded, possibly grouped convolution: (N, out)."""
    flat = weight.flatten(1)
    return torch.cat([x[:, columns] @ flat[rows].T for rows, columns in groups_of(layer)], dim=1)


def row_scale(layer: QuantLayer) -> Tensor | None:
    """The input scale as it applies to unfolded rows."""
    if layer.input_scale is None or not isinstance(layer, QuantConv2d):
        return layer.input_scale
    return layer.input_scale.repeat_interleave(math.prod(layer.kernel_size))  # type: ignore[arg-type]


def needs_integer_zero(layer: QuantLayer) -> bool:
    return isinstance(layer, QuantConv2d) and any(p > 0 for p in layer.padding)  # type: ignore[union-attr]


def set_bounds(search: Search) -> LayerStep:
    """The layer's input quantizer, by a search over the elements of its input."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        if layer.a_bits >= 16:
            return
        if seen.certain and layer.a_bits >= 8:  # black to white: where the network takes 0..1, uint8 passes unharmed
            lower, upper = seen.extremes.amin(), seen.extremes.amax()
            layer.quantizer = AffineQuantizer(layer.a_bits, lower, upper, needs_integer_zero(layer))
            return
        values = some_of(seen.x, 2**17)
        values = torch.cat([values, seen.extremes.amin()[None], seen.extremes.amax()[None]])
        lower, upper = search(values, layer.a_bits)
        layer.quantizer = AffineQuantizer(layer.a_bits, lower.squeeze(), upper.squeeze(), needs_integer_zero(layer))

    return step


def row_grid(weight: Tensor, bits: int, search: Search) -> tuple[Tensor, Tensor]:
    """(lower, step), each (rows, 1), of the grid of every weight row; symmetric from 8 bits on."""
    if bits >= SYMMETRIC_FROM:
        step = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
        return -(2 ** (bits - 1)) * step, step
    lower, upper = search(weight, bits)
    return lower, ((upper - lower) / (2**bits - 1)).clamp_min(1e-12)


def round_to_nearest(search: Search) -> LayerStep:
    """Weight codes by rounding each row to its grid."""

    def step(layer: QuantLayer, seen: Seen) -> None:
        if layer.w_bits >= 16:
            return
        flat = layer.weight.detach().flatten(1)
        lower, size = row_grid(flat, layer.w_bits, search)
        codes = round_to_grid(flat, lower, size, 2**layer.w_bits - 1)
        layer.decided = on_grid(layer.w_bits, codes.view(layer.weight.shape), lower, size)

    return step


def centred(x: Tensor) -> Tensor:
    return x - x.mean(0, keepdim=True)


def correct_bias(layer: QuantLayer, seen: Seen) -> None:
    """b <- E[(W x + b) - W^ x~], the mean of the output."""
    if layer.bias is None:
        return
    layer.bias.data = (seen.target - apply_weight(layer, layer.effective_weight(), seen.quantized(layer))).mean(0)


# ---- all layers ----------------------------------------------------------------------------------------------------


OperandStep = Callable[[QuantMatMul, tuple[Tensor, Tensor]], None]


def bound_operands(search: Search) -> OperandStep:
    """Quantizers of both operands of a matrix product, by a search over their elements."""

    def step(layer: QuantMatMul, operands: tuple[Tensor, Tensor]) -> None:
        if layer.a_bits < 16:
            bounds = [search(values, layer.a_bits) for values in operands]
            layer.quantizer_a, layer.quantizer_b = (AffineQuantizer(layer.a_bits, low[0], up[0]) for low, up in bounds)

    return step


def layerwise(
    steps: Sequence[LayerStep], operands: OperandStep, groups: int = 1, samples: int = 4096, tiles: int = 0
) -> Stage:
    """Apply ``steps`` to every linear and convolution, ``operands`` to every matrix product, in execution order; the
    statistics are refreshed ``groups`` times with all that is quantized so far in place.  ``tiles``: how many tiles of
    neighbouring positions to keep beside ``samples`` rows."""

    @torch.no_grad()
    def stage(work: Work) -> None:
        names = list(work.layers)
        size = max(1, math.ceil(len(names) / groups))
        for start in range(0, len(names), size):
            part = names[start : start + size]
            rows, elements = collect(work.student, part, work.batches, samples, seed=work.seed, tiles=tiles)
            for name in part:
                layer = work.layers[name]
                if isinstance(layer, QuantMatMul):
                    operands(layer, elements[name])
                    continue
                seen = seen_by(work, name, layer, rows[name])
                for step in steps:
                    step(layer, seen)

    return stage


def seen_by(work: Work, name: str, layer: QuantLayer, sampled: Rows) -> Seen:
    """The sampled rows in the domain in which the layer quantizes them, and what its weights make of them."""
    scale = row_scale(layer)
    x = sampled.rows if scale is None else sampled.rows * scale
    limits = picture_limits(work, name, sampled) if name == next(iter(work.layers)) else None
    extremes = torch.stack([sampled.low, sampled.high]) if limits is None else limits
    extremes = extremes if layer.input_scale is None else extremes * layer.input_scale
    target = apply_weight(layer, layer.weight, x)
    target = target if layer.bias is None else target + layer.bias
    work.output_std[name] = float(target.std())
    tiles = sampled.tiles if scale is None or sampled.tiles is None else sampled.tiles * scale
    return Seen(x, target, layer.weight.detach().clone(), extremes, tiles, certain=limits is not None)


def picture_limits(work: Work, name: str, seen: Rows) -> Tensor | None:
    """What a layer that reads the picture itself gets for black and for white, (2, c).

    None if ``name`` is no such layer, which shows in calibration inputs that lie beyond those.
    """
    black_and_white = [torch.full_like(work.batches[0][:1], value) for value in (0.0, 1.0)]
    flat = collect(work.student, [name], black_and_white, 2)[0][name]
    slack = 1e-5 * (flat.high - flat.low).max()
    inside = (seen.low >= flat.low - slack).all() and (seen.high <= flat.high + slack).all()
    return torch.stack([flat.low, flat.high]) if inside else None


def finish(work: Work) -> nn.Module:
    """The student, ready to run and to be packed: the floating-point weights of decided layers are dropped."""
    for layer in work.layers.values():
        if isinstance(layer, QuantLayer):
            layer.decide()
        if isinstance(layer, QuantLayer) and layer.decided is not None:
            layer.weight = nn.Parameter(layer.decided().detach())
    return work.student.requires_grad_(False).eval()


def simple_stages(search: Search, weights: Search = minmax) -> list[Stage]:
    """Bounds and nearest rounding from full-precision statistics: MinMax, Percentile and DOBI are this."""
    return [layerwise([set_bounds(search), round_to_nearest(weights)], bound_operands(search))]
