"""Multi-head attention in (shifted or overlapping) windows, with integer products where operands have quantizers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitsr.program.arrays import Array
from bitsr.program.frame import Frame
from bitsr.program.steps import Attention, OverlappingAttention, WindowAttention

MASKED = -np.inf  # score of tokens that were no neighbours before the shift


def window_attention(step: WindowAttention, frame: Frame) -> Array:
    arrays, x = frame.arrays, frame.values[step.qkv]
    height, width, _ = x.shape
    regions = shift_regions(height, width, step.window, step.shift) if step.shift else None
    q, k, v = _split(arrays.roll(x, -step.shift) if step.shift else x, step, frame)
    y = _attend(q, k, v, regions, step, frame)
    return arrays.roll(y, step.shift) if step.shift else y


def overlapping_attention(step: OverlappingAttention, frame: Frame) -> Array:
    x = frame.values[step.qkv]
    k, v = _split_widened(x, step, frame)
    return _attend(_split(x, step, frame)[0], k, v, None, step, frame)


def _attend(q: Array, k: Array, v: Array, regions: NDArray[np.uint8] | None, step: Attention, frame: Frame) -> Array:
    """The map of what the queries see; operands are windows x heads x tokens x d, ``regions`` windows x tokens.

    Windows are independent of each other: they are worked on in slabs, so that the maps stay small.
    """
    arrays = frame.arrays
    height, width, channels = frame.values[step.qkv].shape
    margin = step.margin if isinstance(step, OverlappingAttention) else 0
    bias = frame.program.tensor(step.bias_table)[relative_positions(step.window, margin)]
    bias = arrays.array(bias.transpose(2, 0, 1))
    many = max(1, arrays.slab // (step.heads * q.shape[2] * k.shape[2]))
    parts = []
    for some in (slice(start, start + many) for start in range(0, q.shape[0], many)):
        scores = _scores(q[some] * step.scale, k[some], step, frame)
        scores += bias
        if regions is not None:
            here = regions[some]
            strange = here[:, None, :, None] != here[:, None, None, :]
            scores += arrays.array(np.where(strange, MASKED, 0).astype(np.float32))
        parts.append(_weighted(softmax_(scores, frame), v[some], step, frame))
    side = step.window
    y = arrays.concatenate(parts, 0).reshape(height // side, width // side, step.heads, side, side, -1)
    return arrays.transpose(y, (0, 3, 1, 4, 2, 5)).reshape(height, width, channels // 3)


def _split(x: Array, step: Attention, frame: Frame) -> tuple[Array, Array, Array]:
    """HxWx3C -> queries, keys and values, each windows x heads x tokens x d."""
    height, width, channels = x.shape
    n = step.window
    x = x.reshape(height // n, n, width // n, n, 3, step.heads, channels // (3 * step.heads))
    x = frame.arrays.transpose(x, (4, 0, 2, 5, 1, 3, 6)).reshape(3, -1, step.heads, n * n, x.shape[-1])
    return x[0], x[1], x[2]


def _split_widened(x: Array, step: OverlappingAttention, frame: Frame) -> tuple[Array, Array]:
    """HxWx3C -> keys and values of the widened windows, each windows x heads x tokens x d."""
    arrays = frame.arrays
    height, width, channels = x.shape
    n, side = step.window, step.window + 2 * step.margin
    x = arrays.pad(x[..., channels // 3 :], step.margin, 0)
    for axis, length in ((0, height), (1, width)):
        rows = np.arange(0, length, n)[:, None] + np.arange(side)
        x = arrays.take(x, rows.ravel(), axis)
    x = x.reshape(height // n, side, width // n, side, 2, step.heads, channels // (3 * step.heads))
    x = arrays.transpose(x, (4, 0, 2, 5, 1, 3, 6)).reshape(2, -1, step.heads, side**2, x.shape[-1])
    return x[0], x[1]


def _scores(q: Array, k: Array, step: Attention, frame: Frame) -> Array:
    """q k^T up to terms that are the same for all keys, which the softmax does not see."""
    arrays = frame.arrays
    if step.q is None or step.k is None:
        return arrays.matmul(frame.rounded(q, step.q), _transposed(frame.rounded(k, step.k), frame))
    q_codes, k_codes = frame.quantize(q, step.q), frame.quantize(k, step.k)
    largest = q.shape[-1] * step.q.levels * step.k.levels
    acc = arrays.integer_matmul(q_codes, _transposed(k_codes, frame), largest)
    frame.note(q=q_codes, k=k_codes, scores=acc)
    scores = arrays.floats(acc)
    scores *= step.q.step * step.k.step
    if step.q.lower != 0:
        sums = arrays.floats(arrays.integer_sum(k_codes, -1))
        scores += (sums * (step.q.lower * step.k.step))[..., None, :]
    return scores


def _weighted(attention: Array, v: Array, step: Attention, frame: Frame) -> Array:
    """attention v; with a scale per query, the quantizer sees weights of at most 1."""
    if not step.row_scale:
        return _values(attention, v, step, frame)
    top = frame.arrays.max(attention, -1)
    return _values(attention / top, v, step, frame) * top


def _values(attention: Array, v: Array, step: Attention, frame: Frame) -> Array:
    """attention v, with the sums of the *quantized* attention, which are not 1."""
    arrays = frame.arrays
    if step.attention is None or step.v is None:
        return arrays.matmul(frame.rounded(attention, step.attention), frame.rounded(v, step.v))
    a_codes, v_codes = frame.quantize(attention, step.attention), frame.quantize(v, step.v)
    tokens = v.shape[-2]
    acc = arrays.integer_matmul(a_codes, v_codes, tokens * step.attention.levels * step.v.levels)
    frame.note(attention=a_codes, v=v_codes, values=acc)
    y = arrays.floats(acc) * (step.attention.step * step.v.step)
    if step.v.lower != 0:
        y += (arrays.floats(arrays.integer_sum(a_codes, -1)) * (step.attention.step * step.v.lower))[..., None]
    if step.attention.lower != 0:
        y += (arrays.floats(arrays.integer_sum(v_codes, -2)) * (step.attention.lower * step.v.step))[..., None, :]
        y += tokens * step.attention.lower * step.v.lower
    return y


def softmax_(scores: Array, frame: Frame) -> Array:
    """Over the last axis, in place; the largest score is moved to zero first."""
    arrays = frame.arrays
    scores -= arrays.max(scores, -1)
    arrays.exp_(scores)
    scores /= arrays.sum(scores, -1)
    return scores


def _transposed(x: Array, frame: Frame) -> Array:
    return frame.arrays.transpose(x, (0, 1, 3, 2))


def relative_positions(window: int, margin: int = 0) -> NDArray[np.int64]:
    """queries x keys indices into the bias table, (dy + m) * (2 m + 1) + dx + m with m = window + margin - 1."""

    def places(first: int, stop: int) -> NDArray[np.int64]:
        return np.stack(np.meshgrid(*[np.arange(first, stop)] * 2, indexing="ij")).reshape(2, -1)

    most = window + margin - 1
    dy, dx = places(0, window)[:, :, None] - places(-margin, window + margin)[:, None] + most
    return dy * (2 * most + 1) + dx


def shift_regions(height: int, width: int, window: int, shift: int) -> NDArray[np.uint8]:
    """windows x tokens: a number for each token of the rolled map; tokens of equal number see each other."""

    def bands(n: int) -> NDArray[np.uint8]:
        i = np.arange(n)
        return ((i >= n - window).astype(np.uint8) + (i >= n - shift)).astype(np.uint8)

    regions = 3 * bands(height)[:, None] + bands(width)
    split = regions.reshape(height // window, window, width // window, window).transpose(0, 2, 1, 3)
    return split.reshape(-1, window**2)
