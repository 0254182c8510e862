"""SRVGGNetCompact as a program."""

from __future__ import annotations

from bitsr.archs.srvgg import SRVGGNetCompact
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_srvgg(module: SRVGGNetCompact, builder: Builder, x: str) -> str:
    y = x
    for layer in module.body:
        y = builder.apply(y, layer)
    return builder.add(builder.apply(y, module.upsampler), builder.resize(x, "nearest", module.upscale))


register_lowering(SRVGGNetCompact, lower_srvgg)
