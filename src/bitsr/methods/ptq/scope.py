"""Which layer gets how many bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from bitsr.errors import ConfigError
from bitsr.methods.ptq.config import PTQConfig
from bitsr.parts.frozen_binary import FrozenBinary
from bitsr.parts.layers import replaceable
from bitsr.parts.matmul import MatMul

FLOATING = 32
EDGE_BITS = 8


@torch.no_grad()
def execution_order(model: nn.Module, picture: Tensor) -> list[str]:
    """Names of the compressible layers in the order in which they first run on ``picture`` (1xCxHxW).  What is inside a
    layer of signs, a branch beside it, is none."""
    order: list[str] = []
    handles = []
    inside = {part for layer in model.modules() if isinstance(layer, FrozenBinary) for part in layer.modules()}
    for name, module in model.named_modules():
        if replaceable(module) and module not in inside:
            handles.append(module.register_forward_pre_hook(lambda _m, _x, name=name: order.append(name)))
    try:
        model(picture)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(order))


def assign_bits(model: nn.Module, order: Sequence[str], config: PTQConfig) -> dict[str, tuple[int, int]]:
    """(weight bits, activation bits) of every layer to be compressed, in execution order.

    A network may name its sensitive branches in ``eight_bit`` (parts of layer names, such as 'esa'): they stay at 8
    bit; and in ``floating`` those that stay as they are, a router that decides by tiny differences, for example.
    ``config.layer_bits`` goes before all that.

    Raises `ConfigError` where that names no layer.
    """
    check_names(config.layer_bits, order)
    ran = order
    untouched: Sequence[str] = getattr(model, "floating", ())
    order = [name for name in order if not set(untouched) & set(name.split("."))]
    asked, attention = (config.w_bits, config.a_bits), config.attention_bits or config.a_bits
    edge, inner = (tuple(min(FLOATING, max(least, bits)) for bits in asked) for least in (EDGE_BITS, config.conv_bits))
    convolutions = [n for n in order if isinstance(model.get_submodule(n), nn.Conv2d)]
    transformer = len(convolutions) < len(order)
    sensitive: Sequence[str] = getattr(model, "eight_bit", ()) if config.scope == "full" else ()
    bits: dict[str, tuple[int, int]] = {}
    for name in order:
        module = model.get_submodule(name)
        if isinstance(module, MatMul):
            bits[name] = (attention, attention)
        elif isinstance(module, nn.Linear):
            bits[name] = asked
        elif transformer and config.scope == "paper":
            bits[name] = (FLOATING, FLOATING)
        elif transformer and name not in (convolutions[0], convolutions[-1]):
            bits[name] = (inner[0], inner[1])
        elif name in (convolutions[0], convolutions[-1]) or any(s in name.split(".") for s in sensitive):
            bits[name] = (edge[0], edge[1])
        else:
            bits[name] = asked
    bits |= config.layer_bits
    return {name: bits[name] for name in ran if name in bits and min(bits[name]) < 16}


def check_names(asked: Iterable[str], known: Sequence[str]) -> None:
    """Raises `ConfigError` for the first name that is not known."""
    for name in asked:
        if name not in known:
            near = get_close_matches(name, known, 3) or known[:3]
            raise ConfigError(f"layer_bits: no layer {name} that could be compressed; near: {', '.join(near)}")
