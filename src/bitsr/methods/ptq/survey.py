"""What is known of every layer before its bits are chosen: what they cost, and what they lose.

The model behind the choice is that errors of single layers add up in the output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitsr.methods.ptq.allocation import LayerSize, Option, best_options
from bitsr.methods.ptq.config import PTQConfig
from bitsr.methods.ptq.pipeline import begin
from bitsr.methods.ptq.scope import assign_bits
from bitsr.methods.ptq.sensitivity import WIDTHS, Sensitivity, sensitivities
from bitsr.parts.layers import QuantLayer, QuantMatMul

FLOATING = 16

Pictures = Sequence[NDArray[np.uint8]]
Bits = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Survey:
    """What is known of every layer in the scope of ``config``, in execution order."""

    config: PTQConfig
    sensitivities: dict[str, Sensitivity]
    sizes: dict[str, LayerSize]
    uniform: Bits

    def option(self, name: str, w_bits: int, a_bits: int) -> Option:
        size, error = self.sizes[name], self.sensitivities[name].error(w_bits, a_bits)
        return Option(w_bits, a_bits, error, size.file_bytes(w_bits), size.bit_ops(w_bits, a_bits))

    def options(self, least: tuple[int, int], floating: bool) -> dict[str, list[Option]]:
        """Every pair of widths from ``least`` on; what the config gives a layer by name, and attention as such, is its
        only option."""
        w_widths, a_widths = ([*(b for b in WIDTHS if b >= bits), *[FLOATING] * floating] for bits in least)
        given = self.config.attention_bits
        found: dict[str, list[Option]] = {}
        for name in self.sizes:
            pairs = [(w, a) for w in w_widths for a in a_widths if a >= FLOATING or w < FLOATING]
            if self.sensitivities[name].kind == "attention":
                pairs = [(a, a) for a in ([given] if given else a_widths)]
            fixed = self.config.layer_bits.get(name)
            found[name] = [self.option(name, *bits) for bits in ([fixed] if fixed else pairs)]
        return found

    def total(self, bits: Bits, quantity: Literal["error", "file_bytes", "bit_ops"]) -> float:
        """Of all layers; those without bits are in floating point."""
        return sum(getattr(self.option(n, *bits.get(n, (FLOATING, FLOATING))), quantity) for n in self.sizes)

    def least(self, quantity: Literal["file_bytes", "bit_ops"]) -> float:
        """Of all layers at the fewest bits they may have."""
        return sum(
            min(getattr(option, quantity) for option in several)
            for several in self.options((2, 2), floating=False).values()
        )

    def within(self, file_bytes: float | None, bit_ops: float | None) -> PTQConfig:
        """The config with the bits of least error whose layers take at most so many bytes and BitOps."""
        limits = []
        if file_bytes is not None:
            limits.append((attrgetter("file_bytes"), file_bytes))
        if bit_ops is not None:
            limits.append((attrgetter("bit_ops"), bit_ops))
        return self._with(best_options(self.options((2, 2), floating=False), attrgetter("error"), limits))

    def cheapest(self, error: float) -> PTQConfig:
        """The config with the bits of least cost, none below its own, whose errors add up to at most ``error``.

        Bytes and BitOps count alike, each relative to W8A8.
        """
        eight = dict.fromkeys(self.sizes, (8, 8))
        total_bytes, total_ops = self.total(eight, "file_bytes"), self.total(eight, "bit_ops")

        def cost(option: Option) -> float:
            return option.file_bytes / max(total_bytes, 1) + option.bit_ops / total_ops

        options = self.options((self.config.w_bits, self.config.a_bits), floating=True)
        return self._with(best_options(options, cost, [(attrgetter("error"), error)]))

    def _with(self, chosen: dict[str, Option]) -> PTQConfig:
        bits = {name: (option.w_bits, option.a_bits) for name, option in chosen.items()}
        return dataclasses.replace(self.config, layer_bits={**self.config.layer_bits, **bits})


def survey(module: nn.Module, config: PTQConfig, pictures: Pictures, held: Pictures, seed: int = 0) -> Survey:
    """Sensitivities measured on ``held``, with bounds from ``pictures`` (LR crops HxWx3 uint8); sizes counted."""
    sizes = layer_sizes(module, config, pictures)
    found = sensitivities(module, config, pictures, held, seed=seed)
    uniform = assign_bits(module, list(sizes), dataclasses.replace(config, layer_bits={}))
    return Survey(config, found, sizes, uniform)


@torch.no_grad()
def layer_sizes(module: nn.Module, config: PTQConfig, pictures: Pictures) -> dict[str, LayerSize]:
    """Of every layer in scope, with the multiplications that it does for the first of ``pictures``."""
    work = begin(module, pictures[:1], dataclasses.replace(config, w_bits=8, a_bits=8, layer_bits={}), 0)
    macs: dict[str, int] = {}
    for name, layer in work.layers.items():
        layer.register_forward_hook(
            lambda m, inputs, y, n=name: macs.update({n: macs.get(n, 0) + multiplications(m, inputs, y)})
        )
    work.student(work.batches[0])
    found = {}
    for name, layer in work.layers.items():
        match layer:
            case QuantLayer():
                weights, rows = layer.weight.numel(), len(layer.weight)
                found[name] = LayerSize(weights, rows, layer.bias is not None, macs[name])
            case QuantMatMul():
                found[name] = LayerSize(0, 0, False, macs[name])
    return found


def multiplications(layer: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> int:
    """Of one pass: each output is a sum over the inputs of its row."""
    if isinstance(layer, QuantLayer):
        return y.numel() * layer.weight[0].numel()
    return y.numel() * inputs[0].shape[-1]
