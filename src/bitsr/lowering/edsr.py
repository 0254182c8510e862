"""EDSR as a program."""

from __future__ import annotations

from bitsr.archs.edsr import EDSR
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_edsr(module: EDSR, builder: Builder, x: str) -> str:
    mean = module.mean.flatten().tolist()
    normal = builder.affine(x, module.img_range, [-m * module.img_range for m in mean])
    first = builder.apply(normal, module.conv_first)
    features = builder.add(builder.apply(builder.apply(first, module.body), module.conv_after_body), first)
    y = builder.apply(builder.apply(features, module.upsample), module.conv_last)
    return builder.affine(y, 1 / module.img_range, mean)


register_lowering(EDSR, lower_edsr)
