"""Mixed precision: bits per layer from measured sensitivities, under a budget or for a loss that is allowed.

Any method rounds to the bits that are chosen.  The model behind the choice is that errors of single layers add up in
the output; what a file takes and what is lost in dB are measured afterwards, and the choice is repeated if they miss.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.data.benchmark import Pair
from bitsr.errors import ConfigError
from bitsr.evaluation.evaluate import psnr_of_pairs
from bitsr.lowering.entry import save
from bitsr.methods.compress import compress
from bitsr.methods.ptq.allocation import LayerSize, Option, best_options
from bitsr.methods.ptq.config import MinMax, PTQConfig
from bitsr.methods.ptq.pipeline import begin
from bitsr.methods.ptq.scope import assign_bits
from bitsr.methods.ptq.sensitivity import WIDTHS, Sensitivity, sensitivities
from bitsr.parts.layers import QuantLayer, QuantMatMul

FLOATING = 16
TRIES = 6
SLACK = 0.002  # of a budget that was missed: the deflated part of a file varies by itself
NEAR = 0.75  # of the allowed loss: a choice that uses so much of it is cheap enough

Pictures = Sequence[NDArray[np.uint8]]
Bits = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Budget:
    """``file_bytes``: of the packed file; ``bit_ops``: relative to those of the config's own bits."""

    file_bytes: int | None = None
    bit_ops: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.file_bytes, self.bit_ops) if limit is not None]
        if not limits or min(limits) <= 0:
            raise ConfigError(f"a budget limits bytes, BitOps or both, above zero; got {self}")


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
        """Every pair of widths from ``least`` on; what the config gives a layer by name is its only option."""
        w_widths, a_widths = ([*(b for b in WIDTHS if b >= bits), *[FLOATING] * floating] for bits in least)
        found: dict[str, list[Option]] = {}
        for name in self.sizes:
            pairs = [(w, a) for w in w_widths for a in a_widths if a >= FLOATING or w < FLOATING]
            if self.sensitivities[name].kind == "attention":
                pairs = [(a, a) for a in a_widths]
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


# ---- what is known of the layers -----------------------------------------------------------------------------------


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


# ---- under a budget ------------------------------------------------------------------------------------------------


def allocate_bits(
    module: nn.Module, config: PTQConfig, pictures: Pictures, held: Pictures, budget: Budget, *, seed: int = 0
) -> PTQConfig:
    """``config`` with the bits of every layer that lose least within ``budget``.

    ``pictures``: LR crops HxWx3 uint8 of one size, for the bounds; ``held``: others, on which errors are measured.
    What the file takes beside the layers is taken from a file with the config's own bits.  Raises `ConfigError` where
    2 bits everywhere are too many.
    """
    found = survey(module, config, pictures, held, seed)
    return _within(found, budget, _overhead(module, found, pictures) if budget.file_bytes else 0)


def compress_to_budget(
    module: nn.Module, found: Survey, pictures: Pictures, budget: Budget, *,
    precision: Literal["fp16", "fp32"] = "fp16", seed: int = 0,
) -> nn.Module:  # fmt: skip
    """The network compressed by the method of ``found.config``, with bits as :func:`allocate_bits` chooses them.

    Methods add numbers of their own to a file, so it is measured; where it is too large the choice is repeated.
    Raises `ConfigError` where that does not help.
    """
    overhead = _overhead(module, found, pictures) if budget.file_bytes else 0
    for _ in range(TRIES):
        small = compress(module, _within(found, budget, overhead), pictures, seed=seed)
        if budget.file_bytes is None or (size := packed_bytes(small, precision)) <= budget.file_bytes:
            return small
        overhead += size - budget.file_bytes + round(SLACK * budget.file_bytes)
    raise ConfigError(f"{budget.file_bytes} bytes are too few for this method; allow {size}")


