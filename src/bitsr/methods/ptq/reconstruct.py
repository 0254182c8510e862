"""Block-wise reconstruction (BRECQ, Li et al., ICLR 2021): what a block puts out is brought back to what the
full-precision network has there, before the next block is looked at.

A block is what the network names in ``blocks`` (a Swin layer, a residual block); layers outside of blocks are
reconstructed alone.  Inputs come from the prefix that is quantized so far, targets from the full-precision network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.adaround import annealed_beta, regularizer
from bitsr.methods.ptq.distill import Rates
from bitsr.methods.ptq.pipeline import Stage, Work
from bitsr.methods.ptq.samples import call_of, standing_in
from bitsr.parts.layers import QuantLayer, QuantMatMul
from bitsr.parts.quantizer import AffineQuantizer
from bitsr.parts.undecided import LearnedRounding


def blocks_of(work: Work) -> dict[str, list[str]]:
    """Names of the units that are reconstructed, in execution order, with the compressed layers of each."""
    kinds = getattr(work.teacher, "blocks", ())
    modules = [name for name, module in work.student.named_modules() if kinds and isinstance(module, kinds)]
    units: dict[str, list[str]] = {}
    for name, layer in work.layers.items():
        unit = next((m for m in modules if name.startswith(f"{m}.")), name)
        if unit != name or isinstance(layer, QuantLayer):
            units.setdefault(unit, []).append(name)
    return units


@dataclass
class Unit:
    """One block of the compressed network: its inputs in both networks and what it should put out, picture by picture.

    ``inputs`` come from the quantized prefix, ``full`` from the full-precision network; ``targets`` are its outputs.
    ``others`` is what the block takes beside the picture, the same for every one: indices and masks of windows.
    """

    module: nn.Module
    layers: list[QuantLayer | QuantMatMul]
    inputs: Tensor
    full: Tensor
    targets: Tensor
    others: tuple[object, ...] = ()

    def run(self, x: Tensor) -> Tensor:
        """The block's output for a part of the inputs."""
        return self.module(x, *self.others)

    def quantizers(self) -> list[AffineQuantizer]:
        """Of activations; not those of weights."""
        return [m for m in self.module.modules() if isinstance(m, AffineQuantizer)]

    def roundings(self) -> list[LearnedRounding]:
        return [m for m in self.module.modules() if isinstance(m, LearnedRounding)]

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """What the block puts out as it is now, for all inputs."""
        return torch.cat([self.run(x) for x in self.inputs.split(4)])


Fit = Callable[[Unit, Work], None]


class Prefix:
    """A network on ``batches``, up to one block after the other in execution order; what was passed is not computed
    again."""

    def __init__(self, model: nn.Module, batches: Sequence[Tensor]) -> None:
        self.model, self.batches = model, batches
        self.passed: list[dict[str, Tensor]] = [{} for _ in batches]

    @torch.no_grad()
    def call(self, name: str) -> tuple[Tensor, Tensor, tuple[object, ...]]:
        """(inputs, outputs) of module ``name``, over all batches, and what else it takes, as the last one gave it."""
        calls = []
        for batch, passed in zip(self.batches, self.passed, strict=True):
            with standing_in(self.model, passed):
                calls.append(call_of(self.model, name, batch))
        inputs, outputs = (torch.cat(parts) for parts in zip(*((x[0], y) for x, y in calls), strict=True))
        return inputs, outputs, calls[-1][0][1:]

    def go_past(self, name: str, outputs: Tensor) -> None:
        """From now on module ``name`` puts out ``outputs``, over all batches."""
        for passed, y in zip(self.passed, outputs.split([len(batch) for batch in self.batches]), strict=True):
            passed[name] = y


def blockwise(fit: Fit) -> Stage:
    """``fit`` every block in execution order; its codes are decided before the next one is looked at."""

    def stage(work: Work) -> None:
        work.student.requires_grad_(False)
        teacher, student = Prefix(work.teacher, work.crops), Prefix(work.student, work.crops)
        for name, names in blocks_of(work).items():
            full, targets, others = teacher.call(name)
            inputs, _, _ = student.call(name)
            layers = [work.layers[n] for n in names]
            unit = Unit(work.student.get_submodule(name), layers, inputs, full, targets, others)
            fit(unit, work)
            for layer in layers:
                if isinstance(layer, QuantLayer):
                    layer.decide()
            teacher.go_past(name, targets)
            student.go_past(name, unit.outputs())

    return stage


# ---- what a fit consists of ----------------------------------------------------------------------------------------


def reconstruction_loss(output: Tensor, target: Tensor, power: float = 2.0) -> Tensor:
    """Mean over elements of |output - target|^p."""
    return (output - target).abs().pow(power).mean()


@contextmanager
def activations_kept(unit: Unit, share: float, generator: torch.Generator) -> Iterator[None]:
    """Each element of a quantized activation stays in floating point with probability ``share``: QDrop, eq. 7; with 1
    the activations are not quantized at all."""

    def mix(_module: nn.Module, inputs: tuple[Tensor], quantized: Tensor) -> Tensor:
        return mixed(inputs[0], quantized, share, generator)

    handles = [quantizer.register_forward_hook(mix) for quantizer in unit.quantizers()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mixed(full: Tensor, quantized: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Elements of ``full`` with probability ``share``, of ``quantized`` else."""
    if share >= 1:
        return full
    return torch.where(torch.rand(full.shape, generator=generator, device=full.device) < share, full, quantized)


def descend(
    unit: Unit, rates: Rates, generator: torch.Generator, *, steps: int, batch: int, power: float = 2.0,
    regularization: float = 0.0, full_inputs: float = 0.0, cosine: bool = False,
) -> None:  # fmt: skip
    """Adam on ``rates`` against the block's output; ``full_inputs``: share of input elements from the full-precision
    network."""
    if not rates or not steps:
        return
    for p, _ in rates:
        p.requires_grad_(True)
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in rates])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cosine else None
    deviation = unit.targets.std().clamp_min(1e-12)
    for number in range(steps):
        chosen = torch.randperm(len(unit.inputs), generator=generator, device=generator.device)[:batch]
        x, target = unit.inputs[chosen], unit.targets[chosen]
        if full_inputs:
            x = mixed(unit.full[chosen], x, full_inputs, generator)
        loss = reconstruction_loss(unit.run(x) / deviation, target / deviation, power)
        beta = annealed_beta(number / steps)
        if regularization and beta is not None:
            terms = [regularizer(rounding.up(), beta) for rounding in unit.roundings()]
            loss = loss + regularization * sum(terms, torch.zeros(())) / max(1, len(terms))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    for p, _ in rates:
        p.requires_grad_(False)


def generator_for(unit: Unit, work: Work) -> torch.Generator:
    return torch.Generator(unit.inputs.device).manual_seed(work.seed)
