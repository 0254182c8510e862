"""SRResNet as a program."""

from __future__ import annotations

from bitsr.archs.srresnet import ResidualBlock, SRResNet, UpsampleBlock
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_block(module: ResidualBlock, builder: Builder, x: str) -> str:
    return builder.add(x, builder.apply(x, module.rcb))


def lower_upsampling(module: UpsampleBlock, builder: Builder, x: str) -> str:
    return builder.apply(x, module.upsample_block)


def lower_srresnet(module: SRResNet, builder: Builder, x: str) -> str:
    first = builder.apply(x, module.conv1)
    y = builder.add(first, builder.apply(builder.apply(first, module.trunk), module.conv2))
    y = builder.apply(builder.apply(y, module.upsampling), module.conv3)
    if module.ending == "clip":
        return builder.activation(y, "clip")
    return builder.affine(builder.activation(y, "tanh"), 0.5, 0.5)


register_lowering(ResidualBlock, lower_block)
register_lowering(UpsampleBlock, lower_upsampling)
register_lowering(SRResNet, lower_srresnet)
