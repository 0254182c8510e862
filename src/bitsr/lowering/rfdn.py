"""RFDN as a program."""

from __future__ import annotations

from bitsr.archs.rfdn import ESA, RFDB, RFDN
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_esa(module: ESA, builder: Builder, x: str) -> str:
    reduced = builder.apply(x, module.conv1)
    pooled = builder.max_pool(builder.apply(reduced, module.conv2), kernel=7, stride=3)
    wide = builder.activation(builder.apply(pooled, module.conv_max), "relu")
    wide = builder.activation(builder.apply(wide, module.conv3), "relu")
    wide = builder.resize(builder.apply(wide, module.conv3_), "bilinear", like=x)
    mask = builder.apply(builder.add(wide, builder.apply(reduced, module.conv_f)), module.conv4)
    return builder.mul(x, builder.activation(mask, "sigmoid"))


def lower_rfdb(module: RFDB, builder: Builder, x: str) -> str:
    kept = []
    for step in (1, 2, 3):
        distil, refine = getattr(module, f"c{step}_d"), getattr(module, f"c{step}_r")
        kept.append(builder.apply(builder.apply(x, distil), module.act))
        x = builder.apply(builder.add(builder.apply(x, refine), x), module.act)
    kept.append(builder.apply(builder.apply(x, module.c4), module.act))
    return builder.apply(builder.apply(builder.concat(*kept), module.c5), module.esa)


def lower_rfdn(module: RFDN, builder: Builder, x: str) -> str:
    first = y = builder.apply(builder.affine(x, module.feature_range), module.fea_conv)
    outputs = []
    for block in (module.B1, module.B2, module.B3, module.B4):
        y = builder.apply(y, block)
        outputs.append(y)
    fused = builder.apply(builder.apply(builder.concat(*outputs), module.c), module.LR_conv)
    y = builder.apply(builder.add(fused, first), module.upsampler)
    return builder.affine(y, 1 / module.feature_range)


register_lowering(ESA, lower_esa)
register_lowering(RFDB, lower_rfdb)
register_lowering(RFDN, lower_rfdn)
