"""Multi-head attention inside shifted windows, with integer products where the operands have quantizers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitsr.program.arrays import Array
from bitsr.program.frame import Frame
from bitsr.program.steps import WindowAttention

MASKED = -100.0  # added to the score of tokens that were no neighbours before the shift


def window_attention(step: WindowAttention, frame: Frame) -> Array:
    """Windows are independent of each other: they are worked on in slabs, so that the maps stay small."""
    arrays = frame.arrays
    x = frame.values[step.qkv]
    height, width, channels = x.shape[0], x.shape[1], x.shape[2] // 3
    q, k, v = _split(arrays.roll(x, -step.shift) if step.shift else x, step, frame)
    bias = arrays.array(frame.program.tensor(step.bias_table)[relative_positions(step.window)].transpose(2, 0, 1))
    regions = arrays.array(shift_regions(height, width, step.window, step.shift)) if step.shift else None
    many = max(1, arrays.slab // (step.heads * step.window**4))
    parts = []
    for some in (slice(start, start + many) for start in range(0, q.shape[0], many)):
        scores = _scores(q[some] * step.scale, k[some], step, frame)
        scores += bias
        if regions is not None:
            here = regions[some]
            scores += (arrays.floats(here[:, :, None] != here[:, None, :]) * MASKED)[:, None]
        parts.append(_values(softmax_(scores, frame), v[some], step, frame))
    side = step.window
    y = arrays.concatenate(parts, 0).reshape(height // side, width // side, step.heads, side, side, -1)
    y = arrays.transpose(y, (0, 3, 1, 4, 2, 5)).reshape(height, width, channels)
    return arrays.roll(y, step.shift) if step.shift else y


def _split(x: Array, step: WindowAttention, frame: Frame) -> tuple[Array, Array, Array]:
    """HxWx3C -> queries, keys and values, each windows x heads x tokens x d."""
    height, width, channels = x.shape
    n = step.window
    x = x.reshape(height // n, n, width // n, n, 3, step.heads, channels // (3 * step.heads))
    x = frame.arrays.transpose(x, (4, 0, 2, 5, 1, 3, 6)).reshape(3, -1, step.heads, n * n, x.shape[-1])
    return x[0], x[1], x[2]


def _scores(q: Array, k: Array, step: WindowAttention, frame: Frame) -> Array:
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


def _values(attention: Array, v: Array, step: WindowAttention, frame: Frame) -> Array:
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


def relative_positions(window: int) -> NDArray[np.int64]:
    """tokens x tokens indices into the bias table: (dy + window - 1) * (2 window - 1) + dx + window - 1."""
    y, x = np.divmod(np.arange(window**2), window)
    dy, dx = y[:, None] - y, x[:, None] - x
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def shift_regions(height: int, width: int, window: int, shift: int) -> NDArray[np.uint8]:
    """windows x tokens: a number for each token of the rolled map; tokens of equal number see each other."""

    def bands(n: int) -> NDArray[np.uint8]:
        i = np.arange(n)
        return ((i >= n - window).astype(np.uint8) + (i >= n - shift)).astype(np.uint8)

    regions = 3 * bands(height)[:, None] + bands(width)
    split = regions.reshape(height // window, window, width // window, window).transpose(0, 2, 1, 3)
    return split.reshape(-1, window**2)
