"""The default of bitsr: the stages that gain most, from several papers, under one budget.

Attention maps get a scale per query.  Input channels are smoothed and shifted (HarmoQ's HSO per channel), bounds
searched at both ends, weights corrected on the quantized input (SRC) and rounded with GPTQ, bounds refined layer by
layer (ABR), biases corrected.  Then weights, their grids, the bounds of activations and the biases are all learned
together against the full-precision network's output, the rounding passed straight through: 2DQuant's DQC with the codes
set free, or LSQ without ground truth.  docs/methods.md has what each stage gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from bitsr.methods.ptq.bounds import both_ends
from bitsr.methods.ptq.config import Best, HarmoQ
from bitsr.methods.ptq.distill import Rates, all_rates, rms_loss, step_of, train
from bitsr.methods.ptq.gptq import round_with_gptq
from bitsr.methods.ptq.harmoq import correct, refine_bounds, smooth
from bitsr.methods.ptq.pipeline import (
    SYMMETRIC_FROM,
    LayerStep,
    Stage,
    Work,
    bound_operands,
    correct_bias,
    layerwise,
    set_bounds,
)  # fmt: skip
from bitsr.methods.ptq.svdquant import branch_off
from bitsr.parts.layers import QuantLayer, QuantMatMul
from bitsr.parts.quantizer import AffineQuantizer
from bitsr.parts.undecided import BoundedWeight

POOL = 1024  # crops whose full-precision outputs are kept: weights, unlike bounds, learn few crops by heart
SEEN = 4  # how often each of them is learned from before others take their place


@dataclass(frozen=True)
class Effort:
    """``groups``: how often statistics are refreshed, from ``samples`` rows.  ``abr_steps`` on each layer's bounds.
    ``learn_steps`` of 2 crops on the whole network, or ``conv_steps`` of 4 where it has convolutions alone, which lose
    more and whose steps are cheaper."""

    groups: int
    samples: int
    abr_steps: int
    learn_steps: int
    conv_steps: int


EFFORTS = {
    "fast": Effort(groups=1, samples=2048, abr_steps=0, learn_steps=10, conv_steps=30),
    "default": Effort(groups=8, samples=8192, abr_steps=20, learn_steps=200, conv_steps=600),
    "max": Effort(groups=8, samples=8192, abr_steps=20, learn_steps=2000, conv_steps=7200),
}


def scale_rows(work: Work) -> None:
    """Attention maps get a scale per query."""
    for layer in work.layers.values():
        if isinstance(layer, QuantMatMul):
            layer.row_scale = layer.softmax


# ---- learning weights ----------------------------------------------------------------------------------------------


@torch.no_grad()
def undecide(layer: QuantLayer) -> None:
    """The codes of a decided weight may change again: its grid becomes bounds to learn, and the floating-point weight
    one that rounds to those codes: itself where it does, the point of the grid elsewhere."""
    decided = layer.decided
    assert decided is not None
    lower = decided.lower[:, None]
    quantizer = AffineQuantizer(decided.bits, lower, lower + (2**decided.bits - 1) * decided.scale[:, None])
    codes = quantizer.codes(layer.weight.flatten(1)).view_as(decided.codes)
    layer.weight.data = decided.latent(layer.weight, codes)
    layer.weight_quantizer, layer.decided = BoundedWeight(quantizer), None


def code_rates(work: Work, rate: float) -> Rates:
    """Floating-point weights behind codes, by ``rate`` quantization steps; at 8 bit codes stay as they are."""
    found: Rates = []
    for layer in work.layers.values():
        if isinstance(layer, QuantLayer) and layer.decided is not None and layer.w_bits < SYMMETRIC_FROM:
            undecide(layer)
            assert isinstance(layer.weight_quantizer, BoundedWeight)
            found.append((layer.weight, rate * step_of(layer.weight_quantizer.quantizer)))
    return found


def learn(effort: Effort, rate: float) -> Stage:
    """Everything that may move, against the full-precision network's output; ``rate`` of weights, 0: codes stay."""

    def stage(work: Work) -> None:
        rates = code_rates(work, rate) if rate else []
        rates += all_rates(work, HarmoQ.distill_lr)
        transformer = any(isinstance(module, nn.Linear) for module in work.teacher.modules())
        steps, batch = (effort.learn_steps, 2) if transformer else (effort.conv_steps, 4)
        pool = min(POOL, steps * batch // 2)  # a crop twice: its full-precision output takes half a step
        train(
            work, rates, rms_loss, steps=steps, batch=batch, crop=HarmoQ.distill_crop, pool=pool,
            fresh=SEEN * pool // batch,
        )  # fmt: skip

    return stage


# ---- the method ----------------------------------------------------------------------------------------------------


def effort_of(config: Best) -> Effort:
    """What the config's effort buys, with what it gives itself in place."""
    given = {"groups": config.groups, "samples": config.samples, "learn_steps": config.learn_steps}
    given["conv_steps"] = config.learn_steps
    return replace(EFFORTS[config.effort], **{name: value for name, value in given.items() if value is not None})


def stages(config: Best) -> list[Stage]:
    effort = effort_of(config)
    steps: list[LayerStep] = [set_bounds(both_ends)]
    if config.rank:
        steps.append(branch_off(config.rank, weighted=True))
    steps += [correct(HarmoQ.ridge), round_with_gptq(HarmoQ.damping), refine_bounds(effort.abr_steps), correct_bias]
    whole = [smooth, layerwise(steps, bound_operands(both_ends), effort.groups, effort.samples)]
    if config.row_scale:
        whole.insert(0, scale_rows)
    if effort.learn_steps and config.fewest_bits < SYMMETRIC_FROM:  # nothing is left to gain at 8 bit
        whole.append(learn(effort, config.learn_rate))
    return whole
