"""Scales and shifts of input channels, moved into the layer before where that is exact: what HSO, SmoothQuant and
RepQ-ViT do with different formulas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.pipeline import Work
from bitsr.methods.ptq.samples import collect
from bitsr.parts.folding import Fold, divide_output, multiply_input
from bitsr.parts.layers import QuantConv2d, QuantLayer


@dataclass
class Channels:
    """A layer whose input channels can be scaled: inputs ``x`` (N, c, taps) and ``weight`` (out, c, taps)."""

    name: str
    layer: QuantLayer
    x: Tensor
    weight: Tensor
    fold: Fold | None
    shiftable: bool  # behind a LayerNorm, which takes a shift, and with a bias, which takes what the shift leaves

    def smooth(self, work: Work, scale: Tensor, shift: Tensor | None = None) -> None:
        """The layer takes (x - shift) / scale, and gives the same output.  Where the layer before cannot make that, it
        is a multiplication when the network runs."""
        if self.fold is None:
            assert shift is None
            multiply_input(self.layer, scale, None)
            self.layer.input_scale = None if bool((scale == 1).all()) else 1 / scale
            return
        multiply_input(self.layer, scale, shift)
        divide_output(work.student.get_submodule(self.fold.producer), scale, shift, self.fold.rows)


@torch.no_grad()
def scalable_channels(work: Work, rows: int = 512) -> list[Channels]:
    """Every layer with quantized inputs, grouped convolutions excepted, with what it sees of the full-precision prefix.

    ``rows``: how many rows of its input are sampled.
    """
    folds = {fold.consumer: fold for fold in (work.student.folds() if hasattr(work.student, "folds") else ())}  # type: ignore[operator]
    layers = {n: m for n, m in work.layers.items() if isinstance(m, QuantLayer) and m.a_bits < 16}
    if not layers:
        return []
    seen, _ = collect(work.student, list(layers), work.batches, rows, seed=work.seed)
    found = []
    for name, layer in layers.items():
        if isinstance(layer, QuantConv2d) and layer.groups > 1:
            continue
        weight = layer.weight.detach().flatten(2) if layer.weight.ndim > 2 else layer.weight.detach()[..., None]
        fold = folds.get(name)
        normalized = fold is not None and isinstance(work.student.get_submodule(fold.producer), nn.LayerNorm)
        x = seen[name].rows.view(-1, *weight.shape[1:])
        found.append(Channels(name, layer, x, weight, fold, normalized and layer.bias is not None))
    return found
