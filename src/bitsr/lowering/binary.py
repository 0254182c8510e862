"""Layers of signs with what super-resolution papers put around them: an RPReLU and a shortcut."""

from __future__ import annotations

import numpy as np

from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering
from bitsr.parts.binarizers import RPReLU
from bitsr.parts.frozen_binary import FrozenBinary


def lower_binary(module: FrozenBinary, builder: Builder, x: str) -> str:
    y = builder.binary(x, module)
    if module.shortcut == "before":
        y = builder.add(y, _matched(module, builder, x))
    if module.rprelu is not None:
        y = builder.apply(y, module.rprelu)
    return builder.add(y, _matched(module, builder, x)) if module.shortcut == "after" else y


def lower_rprelu(module: RPReLU, builder: Builder, x: str) -> str:
    moved = builder.affine(x, 1.0, module.before.tolist())
    return builder.affine(builder.prelu(moved, module), 1.0, module.after.tolist())


def _matched(module: FrozenBinary, builder: Builder, x: str) -> str:
    """The input with as many channels as the output: repeated, or means of neighbours, see `binary_layers.matched`."""
    inputs, outputs = sum(module.groups), len(module.scale)
    if inputs <= outputs:
        return x if inputs == outputs else builder.concat(*[x] * (outputs // inputs))
    means = np.kron(np.eye(outputs), np.full(inputs // outputs, outputs / inputs))
    return builder.matrix(x, f"means.{inputs}.{outputs}", means)


register_lowering(FrozenBinary, lower_binary)
register_lowering(RPReLU, lower_rprelu)
