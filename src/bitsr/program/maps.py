"""The steps that do not multiply by weights: norms, activations, sums, and everything that moves pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bitsr.program import steps
from bitsr.program.arrays import Array, Arrays
from bitsr.program.frame import Frame


def layer_norm(step: steps.LayerNorm, frame: Frame) -> Array:
    x = frame.values[step.x]
    centred = x - frame.arrays.mean(x, -1)
    variance = frame.arrays.mean(centred * centred, -1)
    centred /= frame.arrays.sqrt(variance + step.eps)
    return centred * frame.tensor(step.weight) + frame.tensor(step.bias)


def activation(step: steps.Activation, frame: Frame) -> Array:
    x, arrays = frame.values[step.x], frame.arrays
    match step.function:
        case "relu":
            return arrays.clip(x, 0, None)
        case "leaky_relu":
            return arrays.clip(x, 0, None) + arrays.clip(x, None, 0) * step.slope
        case "gelu":
            return gelu(x, arrays)
        case "sigmoid":
            return arrays.tanh(x * 0.5) * 0.5 + 0.5
        case "tanh":
            return arrays.tanh(x)
        case "clip":
            return arrays.clip(x, 0, 1)
        case "softplus":
            return arrays.softplus(x)
    raise ValueError(f"unknown activation {step.function!r}")


def gelu(x: Array, arrays: Arrays) -> Array:
    return (arrays.erf(x * math.sqrt(0.5)) + 1) * x * 0.5


def prelu(step: steps.PReLU, frame: Frame) -> Array:
    x, arrays = frame.values[step.x], frame.arrays
    return arrays.clip(x, 0, None) + arrays.clip(x, None, 0) * frame.tensor(step.slopes)


def add(step: steps.Add, frame: Frame) -> Array:
    return frame.values[step.a] + frame.values[step.b]


def mul(step: steps.Mul, frame: Frame) -> Array:
    return frame.values[step.a] * frame.values[step.b]


def affine(step: steps.Affine, frame: Frame) -> Array:
    scale, shift = (frame.arrays.array(frame.program.numbers(value)) for value in (step.scale, step.shift))
    return frame.values[step.x] * scale + shift


def concat(step: steps.Concat, frame: Frame) -> Array:
    return frame.arrays.concatenate([frame.values[name] for name in step.inputs], 2)


def slice_channels(step: steps.Slice, frame: Frame) -> Array:
    return frame.values[step.x][..., step.start : step.stop]


def pixel_shuffle(step: steps.PixelShuffle, frame: Frame) -> Array:
    x, f = frame.values[step.x], step.factor
    height, width, channels = x.shape
    x = x.reshape(height, width, channels // f**2, f, f)
    return frame.arrays.transpose(x, (0, 3, 1, 4, 2)).reshape(height * f, width * f, channels // f**2)


def pixel_unshuffle(step: steps.PixelUnshuffle, frame: Frame) -> Array:
    x, f = frame.values[step.x], step.factor
    height, width, channels = x.shape
    x = x.reshape(height // f, f, width // f, f, channels)
    return frame.arrays.transpose(x, (0, 2, 4, 1, 3)).reshape(height // f, width // f, channels * f**2)


def resize(step: steps.Resize, frame: Frame) -> Array:
    """Columns, then rows: each is a weighted sum over the pixels that its kernel touches."""
    x: Array = frame.values[step.x]
    height, width = (n * step.factor for n in x.shape[:2]) if step.like is None else frame.values[step.like].shape[:2]
    for axis, size in ((1, width), (0, height)):
        column = (-1, 1, 1) if axis == 0 else (-1, 1)
        taps = resize_taps(x.shape[axis], size, step.mode, step.a)
        parts = [frame.arrays.take(x, i, axis) * frame.arrays.array(weights).reshape(column) for i, weights in taps]
        x = sum(parts[1:], parts[0])
    return x


def resize_taps(old: int, new: int, mode: str, a: float = -0.75) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(source index, weight) of each new pixel, tap by tap; half-pixel centres, the border pixel repeated outside.

    The cubic kernel is Keys' with slope ``a``; no mode widens its kernel when it makes pictures smaller.
    """
    if mode == "nearest":
        return [(np.arange(new) * old // new, np.ones(new, np.float32))]
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    if mode == "bilinear":
        centre = np.maximum(centre, 0)
    first = np.floor(centre).astype(np.int64)
    t = centre - first
    if mode == "bilinear":
        weights = {0: 1 - t, 1: t}
    else:
        near, far = (lambda d: ((a + 2) * d - (a + 3)) * d * d + 1), (lambda d: a * (((d - 5) * d + 8) * d - 4))
        weights = {-1: far(t + 1), 0: near(t), 1: near(1 - t), 2: far(2 - t)}
    return [(np.clip(first + tap, 0, old - 1), w.astype(np.float32)) for tap, w in weights.items()]


def max_pool(step: steps.MaxPool, frame: Frame) -> Array:
    """Rows, then columns."""
    x = frame.values[step.x]
    for axis in (0, 1):
        many = (x.shape[axis] - step.kernel) // step.stride + 1
        spans = [slice(i, i + step.stride * (many - 1) + 1, step.stride) for i in range(step.kernel)]
        views = [x[span] if axis == 0 else x[:, span] for span in spans]
        x = views[0]
        for view in views[1:]:
            x = frame.arrays.maximum(x, view)
    return x


def global_pool(step: steps.GlobalPool, frame: Frame) -> Array:
    x = frame.values[step.x]
    mean = _mean_of_pixels(x, frame)
    if step.statistic == "mean":
        return mean
    centred = x - mean
    return frame.arrays.sqrt(_mean_of_pixels(centred * centred, frame))


def _mean_of_pixels(x: Array, frame: Frame) -> Array:
    """Row by row first: one long float32 sum would lose digits."""
    return frame.arrays.mean(frame.arrays.mean(x, 1), 0)


def pad(step: steps.Pad, frame: Frame) -> Array:
    x = frame.values[step.x]
    for axis in (0, 1):
        size = x.shape[axis]
        if margin := -size % step.multiple:
            x = frame.arrays.take(x, reflection(size, size + margin, step.mode), axis)
    return x


def reflection(old: int, new: int, mode: str = "reflect") -> NDArray[np.int64]:
    """Indices 0, 1, ..., old - 1, old - 2, ..., 1, 0, 1, ...: mirrors at both ends, which "symmetric" repeats."""
    repeated = int(mode == "symmetric")
    period = max(1, 2 * (old - 1 + repeated))
    i = np.arange(new) % period
    return np.minimum(i, period - repeated - i) if old + repeated > 1 else i


def crop(step: steps.Crop, frame: Frame) -> Array:
    like = frame.values[step.like]
    return frame.values[step.x][: like.shape[0] * step.factor, : like.shape[1] * step.factor]
