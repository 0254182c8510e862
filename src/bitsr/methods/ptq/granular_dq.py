"""Granular-DQ (Wang et al., AAAI 2025): each patch of a picture gets its own activation bits, for all layers alike.

A gate on the first features picks 4, 6 or 8 bits (GBC, granularity-bit controller); patches that got 8 are looked at
again, and those of low entropy get 4 or 5 (E2B, entropy-to-bit).  Weights have 8 bits, attention stays in floating
point.  The bits are known only when the network runs, so there is no packed file; what is reported is the mean number
of activation bits (FAB).

The method is trained for 300 000 iterations.  As a post-training method the weights stay and the bounds of each bit
width are trained on the full-precision output.  The gate keeps its random start, as the released one does, which gets
no gradient through the integer choice.  Without the group norm (the release drops it) its three granularities would
all have the same mean; here it is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.methods.ptq.bounds import both_ends, minmax
from bitsr.methods.ptq.config import GranularDQ
from bitsr.methods.ptq.distill import step_of, train
from bitsr.methods.ptq.pipeline import LayerStep, Seen, Stage, Work, layerwise, needs_integer_zero, round_to_nearest
from bitsr.methods.ptq.samples import call_of, some_of
from bitsr.parts.layers import QuantLayer, QuantMatMul
from bitsr.parts.matmul import MatMul
from bitsr.parts.quantizer import AffineQuantizer

GATE_BITS = (4, 6, 8)
ENTROPY_BITS = (4, 5, 8)
THRESHOLDS = (0.5, 0.9)  # quantiles of the calibration patches' entropy, below which 4 and 5 bits do
GRANULARITIES = 3
BINS, KERNEL = 32, 1e-4 * 255  # of the density; the release multiplies its 1e-4 by 255


def entropy(patch: Tensor) -> Tensor:
    """-sum p ln p of the grey values of ``patch`` (C, h, w) in 0..1: kernel density on 32 bins."""
    grey = patch.mean(0).flatten()
    centres = torch.linspace(0, 1, BINS, device=patch.device)
    density = torch.exp(-0.5 * ((grey[:, None] - centres) / KERNEL).square()).mean(0)
    p = density / density.sum().clamp_min(1e-12)
    return -(p * p.clamp_min(1e-12).log()).sum()


class Gate(nn.Module):
    """GBC: features (1, C, h, w) at three granularities, each normalized, pooled, joined -> index of the bits."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        self.choose = nn.Linear(GRANULARITIES * channels, len(GATE_BITS))
        generator = torch.Generator().manual_seed(seed)
        self.choose.weight.data = torch.randn(self.choose.weight.shape, generator=generator)
        nn.init.zeros_(self.choose.bias)

    def forward(self, features: Tensor) -> int:
        """Without Gumbel noise: equal pictures get equal bits (the release samples when it is evaluated, too)."""
        means = []
        for level in range(GRANULARITIES):
            pooled = F.avg_pool2d(features, 2**level) if min(features.shape[2:]) >= 2**level else features
            means.append(F.relu(F.group_norm(pooled, 1)).mean((0, 2, 3)))
        return int(self.choose(torch.cat(means)).argmax())


class SwitchedQuantizer(nn.Module):
    """One affine quantizer for each number of bits; ``bits`` says which is in use."""

    def __init__(self, choices: dict[int, AffineQuantizer]) -> None:
        super().__init__()
        self.choices = nn.ModuleDict({str(bits): quantizer for bits, quantizer in choices.items()})
        self.bits = max(choices)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.choices[str(self.bits)](x)
        return y


