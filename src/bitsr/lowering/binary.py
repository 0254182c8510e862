"""Layers of signs with what super-resolution papers put around them: branches, an RPReLU and a shortcut."""

from __future__ import annotations

from functools import reduce

import numpy as np

from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering
from bitsr.parts.binarizers import RPReLU
from bitsr.parts.branches import Diagonal, LowRank, Sparse
from bitsr.parts.frozen_binary import FrozenBinary, FrozenBinaryConv2d
from bitsr.parts.pointwise import PointwiseLinear


def lower_binary(module: FrozenBinary, builder: Builder, x: str) -> str:
    y = builder.binary(x, module)
    if isinstance(module, FrozenBinaryConv2d) and module.window_scale:
        y = builder.mul(y, builder.window_mean(x, module))
        if module.bias is not None:
            y = builder.scale_and_shift(y, f"{builder.name_of(module)}.after", shift=module.bias)
    if module.shortcut == "before":
        y = builder.add(y, _shortcut(module, builder, x))
    if module.rprelu is not None:
        y = builder.apply(y, module.rprelu)
    if module.shortcut == "after":
        y = builder.add(y, _shortcut(module, builder, x))
    for branch in module.branches:
        y = builder.add(y, builder.apply(x, branch))
    return y


def lower_rprelu(module: RPReLU, builder: Builder, x: str) -> str:
    name = builder.name_of(module)
    moved = builder.scale_and_shift(x, f"{name}.before", shift=module.before)
    return builder.scale_and_shift(builder.prelu(moved, module), f"{name}.after", shift=module.after)


def lower_diagonal(module: Diagonal, builder: Builder, x: str) -> str:
    outputs, factor = len(module.factor), module.factor.detach()
    if module.inputs <= outputs:
        return builder.scale_and_shift(_matched(module.inputs, outputs, builder, x), builder.name_of(module), factor)
    parts = builder.split(x, *[outputs] * (module.inputs // outputs))
    return builder.scale_and_shift(reduce(builder.add, parts), builder.name_of(module), factor / len(parts))


def lower_pointwise(module: PointwiseLinear, builder: Builder, x: str) -> str:
    return builder.apply(x, module.linear)


def lower_low_rank(module: LowRank, builder: Builder, x: str) -> str:
    return builder.apply(builder.apply(x, module.down), module.up)


def lower_sparse(module: Sparse, builder: Builder, x: str) -> str:
    return builder.sparse(x, module)


def _shortcut(module: FrozenBinary, builder: Builder, x: str) -> str:
    return _matched(sum(module.groups), len(module.scale), builder, x)


def _matched(inputs: int, outputs: int, builder: Builder, x: str) -> str:
    """The input with as many channels as the output: repeated, or means of neighbours, see `binary_layers.matched`."""
    if inputs <= outputs:
        return x if inputs == outputs else builder.concat(*[x] * (outputs // inputs))
    means = np.kron(np.eye(outputs), np.full(inputs // outputs, outputs / inputs))
    return builder.matrix(x, f"means.{inputs}.{outputs}", means)


register_lowering(FrozenBinary, lower_binary)
register_lowering(RPReLU, lower_rprelu)
register_lowering(Diagonal, lower_diagonal)
register_lowering(LowRank, lower_low_rank)
register_lowering(Sparse, lower_sparse)
register_lowering(PointwiseLinear, lower_pointwise)
