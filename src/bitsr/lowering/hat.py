"""HAT as a program."""

from __future__ import annotations

import torch
from torch import Tensor

from bitsr.archs.hat import CAB, HAB, HAT, OCAB, RHAG, ChannelAttention
from bitsr.lowering.blocks import less_mean, with_mean
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_channel_attention(module: ChannelAttention, builder: Builder, x: str) -> str:
    _, *layers = module.attention
    gate = builder.global_pool(x, "mean")
    for layer in layers:
        gate = builder.apply(gate, layer)
    return builder.mul(x, gate)


def lower_cab(module: CAB, builder: Builder, x: str) -> str:
    return builder.apply(x, module.cab)


def lower_hab(block: HAB, builder: Builder, x: str) -> str:
    attention, normal = block.attn, builder.apply(x, block.norm1)
    conv = builder.affine(builder.apply(normal, block.conv_block), block.conv_scale)
    attended = builder.window_attention(
        builder.apply(normal, attention.qkv), builder.name_of(attention), attention.relative_position_bias_table,
        attention.matmul_qk, attention.matmul_av,
        heads=attention.heads, window=block.window, shift=block.shift, scale=attention.scale,
    )  # fmt: skip
    x = builder.add(builder.add(x, builder.apply(attended, attention.proj)), conv)
    return builder.add(x, builder.apply(builder.apply(x, block.norm2), block.mlp))


def lower_ocab(block: OCAB, builder: Builder, x: str) -> str:
    attended = builder.overlapping_attention(
        builder.apply(builder.apply(x, block.norm1), block.qkv), builder.name_of(block), _table(block),
        block.matmul_qk, block.matmul_av,
        heads=block.heads, window=block.window, margin=block.margin, scale=block.scale,
    )  # fmt: skip
    x = builder.add(x, builder.apply(attended, block.proj))
    return builder.add(x, builder.apply(builder.apply(x, block.norm2), block.mlp))


def _table(block: OCAB) -> Tensor:
    """The bias table in the order of the program's step, which counts offsets of queries against keys from 0 on."""
    side = 2 * (block.window + block.margin) - 1
    rows = (block.window * (side + 1) - torch.arange(side**2)) % side**2  # see `archs.hat.overlap_index`
    return block.relative_position_bias_table[rows]


def lower_rhag(module: RHAG, builder: Builder, x: str) -> str:
    y = x
    for block in (*module.residual_group.blocks, module.residual_group.overlap_attn):
        y = builder.apply(y, block)
    return builder.add(x, builder.apply(y, module.conv))


def lower_hat(module: HAT, builder: Builder, x: str) -> str:
    padded = builder.pad(x, module.window_size)
    normal = less_mean(module, builder, padded)
    first = builder.apply(normal, module.conv_first)
    y = builder.apply(first, module.patch_embed.norm)
    for layer in module.layers:
        y = builder.apply(y, layer)
    y = builder.add(builder.apply(builder.apply(y, module.norm), module.conv_after_body), first)
    y = builder.apply(builder.apply(y, module.conv_before_upsample), module.upsample)
    y = with_mean(module, builder, builder.apply(y, module.conv_last))
    return builder.crop(y, x, module.upscale)


register_lowering(ChannelAttention, lower_channel_attention)
register_lowering(CAB, lower_cab)
register_lowering(HAB, lower_hab)
register_lowering(OCAB, lower_ocab)
register_lowering(RHAG, lower_rhag)
register_lowering(HAT, lower_hat)
