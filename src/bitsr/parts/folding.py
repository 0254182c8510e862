"""Moving per-channel scales and shifts into the layer before, exactly.

A network lists its :class:`Fold` s in a method ``folds()``; what is not listed is multiplied at run time.  It lists
(convolution, batch norm behind it) in ``batch_norms()``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@dataclass(frozen=True)
class Fold:
    """``consumer`` reads nothing but what ``producer`` writes, channel by channel (up to permutations and mixing of
    positions).

    ``rows`` are the producer's output channels that become the consumer's inputs (None: all).  A LayerNorm producer
    also takes a shift.  Both are module names.
    """

    producer: str
    consumer: str
    rows: tuple[int, int] | None = None


@torch.no_grad()
def divide_output(producer: nn.Module, scale: Tensor, shift: Tensor | None, rows: tuple[int, int] | None) -> None:
    """producer's output channels become (y - shift) / scale."""
    part = slice(*rows) if rows else slice(None)
    weight, bias = producer.weight, producer.bias
    if shift is not None:
        bias[part] -= shift  # type: ignore[index, operator]
    bias[part] /= scale  # type: ignore[index, operator]
    weight[part] /= scale.view(-1, *[1] * (weight.ndim - 1))  # type: ignore[index, union-attr, operator]


@torch.no_grad()
def multiply_input(consumer: nn.Module, scale: Tensor, shift: Tensor | None) -> None:
    """The weight takes inputs (x - shift) / scale and gives the same output.  Linears and convolutions of one group."""
    weight, bias = consumer.weight, consumer.bias
    if shift is not None:
        bias += torch.einsum("oi...,i->o", weight.flatten(2).sum(2) if weight.ndim > 2 else weight, shift)  # type: ignore[operator, union-attr, arg-type]
    weight *= scale.view(1, -1, *[1] * (weight.ndim - 2))  # type: ignore[operator, union-attr]


def fold_batch_norms(root: nn.Module) -> None:
    """The convolutions of a network in eval mode do what the batch norms behind them did, which are gone."""
    for conv, norm in getattr(root, "batch_norms", list)():
        before, behind = root.get_submodule(conv), root.get_submodule(norm)
        if isinstance(before, nn.Conv2d) and isinstance(behind, nn.BatchNorm2d):
            root.set_submodule(conv, fuse_conv_bn_eval(before, behind))
            root.set_submodule(norm, nn.Identity())
