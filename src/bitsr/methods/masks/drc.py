"""DRC-lite: half the channels inside each transformer block leave before it is binarized; and how channels leave.

After Guo et al., "Towards Lightweight Super-Resolution with Dual Regression Learning" (DRC), TPAMI 2024.  As there, the
same dimensions leave all heads of an attention (rows of q, k and v, and the columns of the projection that read them),
hidden units leave the MLP, and the width between the blocks stays.  DRC searches how many, and selects them by
gradients (drc_search.py); DRC-lite takes half of them, by the L1 norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitsr.archs.swinir import SwinBlock, WindowAttention
from bitsr.errors import ConfigError


@dataclass(frozen=True)
class Channels:
    """Places of the channels of one block that stay, ascending: dimensions of every head, hidden units of the MLP."""

    head: Tensor
    hidden: Tensor


def swin_blocks(model: nn.Module) -> dict[str, SwinBlock]:
    """By name.

    Raises:
        ConfigError: the network has no blocks of SwinIR.
    """
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, SwinBlock)}
    if not blocks:
        raise ConfigError("masks drc and drc-lite remove channels of SwinIR's blocks; this network has none")
    return blocks


def halve_channels(model: nn.Module) -> None:
    """DRC-lite, in place."""
    for block in swin_blocks(model).values():
        head, hidden = head_size(block.attn), hidden_size(block)
        narrow(block, Channels(largest(head, len(head) // 2), largest(hidden, len(hidden) // 2)))


def narrow(block: SwinBlock, kept: Channels) -> None:
    """All other channels leave, in place."""
    attention, mlp = block.attn, block.mlp
    heads, size = attention.heads, attention.proj.in_features // attention.heads
    places = torch.arange(3 * heads * size, device=kept.head.device).view(3 * heads, size)[:, kept.head]
    attention.qkv = rows(attention.qkv, places.flatten())
    attention.proj = columns(attention.proj, places[:heads].flatten())
    mlp.fc1, mlp.fc2 = rows(mlp.fc1, kept.hidden), columns(mlp.fc2, kept.hidden)


def narrow_as(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """As many channels stay, the first ones, as a network with the state dict ``state`` has; in place."""
    for name, block in swin_blocks(model).items():
        head = len(state[f"{name}.attn.qkv.weight"]) // (3 * block.attn.heads)
        narrow(block, Channels(torch.arange(head), torch.arange(len(state[f"{name}.mlp.fc1.weight"]))))


def head_size(attention: WindowAttention) -> Tensor:
    """The L1 norm of the weights that make and read each dimension of the heads, of all heads together."""
    products = l1(attention.qkv.weight, 1).view(3, attention.heads, -1).sum((0, 1))
    return products + l1(attention.proj.weight, 0).view(attention.heads, -1).sum(0)


def hidden_size(block: SwinBlock) -> Tensor:
    """That of each hidden unit of the MLP."""
    return l1(block.mlp.fc1.weight, 1) + l1(block.mlp.fc2.weight, 0)


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
