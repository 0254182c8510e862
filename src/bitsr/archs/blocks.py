"""Parts that several networks share."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.network import Config, StateDict, shape, shuffle_scale
from bitsr.errors import CheckpointError


def pixel_shuffle_tail(scale: int, features: int) -> list[nn.Module]:
    """conv + shuffle by 2 as often as needed, or once by 3."""
    if scale == 3:
        return [nn.Conv2d(features, 9 * features, 3, 1, 1), nn.PixelShuffle(3)]
    if scale < 1 or scale & (scale - 1):
        raise ValueError(f"the pixelshuffle upsampler makes powers of two and 3, got {scale}")
    tail: list[nn.Module] = []
    for _ in range(int(math.log2(scale))):
        tail += [nn.Conv2d(features, 4 * features, 3, 1, 1), nn.PixelShuffle(2)]
    return tail


def tail_scale(state: StateDict, prefix: str) -> int:
    """The scale of a `pixel_shuffle_tail` in a state dict, with convolutions ``prefix.0``, ``prefix.2``, ..."""
    scale, index = 1, 0
    while (key := f"{prefix}.{index}.weight") in state:
        made, features = shape(state, key)[:2]
        factor = {4: 2, 9: 3}.get(made // features)
        if factor is None or made % features or (factor == 3 and index):
            raise CheckpointError(f"{key} turns {features} channels into {made}, which is no upsampling by 2 or 3")
        scale, index = scale * factor, index + 2
    return scale


def distillation_config(state: StateDict) -> Config:
    """The sizes of a distillation network (IMDN, RFDN): convolution ``fea_conv`` first, one pixel shuffle last."""
    features, channels = shape(state, "fea_conv.weight")[:2]
    return {
        "in_nc": channels,
        "nf": features,
        "out_nc": channels,
        "upscale": shuffle_scale(state, "upsampler.0.weight", channels),
    }


def tail_convs(scale: int) -> list[tuple[int, int]]:
    """(kernel side, scale) of the convolutions of a `pixel_shuffle_tail`."""
    return [(3, 1)] if scale == 3 else [(3, 2**i) for i in range(int(math.log2(scale)))]


class ResidualBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x))), without batch norm."""

    def __init__(self, features: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(features, features, 3, 1, 1)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x))) * self.res_scale
