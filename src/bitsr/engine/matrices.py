"""Weights as the kernels want them: packed once per engine, whatever the size of the picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitsr.engine.ops import Format
from bitsr.program.arrays import NumpyArrays
from bitsr.program.binary import decode
from bitsr.program.frame import Frame
from bitsr.program.program import Program
from bitsr.program.steps import BinaryConv2d, BinaryLinear, Conv2d, Linear, PackedWeight


def product_format(step: Linear | Conv2d, floating: Format) -> Format:
    """Both operands' format; ``floating`` is that of products that are not integer."""
    return "u8" if step.quantizer is not None and isinstance(step.weight, PackedWeight) else floating


def sign_matrix_of(step: BinaryLinear | BinaryConv2d, program: Program, native: Any) -> Any:
    """The native matrix of a layer of signs; the arithmetic is that of :mod:`bitsr.program.binary`."""
    weight = step.weight
    signs = _rows(decode(program.tensors[weight.codes], weight.keep, weight.block))
    scaled = isinstance(step, BinaryLinear) and step.token_scale  # then the bias comes after the scale
    bias = None if step.bias is None or scaled else program.tensor(step.bias)
    return native.SignMatrix(signs, list(weight.groups), program.tensor(weight.scale), bias=bias)


def matrix_of(step: Linear | Conv2d, program: Program, floating: Format, native: Any) -> Any:
    """The native matrix of a layer; the arithmetic is that of :mod:`bitsr.program.layers`."""
    frame = Frame(program, NumpyArrays(), {})
    groups = step.groups if isinstance(step, Conv2d) else 1
    bias = None if step.bias is None else program.tensor(step.bias)
    format = product_format(step, floating)
    if format != "u8":
        weight = frame.dequantized(step.weight)
        return native.Matrix(_rows(weight), format, bias=bias, groups=groups)
    assert isinstance(step.weight, PackedWeight) and step.quantizer is not None
    rows, size = _rows(frame.signed(step.weight)), np.float32(step.quantizer.step)
    mid = sums = None
    if step.weight.mid is not None:
        mid, sums = size * program.tensor(step.weight.mid), np.ones((groups, *rows.shape[1:]), np.int8)
    scale = size * program.tensor(step.weight.scale)
    return native.Matrix(rows, format, scale=scale, bias=bias, mid=mid, sums=sums, groups=groups)


def _rows(weight: Any) -> Any:
    """out x taps x in"""
    return np.ascontiguousarray(weight).reshape(weight.shape[0], -1, weight.shape[-1])
