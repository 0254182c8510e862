"""SwinIR in all its variants as a program: tokens are feature maps, the attention step does windows and shifts."""

from __future__ import annotations

from bitsr.archs.swinir import RSTB, Mlp, SwinBlock, SwinIR, WindowAttention
from bitsr.lowering.blocks import less_mean, with_mean
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def _attention(module: WindowAttention, builder: Builder, x: str, window: int, shift: int) -> str:
    qkv = builder.apply(x, module.qkv)
    attended = builder.window_attention(
        qkv, builder.name_of(module), module.relative_position_bias_table, module.matmul_qk, module.matmul_av,
        heads=module.heads, window=window, shift=shift, scale=module.scale,
    )  # fmt: skip
    return builder.apply(attended, module.proj)


def lower_mlp(module: Mlp, builder: Builder, x: str) -> str:
    return builder.apply(builder.activation(builder.apply(x, module.fc1), "gelu"), module.fc2)


def lower_block(block: SwinBlock, builder: Builder, x: str) -> str:
    """Window and shift are the block's own, which differ where one window covered the training picture."""
    x = builder.add(x, _attention(block.attn, builder, builder.apply(x, block.norm1), block.window, block.shift))
    return builder.add(x, builder.apply(builder.apply(x, block.norm2), block.mlp))


def lower_rstb(module: RSTB, builder: Builder, x: str) -> str:
    y = x
    for block in module.residual_group.blocks:
        y = builder.apply(y, block)
    return builder.add(x, builder.apply(y, module.conv))


def _features(module: SwinIR, builder: Builder, x: str) -> str:
    """The deep features with the long skip, before upsampling."""
    first = builder.apply(x, module.conv_first)
    y = builder.apply(first, module.patch_embed.norm)
    for layer in module.layers:
        y = builder.apply(y, layer)
    return builder.add(builder.apply(builder.apply(y, module.norm), module.conv_after_body), first)


def _upsample_nearest(module: SwinIR, builder: Builder, y: str) -> str:
    convolutions = [module.conv_up1, module.conv_up2] if module.upscale == 4 else [module.conv_up1]
    for conv in convolutions:
        y = builder.activation(builder.apply(builder.resize(y, "nearest", 2), conv), "leaky_relu", 0.2)
    return builder.activation(builder.apply(y, module.conv_hr), "leaky_relu", 0.2)


def lower_swinir(module: SwinIR, builder: Builder, x: str) -> str:
    padded = builder.pad(x, module.window_size)
    normal = less_mean(module, builder, padded)
    y = _features(module, builder, normal)
    if module.upsampler == "pixelshuffledirect":
        y = builder.apply(y, module.upsample)
    elif module.upsampler == "pixelshuffle":
        y = builder.apply(builder.apply(y, module.conv_before_upsample), module.upsample)
        y = builder.apply(y, module.conv_last)
    elif module.upsampler == "nearest+conv":
        y = _upsample_nearest(module, builder, builder.apply(y, module.conv_before_upsample))
        y = builder.apply(y, module.conv_last)
    else:
        y = builder.add(normal, builder.apply(y, module.conv_last))
    return builder.crop(with_mean(module, builder, y), x, module.upscale)


register_lowering(Mlp, lower_mlp)
register_lowering(SwinBlock, lower_block)
register_lowering(RSTB, lower_rstb)
register_lowering(SwinIR, lower_swinir)
