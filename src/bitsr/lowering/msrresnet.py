"""MSRResNet as a program."""

from __future__ import annotations

from bitsr.archs.msrresnet import MSRResNet
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_msrresnet(module: MSRResNet, builder: Builder, x: str) -> str:
    y = builder.apply(builder.apply(builder.apply(x, module.conv_first), module.lrelu), module.body)
    for conv in [module.upconv1, module.upconv2] if module.upscale == 4 else [module.upconv1]:
        y = builder.apply(builder.apply(builder.apply(y, conv), module.pixel_shuffle), module.lrelu)
    y = builder.apply(builder.apply(builder.apply(y, module.conv_hr), module.lrelu), module.conv_last)
    return builder.add(y, builder.resize(x, "bilinear", module.upscale))


register_lowering(MSRResNet, lower_msrresnet)
