"""Blocks that several networks share."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from bitsr.archs.blocks import ResidualBlock
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


class Normalized(Protocol):
    """A network that moves its pictures: ``mean`` per colour, in 0..1."""

    mean: Tensor
    img_range: float


def lower_residual_block(module: ResidualBlock, builder: Builder, x: str) -> str:
    y = builder.apply(builder.activation(builder.apply(x, module.conv1), "relu"), module.conv2)
    return builder.add(x, builder.affine(y, module.res_scale))


def less_mean(module: Normalized, builder: Builder, x: str) -> str:
    """(x - mean) * range, as the network wants its pictures."""
    shift = -module.mean.flatten() * module.img_range
    if not shift.any():
        return builder.affine(x, module.img_range)
    return builder.scale_and_shift(x, "centred", module.img_range, shift, exact=True)


def with_mean(module: Normalized, builder: Builder, y: str) -> str:
    """The way back."""
    if not module.mean.any():
        return builder.affine(y, 1 / module.img_range)
    return builder.scale_and_shift(y, "picture", 1 / module.img_range, module.mean.flatten(), exact=True)


register_lowering(ResidualBlock, lower_residual_block)
