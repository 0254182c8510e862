"""The lowerings of single layers: the one place that knows which kinds of layer a program can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bitsr.errors import UnsupportedLayer
from bitsr.lowering.builder import Builder
from bitsr.lowering.registry import Lowering, register_lowering
from bitsr.parts.layers import QuantConv2d, QuantLayer, QuantLinear


def _sequence(module: nn.Sequential, builder: Builder, x: str) -> str:
    for part in module:
        x = builder.apply(x, part)
    return x


def _with_branch(module: QuantLayer, builder: Builder, x: str, y: str) -> str:
    return y if module.branch is None else builder.add(y, builder.apply(x, module.branch))


def _gelu(module: nn.GELU, builder: Builder, x: str) -> str:
    if module.approximate != "none":
        raise UnsupportedLayer(f"{builder.name_of(module)}: the GELU by {module.approximate} cannot be packed")
    return builder.activation(x, "gelu")


def _batch_norm(module: nn.BatchNorm2d, builder: Builder, x: str) -> str:
    """In eval mode, when it is a scale and a shift per channel."""
    if module.running_mean is None or module.running_var is None:
        raise UnsupportedLayer(f"{builder.name_of(module)}: a batch norm without running statistics cannot be packed")
    scale = (module.running_var.double() + module.eps).rsqrt()
    scale = scale if module.weight is None else scale * module.weight
    shift = -module.running_mean * scale
    shift = shift if module.bias is None else shift + module.bias
    return builder.scale_and_shift(x, builder.name_of(module), scale, shift)


def _unchanged(module: nn.Module, builder: Builder, x: str) -> str:
    return x


def _activation(function: Any) -> Lowering:
    return lambda module, builder, x: builder.activation(x, function)


LAYERS: dict[type[nn.Module], Callable[[Any, Builder, str], str]] = {
    nn.Conv2d: lambda module, builder, x: builder.conv2d(x, module),
    QuantConv2d: lambda module, builder, x: _with_branch(module, builder, x, builder.conv2d(x, module)),
    nn.Linear: lambda module, builder, x: builder.linear(x, module),
    QuantLinear: lambda module, builder, x: _with_branch(module, builder, x, builder.linear(x, module)),
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: lambda module, builder, x: builder.layer_norm(x, module),
    nn.LeakyReLU: lambda module, builder, x: builder.activation(x, "leaky_relu", module.negative_slope),
    nn.PReLU: lambda module, builder, x: builder.prelu(x, module),
    nn.ReLU: _activation("relu"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.Tanh: _activation("tanh"),
    nn.GELU: _gelu,
    nn.PixelShuffle: lambda module, builder, x: builder.pixel_shuffle(x, module.upscale_factor),
    nn.PixelUnshuffle: lambda module, builder, x: builder.pixel_unshuffle(x, module.downscale_factor),
    nn.Sequential: _sequence,
    nn.Identity: _unchanged,
    nn.Dropout: _unchanged,
}

for kind, lowering in LAYERS.items():
    register_lowering(kind, lowering)
