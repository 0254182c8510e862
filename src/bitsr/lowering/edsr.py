"""EDSR as a program."""

from __future__ import annotations

from bitsr.archs.edsr import EDSR
from bitsr.lowering.blocks import less_mean, with_mean
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_edsr(module: EDSR, builder: Builder, x: str) -> str:
    normal = less_mean(module, builder, x)
    first = builder.apply(normal, module.conv_first)
    features = builder.add(builder.apply(builder.apply(first, module.body), module.conv_after_body), first)
    y = builder.apply(builder.apply(features, module.upsample), module.conv_last)
    return with_mean(module, builder, y)


register_lowering(EDSR, lower_edsr)