class GranularNetwork(nn.Module):
    """The network, patch by patch, each with the bits that it gets; NCHW -> NCHW.  ``last_bits``: those of the last
    picture's patches."""

    limits: Tensor

    def __init__(self, network: nn.Module, first: str, gate: Gate, limits: Tensor, patch: int) -> None:
        super().__init__()
        self.network, self.gate, self.first, self.patch = network, gate, first, patch
        self.register_buffer("limits", limits)
        self.last_bits: list[int] = []

    def bits_for(self, patch: Tensor) -> int:
        """GBC, then E2B for what got 8 bits.  ``patch``: (1, C, h, w)."""
        self.switch(GATE_BITS[-1])
        bits = GATE_BITS[self.gate(call_of(self.network, self.first, patch)[1])]
        if bits < GATE_BITS[-1]:
            return bits
        return ENTROPY_BITS[int((entropy(patch[0]) > self.limits).sum())]

    def switch(self, bits: int) -> None:
        for module in self.network.modules():
            if isinstance(module, SwitchedQuantizer):
                module.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        self.last_bits = []
        return torch.cat([self.one_picture(picture[None]) for picture in x])

    def one_picture(self, x: Tensor) -> Tensor:
        rows = [torch.cat([self.one_patch(p) for p in row.chunk(pieces(row.shape[3], self.patch), 3)], 3)
                for row in x.chunk(pieces(x.shape[2], self.patch), 2)]  # fmt: skip
        return torch.cat(rows, 2)

    def one_patch(self, patch: Tensor) -> Tensor:
        with torch.no_grad():
            bits = self.bits_for(patch)
        self.last_bits.append(bits)
        self.switch(bits)
        y: Tensor = self.network(patch)
        return y


def pieces(length: int, patch: int) -> int:
    """How many about equal parts, none longer than ``patch``."""
    return math.ceil(length / patch)


# ---- stages --------------------------------------------------------------------------------------------------------


def in_attention(work: Work, name: str) -> bool:
    parent = work.student.get_submodule(name.rpartition(".")[0])
    return any(isinstance(child, MatMul | QuantMatMul) for child in parent.children())


def switched_bounds(layer: QuantLayer, seen: Seen) -> None:
    """Bounds for each number of bits, by search."""
    values = torch.cat([some_of(seen.x, 2**16), seen.extremes.flatten()])
    choices = {}
    for bits in sorted({*GATE_BITS, *ENTROPY_BITS}):
        lower, upper = both_ends(values, bits)
        choices[bits] = AffineQuantizer(bits, lower.squeeze(), upper.squeeze(), needs_integer_zero(layer))
    layer.quantizer = SwitchedQuantizer(choices)


def leave_operands(layer: QuantMatMul, operands: tuple[Tensor, Tensor]) -> None:
    """Attention stays in floating point."""


def bound(work: Work) -> None:
    """Weights to 8 bits; switched quantizers in front of every layer outside of attention, the first and the last."""
    config = work.config
    assert isinstance(config, GranularDQ)
    names = [n for n, m in work.layers.items() if isinstance(m, QuantLayer)]
    floating = {work.layers[n] for n in names if n in (names[0], names[-1]) or in_attention(work, n)}

    def step(layer: QuantLayer, seen: Seen) -> None:
        if layer not in floating:
            switched_bounds(layer, seen)

    steps: list[LayerStep] = [step, round_to_nearest(minmax)]
    layerwise(steps, leave_operands, samples=config.samples)(work)


def gate(work: Work) -> None:
    """Put the gate in front; thresholds are quantiles over patches of the calibration crops."""
    config = work.config
    assert isinstance(config, GranularDQ)
    size = config.crop
    patches = [p for batch in work.batches for x in batch for p in tiles(x, size)]
    entropies = torch.stack([entropy(p) for p in patches])
    limits = torch.quantile(entropies, entropies.new_tensor(THRESHOLDS))
    first = next(iter(work.layers))
    channels = call_of(work.student, first, work.batches[0][:1])[1].shape[1]
    chooser = Gate(channels, work.seed).to(work.batches[0].device)
    work.student = GranularNetwork(work.student, first, chooser, limits, config.patch)


def tiles(x: Tensor, size: int) -> Iterator[Tensor]:
    for row in x.split(size, 1):
        yield from row.split(size, 2)


def learn_bounds(work: Work) -> None:
    """L1 on the output, bounds of all bit widths; a rate in quantization steps."""
    config = work.config
    assert isinstance(config, GranularDQ)
    quantizers = [q for m in work.student.modules() if isinstance(m, SwitchedQuantizer) for q in m.choices.values()]
    rates = [(p, config.lr * step_of(q)) for q in quantizers if isinstance(q, AffineQuantizer) for p in q.learned()]
    train(work, rates, steps=config.steps, batch=config.batch, crop=config.crop)


def stages(config: GranularDQ) -> list[Stage]:
    return [bound, gate, learn_bounds] if config.steps else [bound, gate]
