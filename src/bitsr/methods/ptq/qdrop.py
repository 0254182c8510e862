"""QDrop (Wei et al., ICLR 2022): BRECQ's reconstruction with activations that are quantized at random.

Rounding and bounds are learned together; each activation element, and each element of the block's input, is quantized
with probability 1 - ``drop`` only, which flattens the minimum that is found.
"""

from __future__ import annotations

from bitsr.methods.ptq.brecq import bound_rates, prepare, rounding_rates
from bitsr.methods.ptq.config import QDrop
from bitsr.methods.ptq.pipeline import Stage, Work
from bitsr.methods.ptq.reconstruct import Unit, activations_kept, blockwise, descend, generator_for


def fit_block(unit: Unit, work: Work) -> None:
    config = work.config
    assert isinstance(config, QDrop)
    generator = generator_for(unit, work)
    rates = rounding_rates(unit, config.lr) + bound_rates(unit, config.activation_lr)
    with activations_kept(unit, config.drop, generator):
        descend(
            unit, rates, generator, steps=config.steps, batch=config.batch, regularization=config.regularization,
            full_inputs=config.drop,
        )  # fmt: skip


def stages(config: QDrop) -> list[Stage]:
    return [prepare(config.samples), blockwise(fit_block)]
