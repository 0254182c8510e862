"""How much the network's output suffers when one layer alone is quantized, everything else in floating point."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitsr.methods.ptq.bounds import both_ends
from bitsr.methods.ptq.config import PTQConfig
from bitsr.methods.ptq.distill import features_of
from bitsr.methods.ptq.pipeline import (
    Work,
    begin,
    bound_operands,
    round_to_nearest,
    seen_by,
    set_bounds,
    to_batches,
)
from bitsr.methods.ptq.samples import Rows, collect, standing_in
from bitsr.parts.layers import QuantConv2d, QuantLayer, QuantMatMul

Kind = Literal["convolution", "linear", "attention"]
WIDTHS = (2, 3, 4, 6, 8)
SEEN, ROWS = 16, 512  # pictures, and rows of each layer's input, for its bounds
CROPS, SIDE = 4, 24  # what errors are measured on: crops and their side in LR pixels


@dataclass(frozen=True)
class Sensitivity:
    """Mean squared errors of the output, which lies in [0, 1], by bits: ``weights`` alone or ``activations`` alone of
    this one layer quantized (nearest rounding, bounds by search)."""

    kind: Kind
    weights: dict[int, float]
    activations: dict[int, float]

    def error(self, w_bits: int, a_bits: int) -> float:
        """Of both together, as if their errors were independent; 16 bits and more cost nothing."""
        return sum(
            0.0 if bits >= 16 else errors[bits]
            for bits, errors in ((w_bits, self.weights), (a_bits, self.activations))
            if errors
        )


def kind_of(layer: QuantLayer | QuantMatMul) -> Kind:
    if isinstance(layer, QuantMatMul):
        return "attention"
    return "convolution" if isinstance(layer, QuantConv2d) else "linear"


@torch.no_grad()
def sensitivities(
    module: nn.Module,
    config: PTQConfig,
    pictures: Sequence[NDArray[np.uint8]],
    held: Sequence[NDArray[np.uint8]],
    widths: Sequence[int] = WIDTHS,
    seed: int = 0,
) -> dict[str, Sensitivity]:
    """The sensitivity of every layer in the scope of ``config``, in execution order.

    Bounds are found on the first ``SEEN`` of ``pictures``, LR crops HxWx3 uint8; errors are measured on ``held``, which
    should be others; ``CROPS`` of them are used, and of these ``SIDE`` pixels.
    """
    work = begin(module, pictures[:SEEN], dataclasses.replace(config, w_bits=8, a_bits=8, layer_bits={}), seed)
    x = torch.cat(to_batches([middle(p, SIDE) for p in held[:CROPS]], getattr(module, "descriptor", None)))
    network = Replay(work, x.to(work.batches[0].device))
    rows, elements = collect(work.student, list(work.layers), work.batches, ROWS, 2**16, seed)
    found = {}
    for name, layer in work.layers.items():
        with network.upto(name):
            if isinstance(layer, QuantMatMul):
                found[name] = Sensitivity("attention", {}, of_product(layer, elements[name], network, widths))
            else:
                found[name] = of_layer(work, name, layer, rows[name], network, widths)
    return found


def of_product(
    layer: QuantMatMul, operands: tuple[Tensor, Tensor], network: Replay, widths: Sequence[int]
) -> dict[int, float]:
    errors = {}
    for bits in widths:
        layer.a_bits = bits
        bound_operands(both_ends)(layer, operands)
        errors[bits] = network.error()
    layer.quantizer_a = layer.quantizer_b = None
    return errors


def of_layer(
    work: Work, name: str, layer: QuantLayer, rows: Rows, network: Replay, widths: Sequence[int]
) -> Sensitivity:
    seen = seen_by(work, name, layer, rows)
    weights, activations = {}, {}
    for bits in widths:
        layer.w_bits = layer.a_bits = bits
        round_to_nearest(both_ends)(layer, seen)
        weights[bits] = network.error()
        layer.decided = None
        set_bounds(both_ends)(layer, seen)
        activations[bits] = network.error()
        layer.quantizer = None
    return Sensitivity(kind_of(layer), weights, activations)


def middle(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The central ``side`` x ``side`` pixels, or what there is of them."""
    y, x = (max(0, (length - side) // 2) for length in picture.shape[:2])
    return picture[y : y + side, x : x + side]


class Replay:
    """The network on one batch ``x`` (NCHW), again and again with another layer changed: blocks before that layer put
    out what they did before, without computing it."""

    @torch.no_grad()
    def __init__(self, work: Work, x: Tensor) -> None:
        self.student, self.x = work.student, x
        order = list(work.layers)
        names = [n for n in features_of(work.student, "blocks") if any(m.startswith(f"{n}.") for m in order)]
        kept: dict[str, Tensor] = {}
        handles = [
            work.student.get_submodule(n).register_forward_hook(lambda _m, _x, y, n=n: kept.update({n: y}))
            for n in names
        ]
        self.target = work.student(x)
        for handle in handles:
            handle.remove()
        last = {n: max(i for i, m in enumerate(order) if m.startswith(f"{n}.")) for n in names}
        self.order = {name: number for number, name in enumerate(order)}
        self.blocks = [(last[n], n, kept[n]) for n in names]

    def upto(self, name: str) -> AbstractContextManager[None]:
        """Blocks whose layers all run before the layer ``name`` are not computed."""
        return standing_in(self.student, {n: y for last, n, y in self.blocks if last < self.order[name]})

    @torch.no_grad()
    def error(self) -> float:
        return float((self.student(self.x) - self.target).square().mean())
