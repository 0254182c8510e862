"""DRC-lite: half the channels inside each transformer block, before it is binarized.

After Guo et al., "Towards Lightweight Super-Resolution with Dual Regression Learning" (DRC), TPAMI 2024.  As there, the
same dimensions leave all heads of an attention (rows of q, k and v, and the columns of the projection that read them),
hidden units leave the MLP, and the width between the blocks stays.  DRC searches how many, and selects them by
gradients; here a fixed share goes, by the L1 norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.archs.swinir import SwinBlock, WindowAttention
from bitsr.errors import ConfigError


def halve_channels(model: nn.Module) -> None:
    """Removes them in place.

    Raises:
        ConfigError: the network has no blocks of SwinIR.
    """
    blocks = [module for module in model.modules() if isinstance(module, SwinBlock)]
    if not blocks:
        raise ConfigError("mask drc removes channels of SwinIR's blocks; this network has none")
    for block in blocks:
        halve_attention(block.attn)
        hidden = l1(block.mlp.fc1.weight, 1) + l1(block.mlp.fc2.weight, 0)
        kept = largest(hidden, len(hidden) // 2)
        block.mlp.fc1, block.mlp.fc2 = rows(block.mlp.fc1, kept), columns(block.mlp.fc2, kept)


def halve_attention(attention: WindowAttention) -> None:
    heads, size = attention.heads, attention.proj.in_features // attention.heads
    products = l1(attention.qkv.weight, 1).view(3, heads, size).sum((0, 1))
    kept = largest(products + l1(attention.proj.weight, 0).view(heads, size).sum(0), size // 2)
    places = torch.arange(3 * heads * size, device=kept.device).view(3 * heads, size)[:, kept]
    attention.qkv = rows(attention.qkv, places.flatten())
    attention.proj = columns(attention.proj, places[:heads].flatten())


def l1(weight: Tensor, axis: int) -> Tensor:
    return weight.detach().abs().sum(axis)


def largest(size: Tensor, count: int) -> Tensor:
    """Their places, in ascending order; the first of equals."""
    return size.sort(descending=True, stable=True).indices[:count].sort().values


def rows(source: nn.Linear, kept: Tensor) -> nn.Linear:
    return _linear(source.weight[kept], None if source.bias is None else source.bias[kept])


def columns(source: nn.Linear, kept: Tensor) -> nn.Linear:
    return _linear(source.weight[:, kept], source.bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
