"""PAMS (Li et al., ECCV 2020): a symmetric range -alpha..alpha for every activation, with alpha learned.

PAMS trains weights too; as a post-training baseline the weights stay, and alpha alone is learned from the output and
from structured knowledge transfer (SKT) against the full-precision network, without ground truth.  alpha starts at the
mean over pictures of max |x|, as the paper's moving average ends; the mean is over sampled batches here.

The paper's grid is narrow, 2^b - 1 levels with zero in the middle (ternary at 2 bit).  Packed files have 2^b levels,
so by default the code that PAMS leaves unused carries the level -alpha - step; ``narrow`` is the paper's grid, in
simulation only.
"""

from __future__ import annotations

from torch import Tensor

from bitsr.methods.ptq.config import PAMS
from bitsr.methods.ptq.distill import Outputs, activation_rates, features_of, train
from bitsr.methods.ptq.pipeline import LayerStep, OperandStep, Seen, Stage, Work, layerwise
from bitsr.parts.layers import QuantLayer, QuantMatMul
from bitsr.parts.quantizer import SymmetricQuantizer
from bitsr.parts.undecided import on_grid

SKT_WEIGHT = 1000.0


def mean_of_largest(v: Tensor, parts: int = 16) -> Tensor:
    """Mean over ``parts`` equal pieces of the samples of their largest |v|: where PAMS' moving average of the first
    epoch ends."""
    pieces = v.flatten()[: v.numel() // parts * parts].view(parts, -1) if v.numel() >= parts else v.view(1, -1)
    return pieces.abs().amax(1).mean()


def bound_activations(narrow: bool) -> LayerStep:
    def step(layer: QuantLayer, seen: Seen) -> None:
        if layer.a_bits < 16:
            layer.quantizer = SymmetricQuantizer(layer.a_bits, mean_of_largest(seen.x), narrow)

    return step


def round_weights(layer: QuantLayer, seen: Seen) -> None:
    """One symmetric grid for the whole weight: step = max|W| / (2^(b - 1) - 1)."""
    if layer.w_bits >= 16:
        return
    flat, half = layer.weight.detach().flatten(1), 2 ** (layer.w_bits - 1)
    step = (flat.abs().amax() / (half - 1)).clamp_min(1e-12).view(1, 1)
    codes = (flat / step).round().clamp(1 - half, half - 1) + half
    layer.decided = on_grid(layer.w_bits, codes.view(layer.weight.shape), -half * step, step)


def bound_both(narrow: bool) -> OperandStep:
    """The operands of attention products, likewise."""

    def step(layer: QuantMatMul, operands: tuple[Tensor, Tensor]) -> None:
        if layer.a_bits < 16:
            layer.quantizer_a, layer.quantizer_b = (
                SymmetricQuantizer(layer.a_bits, mean_of_largest(v), narrow) for v in operands
            )

    return step


def attention_map(features: Tensor) -> Tensor:
    """Eq. 9: channel mean of squares, L2-normalized per picture; (B, C, ...) -> (B, n)."""
    flat = features.square().mean(1).flatten(1)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)


def skt_loss(compressed: Outputs, full: Outputs) -> Tensor:
    """Eq. 10: L1 + 1000 SKT on the last body feature map, with the full-precision output in the place of HR."""
    loss = (compressed[0] - full[0]).abs().mean()
    if len(full) == 1:
        return loss
    return loss + SKT_WEIGHT * (attention_map(compressed[-1]) - attention_map(full[-1])).square().mean()


def learn_alpha(work: Work) -> None:
    config = work.config
    assert isinstance(config, PAMS)
    train(
        work, activation_rates(work, config.lr), skt_loss, steps=config.steps, batch=config.batch, crop=config.crop,
        features=features_of(work.teacher)[-1:],
    )  # fmt: skip


def stages(config: PAMS) -> list[Stage]:
    bounds = layerwise([bound_activations(config.narrow), round_weights], bound_both(config.narrow))
    return [bounds, learn_alpha] if config.steps else [bounds]
