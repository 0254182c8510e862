"""RRDBNet as a program."""

from __future__ import annotations

from bitsr.archs.rrdbnet import RESIDUAL, RRDB, SLOPE, ResidualDenseBlock, RRDBNet
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_dense_block(module: ResidualDenseBlock, builder: Builder, x: str) -> str:
    seen = x
    for i in range(1, 5):
        made = builder.activation(builder.apply(seen, getattr(module, f"conv{i}")), "leaky_relu", SLOPE)
        seen = builder.concat(seen, made)
    return builder.add(x, builder.affine(builder.apply(seen, module.conv5), RESIDUAL))


def lower_rrdb(module: RRDB, builder: Builder, x: str) -> str:
    y = x
    for block in (module.rdb1, module.rdb2, module.rdb3):
        y = builder.apply(y, block)
    return builder.add(x, builder.affine(y, RESIDUAL))


def lower_rrdbnet(module: RRDBNet, builder: Builder, x: str) -> str:
    gathered = builder.pixel_unshuffle(builder.pad(x, module.unshuffle), module.unshuffle)
    first = builder.apply(gathered, module.conv_first)
    y = builder.add(first, builder.apply(builder.apply(first, module.body), module.conv_body))
    for i in range(1, module.doublings + 1):
        y = builder.apply(builder.resize(y, "nearest", 2), getattr(module, f"conv_up{i}"))
        y = builder.activation(y, "leaky_relu", SLOPE)
    y = builder.activation(builder.apply(y, module.conv_hr), "leaky_relu", SLOPE)
    y = builder.apply(y, module.conv_last)
    return y if module.unshuffle == 1 else builder.crop(y, x, module.upscale)


register_lowering(ResidualDenseBlock, lower_dense_block)
register_lowering(RRDB, lower_rrdb)
register_lowering(RRDBNet, lower_rrdbnet)
