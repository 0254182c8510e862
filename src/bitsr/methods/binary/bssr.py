"""BSSR: linears of one-bit inputs and one-bit 2:4 sparse weights, a scale for every group of 32 weights.

"BSSR" (anonymous submission, OpenReview 8Vp3k3EEZi); no code of it is public.  Where the text is silent or
contradicts itself there is an option here, whose default is the reading that we recommend.  Two corrections are
necessary and no option: scales and means are divided by the number of kept weights of their group (eq. 3 and 5 print
1/N, right only for groups of one block), and the mask multiplies a sign that is never 0 (eq. 4 puts it inside, which
also drops kept weights that equal the mean).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitsr.methods.binary.config import BSSR, KAPPA_RANGE
from bitsr.parts.binarizers import ActivationBinarizer, WeightBinarizer, of_kept
from bitsr.parts.binary_layers import BinaryLinear
from bitsr.parts.masks import Masks
from bitsr.parts.scale_groups import ScaleGroups
from bitsr.parts.sign import bireal, bsign, clip, identity, tanh_sign


class _BSGA(torch.autograd.Function):
    """signs * scale forwards; backwards eq. 7: G E'(z), and the slope's gradient through the tanh that stands in."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, signs: Tensor, scale: Tensor, kappa: Tensor, z: Tensor, scaled: bool
    ) -> Tensor:
        ctx.save_for_backward(signs, scale, kappa, z)
        ctx.scaled = scaled
        return signs * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        signs, scale, kappa, z = ctx.saved_tensors
        fall = grad * (1 - (kappa * z).tanh().square())
        grad_weight = fall * kappa * scale if ctx.scaled else fall * kappa
        grad_kappa = (fall * scale * z).sum_to_size(kappa.shape) if ctx.needs_input_grad[3] else None
        grad_scale = grad * signs if ctx.needs_input_grad[2] else None
        return grad_weight, None, grad_scale, grad_kappa, None, None


class BSQ(WeightBinarizer):
    """mask * s_k * sign(W - mu_k): scale and mean of the kept weights of each group k."""

    def __init__(self, rows: int, width: int, config: BSSR, kappa: nn.Parameter | None = None) -> None:
        super().__init__()
        self.config = config
        self.scales = ScaleGroups(rows, width, config.group, config.block, config.tiling)
        self.groups = self.scales.sizes
        self.kappa = new_kappa(config, (rows, 1)) if kappa is None else kappa

    def group_mean(self, weight: Tensor, kept: Tensor) -> Tensor:
        """What is subtracted before the sign is taken."""
        if not self.config.centre:
            return torch.zeros_like(weight)
        mean = self.scales.mean(weight, kept)
        return mean if self.config.scale_gradient else mean.detach()

    def group_scale(self, weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
        """That of each place's group."""
        size = (weight - mean if self.config.scale_from == "centred" else weight).abs()
        scale = self.scales.mean(size, kept)
        return scale if self.config.scale_gradient else scale.detach()

    def forward(self, weight: Tensor, mask: Tensor | None = None) -> Tensor:
        kept = torch.ones_like(weight, dtype=torch.bool)
        if mask is not None and self.config.order == "mask":
            kept = mask
        mean = of_kept(self.group_mean(weight, kept), mask)
        scale = of_kept(self.group_scale(weight, mean, kept), mask)
        centred = (weight - mean).detach()
        normal = centred / scale.detach().clamp(min=torch.finfo(weight.dtype).tiny)
        z = normal if self.config.surrogate_of == "normal" else weight.detach()
        values: Tensor = _BSGA.apply(
            weight, bsign(centred), scale, of_kept(self.kappa, mask), z, self.config.weight_gradient == "scale"
        )  # fmt: skip
        return values + mean if self.config.add_mean else values


class BSSRActivation(ActivationBinarizer):
    """sign(gain * x + shift), with the gradient of a tanh of learnable slope."""

    def __init__(self, channels: int, config: BSSR, kappa: nn.Parameter | None = None) -> None:
        surrogate = {"tanh": identity, "bireal": bireal, "clip": clip}[config.activation_surrogate]
        super().__init__(channels, -1, surrogate, shift=True, gain=config.gain)
        self.kappa: nn.Parameter | None = None
        if config.activation_surrogate == "tanh":
            self.kappa = new_kappa(config, (channels,)) if kappa is None else kappa

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.kappa is None else tanh_sign(self.moved(x), self.kappa)


class BSSRMasks(Masks):
    """The largest of each block, chosen anew in every forward pass; what is not kept gets no gradient of the loss."""

    def __init__(self, config: BSSR, *, dense_gradient: bool = False) -> None:
        coupled = config.rho if config.decay_mode == "grad" else 0.0
        super().__init__(config.keep, config.block, dense_gradient=dense_gradient, decay=coupled)
        self.by_size = config.order == "mask"
        self.shrink = config.rho * config.decay_rate if config.decay_mode == "decoupled" else 0.0

    def mask(self, weight: Tensor) -> Tensor:
        return super().mask(weight if self.by_size else torch.ones_like(weight))

    @torch.no_grad()
    def on_step(self, weight: Tensor, step: int, steps: int) -> None:
        if self.shrink:
            weight -= self.shrink * weight * ~self.mask(weight)


def new_kappa(config: BSSR, per_channel: tuple[int, ...]) -> nn.Parameter:
    """The slope of a surrogate, or one for each channel."""
    shape = per_channel if config.kappa_scope == "channel" else (1,)
    return nn.Parameter(torch.full(shape, config.kappa), requires_grad=config.kappa_learnable)


class BSSRLinear(BinaryLinear):
    """y = sign(gain * x + shift) What^T + b (eq. 1-6)."""

    def __init__(
        self, source: nn.Linear, config: BSSR, kappa_w: nn.Parameter | None = None, kappa_a: nn.Parameter | None = None
    ) -> None:
        if source.in_features % config.block:
            raise ValueError(f"{source.in_features} inputs are no whole blocks of {config.block}")
        super().__init__(
            source, BSSRActivation(source.in_features, config, kappa_a),
            BSQ(source.out_features, source.in_features, config, kappa_w), BSSRMasks(config),
        )  # fmt: skip

    def on_step(self, step: int, steps: int) -> None:
        super().on_step(step, steps)
        with torch.no_grad():
            for kappa in (self.binarizer.kappa, self.activation.kappa):
                if isinstance(kappa, nn.Parameter):
                    kappa.clamp_(*KAPPA_RANGE)
