"""ESPCN, both families, as a program."""

from __future__ import annotations

from bitsr.archs.espcn import ESPCN, ESPCNClip
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_espcn(module: ESPCN, builder: Builder, x: str) -> str:
    for conv in (module.conv1, module.conv2):
        x = builder.activation(builder.apply(x, conv), "tanh")
    return builder.activation(builder.apply(builder.apply(x, module.conv3), module.pixel_shuffle), "sigmoid")


def lower_espcn_clip(module: ESPCNClip, builder: Builder, x: str) -> str:
    for conv in (module.conv_1, module.conv_2):
        x = builder.activation(builder.apply(x, conv), "tanh")
    return builder.activation(builder.apply(builder.apply(x, module.conv_3), module.pixel_shuffle), "clip")


register_lowering(ESPCN, lower_espcn)
register_lowering(ESPCNClip, lower_espcn_clip)
