"""MambaIRv2-light as a program: the router's classes sort pixels, the scan goes over them in reading order."""

from __future__ import annotations

from bitsr.archs.mambairv2 import ASSB, ASSM, AttentiveLayer, GatedMLP, MambaIRv2Light, SelectiveScan
from bitsr.lowering.blocks import less_mean, with_mean
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import register_lowering


def lower_mlp(module: GatedMLP, builder: Builder, x: str) -> str:
    hidden = builder.activation(builder.apply(x, module.fc1), "gelu")
    half = module.sg.norm.normalized_shape[0]
    first, second = builder.split(hidden, half, half)
    gate = builder.apply(builder.apply(second, module.sg.norm), module.sg.conv)
    return builder.apply(builder.mul(first, gate), module.fc2)


def _scan(module: SelectiveScan, builder: Builder, x: str, prompt: str) -> str:
    name = builder.name_of(module)
    made = builder.matrix(x, f"{name}.x_proj", module.x_proj_weight[0])
    rank, b, c = builder.split(made, module.dt_rank, module.d_state, module.d_state)
    steps = builder.matrix(rank, f"{name}.dt_proj", module.dt_projs_weight[0], module.dt_projs_bias[0])
    return builder.selective_scan(
        x, builder.activation(steps, "softplus"), b, builder.add(c, prompt), name, -module.A_logs.exp(), module.Ds
    )


def _assm(module: ASSM, builder: Builder, x: str, layer: AttentiveLayer) -> str:
    prompts = module.prompts(layer.embeddingA)
    classes = builder.argmax(builder.apply(x, module.route))
    prompt = builder.lookup(classes, f"{builder.name_of(module)}.prompt", prompts)
    y = builder.apply(x, module.in_proj)
    y = builder.mul(y, builder.activation(builder.apply(y, module.CPE), "sigmoid"))
    y = _scan(module.selectiveScan, builder, builder.reorder(y, classes, len(prompts)), prompt)
    y = builder.reorder(y, classes, len(prompts), back=True)
    return builder.apply(builder.apply(y, module.out_norm), module.out_proj)


def _attention(layer: AttentiveLayer, builder: Builder, x: str) -> str:
    module = layer.win_mhsa
    attended = builder.window_attention(
        builder.apply(x, layer.wqkv), builder.name_of(module), module.relative_position_bias_table,
        module.matmul_qk, module.matmul_av,
        heads=module.heads, window=layer.window, shift=layer.shift, scale=module.scale,
    )  # fmt: skip
    return builder.apply(attended, module.proj)


def lower_layer(layer: AttentiveLayer, builder: Builder, x: str) -> str:
    name = builder.name_of(layer)
    y = builder.add(x, _attention(layer, builder, builder.apply(x, layer.norm1)))
    z = builder.apply(builder.apply(y, layer.norm2), layer.convffn1)
    x = builder.add(builder.add(builder.scale_and_shift(x, f"{name}.scale1", layer.scale1), y), z)
    y = builder.add(x, _assm(layer.assm, builder, builder.apply(x, layer.norm3), layer))
    z = builder.apply(builder.apply(y, layer.norm4), layer.convffn2)
    return builder.add(builder.add(builder.scale_and_shift(x, f"{name}.scale2", layer.scale2), y), z)


def lower_assb(module: ASSB, builder: Builder, x: str) -> str:
    y = x
    for layer in module.residual_group.layers:
        y = builder.apply(y, layer)
    return builder.add(x, builder.apply(y, module.conv))


def lower_mambairv2(module: MambaIRv2Light, builder: Builder, x: str) -> str:
    padded = builder.pad(x, module.window_size, "symmetric")
    normal = less_mean(module, builder, padded)
    first = builder.apply(normal, module.conv_first)
    y = builder.apply(first, module.patch_embed.norm)
    for group in module.layers:
        y = builder.apply(y, group)
    y = builder.add(builder.apply(builder.apply(y, module.norm), module.conv_after_body), first)
    y = with_mean(module, builder, builder.apply(y, module.upsample))
    return builder.crop(y, x, module.upscale)


register_lowering(GatedMLP, lower_mlp)
register_lowering(AttentiveLayer, lower_layer)
register_lowering(ASSB, lower_assb)
register_lowering(MambaIRv2Light, lower_mambairv2)
