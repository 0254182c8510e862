"""SmoothQuant (Xiao et al., ICML 2023): difficult activation channels hand a part of their range to the weights.

The paper folds the scales into the LayerNorm before; layers without one are left as they are.  Here those are scaled at
run time unless ``unfolded`` is off, since a convolutional network would otherwise see nothing of the method.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsr.methods.ptq.bounds import minmax
from bitsr.methods.ptq.config import SmoothQuant
from bitsr.methods.ptq.pipeline import Stage, Work, simple_stages
from bitsr.methods.ptq.smoothing import scalable_channels


def migration_scale(x_max: Tensor, w_max: Tensor, strength: float) -> Tensor:
    """Eq. 4: s_j = max|x_j|^t / max|W_j|^(1 - t)."""
    return (x_max.clamp_min(1e-5) ** strength / w_max.clamp_min(1e-5) ** (1 - strength)).clamp_min(1e-5)


def migrate(strength: float, unfolded: bool, samples: int) -> Stage:
    """Scale every layer's input channels, whose sizes are seen on ``samples`` rows."""

    @torch.no_grad()
    def stage(work: Work) -> None:
        for channels in scalable_channels(work, samples):
            if channels.fold is None and not unfolded:
                continue
            weight = channels.layer.weight.detach().view_as(channels.weight)
            scale = migration_scale(channels.x.abs().amax((0, 2)), weight.abs().amax((0, 2)), strength)
            channels.smooth(work, scale)

    return stage


def stages(config: SmoothQuant) -> list[Stage]:
    return [migrate(config.strength, config.unfolded, config.samples), *simple_stages(minmax)]
