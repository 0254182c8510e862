"""Linear layers and convolutions: products of codes where both operands have them, of float32 otherwise."""

from __future__ import annotations

from collections.abc import Callable

from bitsr.program.arrays import Array, Arrays
from bitsr.program.frame import Frame
from bitsr.program.steps import Conv2d, Linear, PackedWeight, Quantizer


def linear(step: Linear, frame: Frame) -> Array:
    """A 1x1 convolution, as far as arithmetic goes."""
    return _layer(step, frame)


def conv2d(step: Conv2d, frame: Frame) -> Array:
    return _layer(step, frame, step.stride, step.padding, step.groups)


def _layer(step: Linear | Conv2d, frame: Frame, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    arrays, x = frame.arrays, frame.values[step.x]
    if step.input_scale is not None:
        x = x * frame.tensor(step.input_scale)
    if step.quantizer is not None and isinstance(step.weight, PackedWeight):
        y = _integer_product(frame, x, step.quantizer, step.weight, stride, padding, groups)
    else:
        x = arrays.pad(frame.rounded(x, step.quantizer), padding, 0) if padding else frame.rounded(x, step.quantizer)
        y = convolve(x, _filters(frame.dequantized(step.weight)), stride, groups, arrays, arrays.matmul)
    return y if step.bias is None else y + frame.tensor(step.bias)


def _integer_product(
    frame: Frame, x: Array, quantizer: Quantizer, weight: PackedWeight, stride: int, padding: int, groups: int
) -> Array:
    """(step * scale_i) * acc_i + (step * mid_i) * r, with the integers acc_i = sum_j p'_ij q_j and r = sum_j q_j."""
    arrays = frame.arrays
    codes, filters = frame.quantize(x, quantizer), _filters(frame.signed(weight))
    frame.note(codes=codes)
    codes = arrays.pad(codes, padding, quantizer.zero) if padding else codes
    largest = filters.shape[-1] * quantizer.levels * 2 ** (weight.bits - 1)
    acc = convolve(codes, filters, stride, groups, arrays, lambda a, b: arrays.integer_matmul(a, b, largest))
    frame.note(accumulator=acc)
    step = arrays.array(quantizer.step)
    y = arrays.floats(acc) * (step * frame.tensor(weight.scale))
    if weight.mid is None:
        return y
    r = patch_sums(codes, filters.shape[1], filters.shape[2], stride, groups, arrays)
    frame.note(sums=r)
    mid = (step * frame.tensor(weight.mid)).reshape(groups, -1)
    return y + (arrays.floats(r)[..., None] * mid).reshape(y.shape)


def _filters(weight: Array) -> Array:
    """out x kh x kw x in / groups; a matrix becomes 1x1 filters."""
    return weight if weight.ndim == 4 else weight.reshape(weight.shape[0], 1, 1, -1)


def convolve(
    x: Array, filters: Array, stride: int, groups: int, arrays: Arrays, multiply: Callable[[Array, Array], Array]
) -> Array:
    """Convolution of a padded HxWxC map as a sum over taps; ``multiply`` is the product of (stacks of) matrices."""
    out, kh, kw, width = filters.shape
    height_out, width_out = (x.shape[0] - kh) // stride + 1, (x.shape[1] - kw) // stride + 1
    total = None
    for i in range(kh):
        for j in range(kw):
            pixels = _tap(x, i, j, height_out, width_out, stride).reshape(-1, groups, width)
            columns = filters[:, i, j].reshape(groups, -1, width)
            product = multiply(arrays.transpose(pixels, (1, 0, 2)), arrays.transpose(columns, (0, 2, 1)))
            if total is None:
                total = product
            else:
                total += product
    return arrays.transpose(total, (1, 0, 2)).reshape(height_out, width_out, out)


def patch_sums(codes: Array, kh: int, kw: int, stride: int, groups: int, arrays: Arrays) -> Array:
    """int32 sums of the codes that each filter sees: H' x W' x groups."""
    height, width, channels = codes.shape
    sums = arrays.integer_sum(codes.reshape(height, width, groups, channels // groups), -1)
    height_out, width_out = (height - kh) // stride + 1, (width - kw) // stride + 1
    total = 0
    for i in range(kh):
        for j in range(kw):
            total = total + _tap(sums, i, j, height_out, width_out, stride)
    return total


def _tap(x: Array, i: int, j: int, height: int, width: int, stride: int) -> Array:
    """The pixels that element (i, j) of a filter meets, H' x W' x C."""
    return x[i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
