"""IMDN as a program."""

from __future__ import annotations

from bitsr.archs.imdn import CCA, IMDN, IMDModule
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_cca(module: CCA, builder: Builder, x: str) -> str:
    contrast = builder.add(builder.global_pool(x, "std"), builder.global_pool(x, "mean"))
    return builder.mul(x, builder.apply(contrast, module.conv_du))


def lower_imd_module(module: IMDModule, builder: Builder, x: str) -> str:
    kept = []
    remaining = x
    for conv in (module.c1, module.c2, module.c3):
        y = builder.apply(builder.apply(remaining, conv), module.act)
        distilled, remaining = builder.split(y, module.distilled, module.remaining)
        kept.append(distilled)
    kept.append(builder.apply(remaining, module.c4))
    gated = builder.apply(builder.concat(*kept), module.cca)
    return builder.add(builder.apply(gated, module.c5), x)


def lower_imdn(module: IMDN, builder: Builder, x: str) -> str:
    first = y = builder.apply(x, module.fea_conv)
    outputs = []
    for i in range(1, 7):
        y = builder.apply(y, getattr(module, f"IMDB{i}"))
        outputs.append(y)
    fused = builder.apply(builder.apply(builder.concat(*outputs), module.c), module.LR_conv)
    return builder.apply(builder.add(fused, first), module.upsampler)


register_lowering(CCA, lower_cca)
register_lowering(IMDModule, lower_imd_module)
register_lowering(IMDN, lower_imdn)
