"""SRCNN as a program."""

from __future__ import annotations

from bitsr.archs.srcnn import SRCNN, A
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_srcnn(module: SRCNN, builder: Builder, x: str) -> str:
    y = builder.resize(x, "bicubic", module.upscale, a=A)
    for conv in (module.conv1, module.conv2):
        y = builder.activation(builder.apply(y, conv), "relu")
    return builder.apply(y, module.conv3)


register_lowering(SRCNN, lower_srcnn)
