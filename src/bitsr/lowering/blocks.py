"""Blocks that several networks share."""

from __future__ import annotations

from bitsr.archs.blocks import ResidualBlock
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_residual_block(module: ResidualBlock, builder: Builder, x: str) -> str:
    y = builder.apply(builder.activation(builder.apply(x, module.conv1), "relu"), module.conv2)
    return builder.add(x, builder.affine(y, module.res_scale))


register_lowering(ResidualBlock, lower_residual_block)