def _within(found: Survey, budget: Budget, overhead: int) -> PTQConfig:
    uniform = found.total(found.uniform, "bit_ops")
    if budget.file_bytes is not None and (least := round(found.least("file_bytes")) + overhead) > budget.file_bytes:
        raise ConfigError(f"the fewest bits make a file of {least} bytes; the limit is {budget.file_bytes}")
    if budget.bit_ops is not None and (share := found.least("bit_ops") / uniform) > budget.bit_ops:
        raise ConfigError(f"the fewest bits take {share:.1%} of the BitOps; the limit is {budget.bit_ops:.1%}")
    file_bytes = None if budget.file_bytes is None else budget.file_bytes - overhead
    bit_ops = None if budget.bit_ops is None else budget.bit_ops * uniform
    return found.within(file_bytes, bit_ops)


def _overhead(module: nn.Module, found: Survey, pictures: Pictures) -> int:
    """Bytes of a packed file beside its layers."""
    plain = MinMax(scope=found.config.scope, layer_bits=found.uniform)
    return packed_bytes(compress(module, plain, pictures[:8])) - round(found.total(found.uniform, "file_bytes"))


def packed_bytes(module: nn.Module, precision: Literal["fp16", "fp32"] = "fp16") -> int:
    """Of the packed file, measured."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bitsr"
        save(module, path, precision=precision)
        return path.stat().st_size


# ---- for a loss that is allowed ------------------------------------------------------------------------------------


def compress_within_drop(
    module: nn.Module, found: Survey, pictures: Pictures, pairs: Sequence[Pair], drop: float, *, seed: int = 0
) -> nn.Module:
    """The cheapest compressed network that loses at most ``drop`` dB of PSNR-Y against ``module``, in the mean over
    that quarter of ``pairs`` which ``module`` does best: there rounding shows most.

    No layer gets fewer bits than ``found.config`` has; some may stay in floating point.  What is lost is measured on
    the compressed network, noted as ``drop_db`` in its ``compression``, and the choice is repeated with the error that
    was found.  Raises `ConfigError` where nothing can be compressed within ``drop``.
    """
    if not drop > 0:
        raise ConfigError(f"the allowed loss is a number of dB above 0, got {drop}")
    full = scores(module, pairs)
    best_done = np.argsort(-full)[: math.ceil(len(pairs) / 4)]
    full, pairs = full[best_done], [pairs[i] for i in best_done]
    allowed = target = error_of_drop(full, drop)
    kept, missed = 0.0, math.inf  # the largest target that was met, and the smallest that was not
    best, best_lost = None, -math.inf
    for _ in range(TRIES):
        chosen = found.cheapest(target)
        if min(bits for pair in chosen.layer_bits.values() for bits in pair) >= FLOATING:
            break
        small = compress(module, chosen, pictures, seed=seed)
        lost = float(np.mean(full - scores(small, pairs)))
        ratio = allowed / max(error_of_drop(full, lost), 1e-12)
        if lost <= drop:
            kept, best, best_lost = target, small, lost
            target *= min(0.9 * ratio, 8.0)
        else:
            missed = target
            target *= min(0.8 * ratio, 0.7)
        if NEAR * drop < best_lost or missed < 1.3 * kept:
            break
        if not kept < target < missed:
            target = math.sqrt(kept * missed)
    if best is None:
        raise ConfigError(
            f"no choice of bits that was tried loses at most {drop} dB, but for all layers in floating point; "
            "allow more, or pack the network so with 16 bits"
        )
    best.compression["drop_db"] = round(best_lost, 4)  # type: ignore[index, operator]
    return best


def scores(module: nn.Module, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """PSNR-Y in dB of each pair, on the device where the module is."""
    upscaler = ModuleUpscaler(module, next(module.parameters()).device)
    return psnr_of_pairs(upscaler, pairs, upscaler.descriptor.scale)


def error_of_drop(full: NDArray[np.float64], drop: float) -> float:
    """The mean squared error, independent of the network's own, that lowers PSNRs of ``full`` by ``drop`` dB in the
    mean; signals lie in [0, 1]."""
    own = 10 ** (-full / 10)
    low, high = 1e-12, 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if float(np.mean(10 * np.log10(1 + middle / own))) > drop else (middle, high)
    return high
