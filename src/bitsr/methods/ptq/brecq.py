"""BRECQ (Li et al., ICLR 2021): AdaRound's rounding, learned for the output of a whole block, then LSQ-like bounds.

The error is the plain squared one, as the released script has it (the paper weighs it by the diagonal Fisher
information of a classification loss).  Where the release goes over the network twice, first for weights and then for
activations, a block here gets both before the next one.  Bounds move in quantization steps, both of them: the grid is
affine.
"""

from __future__ import annotations

from bitsr.methods.ptq.adaround import learn_rounding
from bitsr.methods.ptq.bounds import both_ends, shrunk
from bitsr.methods.ptq.config import BRECQ
from bitsr.methods.ptq.distill import Rates, step_of
from bitsr.methods.ptq.pipeline import Stage, Work, bound_operands, layerwise, set_bounds
from bitsr.methods.ptq.reconstruct import Unit, activations_kept, blockwise, descend, generator_for
from bitsr.parts.layers import QuantLayer

ACTIVATION_POWER = 2.4  # of the error while activation bounds are learned


def rounding_rates(unit: Unit, lr: float) -> Rates:
    return [(rounding.direction, lr) for rounding in unit.roundings()]


def bound_rates(unit: Unit, lr: float) -> Rates:
    """``lr`` in quantization steps of each bound."""
    return [(p, lr * step_of(quantizer)) for quantizer in unit.quantizers() for p in quantizer.learned()]


def fit_block(unit: Unit, work: Work) -> None:
    config = work.config
    assert isinstance(config, BRECQ)
    generator = generator_for(unit, work)
    with activations_kept(unit, 1.0, generator):
        descend(
            unit, rounding_rates(unit, config.lr), generator, steps=config.steps, batch=config.batch,
            regularization=config.regularization,
        )  # fmt: skip
    for layer in unit.layers:
        if isinstance(layer, QuantLayer):
            layer.decide()
    descend(
        unit, bound_rates(unit, config.activation_lr), generator, steps=config.activation_steps, batch=config.batch,
        power=ACTIVATION_POWER, cosine=True,
    )  # fmt: skip


def prepare(samples: int) -> Stage:
    """Bounds of activations, and weights on their grids with the rounding to be learned."""
    return layerwise([set_bounds(both_ends), learn_rounding(shrunk)], bound_operands(both_ends), samples=samples)


def stages(config: BRECQ) -> list[Stage]:
    return [prepare(config.samples), blockwise(fit_block)]
