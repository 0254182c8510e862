"""Layers of signs: codes of N:M sparse one-bit weights, and what the steps that multiply with them compute.

Of every ``block`` neighbouring inputs a row keeps ``keep``, each with a sign.  A block is one code: with the subsets of
``keep`` places in lexicographic order, subset number n and signs b_0, b_1, ... of its places in ascending order (1: +1,
0: -1) make the code  n * 2**keep + sum_i b_i 2**i.  So 2:4 has 24 codes of 5 bits, and dense weights (1:1) are bits.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from bitsr.program.arrays import Array
from bitsr.program.frame import Frame
from bitsr.program.layers import convolve
from bitsr.program.steps import BinaryConv2d, BinaryLinear

MOST_STATES = 256


def states(keep: int, block: int) -> int:
    """How many codes a block has; raises ValueError where they do not fit into a byte."""
    if not 0 < keep <= block <= 8 or comb(block, keep) << keep > MOST_STATES:
        raise ValueError(f"blocks of {block} with {keep} kept weights have no codes of at most 8 bits")
    return comb(block, keep) << keep


@cache
def patterns(keep: int, block: int) -> NDArray[np.int8]:
    """The weights -1, 0, +1 of each code: states x block."""
    table = np.zeros((states(keep, block), block), np.int8)
    subsets = list(combinations(range(block), keep))
    for code, row in enumerate(table):
        for i, place in enumerate(subsets[code >> keep]):
            row[place] = 1 if code >> i & 1 else -1
    return table


def decode(codes: NDArray[np.uint8], keep: int, block: int) -> NDArray[np.int8]:
    """(..., in / block) codes -> (..., in) weights -1, 0, +1."""
    return patterns(keep, block)[codes].reshape(*codes.shape[:-1], -1)


def encode(signs: NDArray[np.int8], keep: int, block: int) -> NDArray[np.uint8]:
    """(..., in) weights -1, 0, +1 -> (..., in / block) codes.

    Raises:
        ValueError: a row is no whole blocks, or a block does not keep as many weights as it should.
    """
    if signs.shape[-1] % block:
        raise ValueError(f"rows of {signs.shape[-1]} inputs are no whole blocks of {block}")
    places = 3 ** np.arange(block)
    numbers = np.full(3**block, -1, np.int16)  # code of a block, by its weights as a number of base 3
    numbers[(patterns(keep, block) + 1) @ places] = np.arange(states(keep, block))
    codes = numbers[(signs.reshape(*signs.shape[:-1], -1, block) + 1) @ places]
    if codes.size and codes.min() < 0:
        raise ValueError(f"a block of {block} weights keeps more or fewer than {keep}")
    return codes.astype(np.uint8)


def linear(step: BinaryLinear, frame: Frame) -> Array:
    """A 1x1 convolution, as far as arithmetic goes."""
    y = _product(step, frame)
    if step.token_scale:
        y = y * frame.arrays.mean(abs(frame.values[step.x]), -1)
    return _with_bias(y, step, frame)


def conv2d(step: BinaryConv2d, frame: Frame) -> Array:
    return _with_bias(_product(step, frame, step.stride, step.padding), step, frame)


def _with_bias(y: Array, step: BinaryLinear | BinaryConv2d, frame: Frame) -> Array:
    return y if step.bias is None else y + frame.tensor(step.bias)


def _product(step: BinaryLinear | BinaryConv2d, frame: Frame, stride: int = 1, padding: int = 0) -> Array:
    """Signs are the codes 0 and 2 less 1, and a pixel beyond the border is the code 1: acc = sum w code - sum w."""
    arrays, weight, x = frame.arrays, step.weight, frame.values[step.x]
    codes = arrays.codes(arrays.floats(x >= frame.tensor(step.threshold)) * 2)
    frame.note(codes=codes)
    codes = arrays.pad(codes, padding, 1) if padding else codes
    signs = decode(frame.program.tensors[weight.codes], weight.keep, weight.block)
    filters = signs if signs.ndim == 4 else signs[:, None, None, :]
    scale, y, start = frame.tensor(weight.scale), None, 0
    for k, size in enumerate(weight.groups):
        part = filters[..., start : start + size]
        multiply = partial(arrays.integer_matmul, largest=2 * part[0].size)
        acc = convolve(codes[..., start : start + size], arrays.array(part), stride, 1, arrays, multiply)
        acc = acc - arrays.array(part.sum((1, 2, 3), dtype=np.int32))
        frame.note(accumulator=acc)
        product = arrays.floats(acc) * scale[:, k]
        y = product if y is None else y + product
        start += size
    return y
