"""ESPCN: efficient sub-pixel convolutional network (Shi et al., CVPR 2016) in the two families of public weights.

Both are three convolutions with tanh and a pixel shuffle. The first (keys ``conv1``..., leftthomas/ESPCN) works on
luma and ends in a sigmoid; the second (``conv_1``..., Nhat-Thanh/ESPCN-Pytorch) on YCbCr and ends in a clip to [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.archs.network import Config, Network, StateDict, radius, shape, shuffle_scale
from bitsr.descriptor import Color, Descriptor


class ESPCN(nn.Module):
    """NCHW in [0, 1]; any size. ``color`` says what the channels mean; it changes no number here."""

    def __init__(
        self, upscale: int = 4, channels: int = 1, color: Color = "y", widths: tuple[int, int] = (64, 32)
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.color: Color = color
        self.conv1 = nn.Conv2d(channels, widths[0], 5, 1, 2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 3, 1, 1)
        self.conv3 = nn.Conv2d(widths[1], channels * upscale**2, 3, 1, 1)
        self.pixel_shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.conv2(x))
        return torch.sigmoid(self.pixel_shuffle(self.conv3(x)))


class ESPCNClip(nn.Module):
    """NCHW in [0, 1]; any size; the second family. ``color`` says what the channels mean."""

    def __init__(
        self, upscale: int = 4, channels: int = 3, color: Color = "ycbcr", widths: tuple[int, int] = (64, 32)
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.color: Color = color
        self.conv_1 = nn.Conv2d(channels, widths[0], 5, 1, 2)
        self.conv_2 = nn.Conv2d(widths[0], widths[1], 3, 1, 1)
        self.conv_3 = nn.Conv2d(widths[1], channels * upscale**2, 3, 1, 1)
        self.pixel_shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv_1(x))
        x = torch.tanh(self.conv_2(x))
        return self.pixel_shuffle(self.conv_3(x)).clamp(0.0, 1.0)


def _detect(state: StateDict, prefix: str) -> Config | None:
    weights = {f"{prefix}{i}.weight" for i in (1, 2, 3)}
    if {key for key in state if key.endswith(".weight")} != weights:
        return None
    first, channels, kernel, _ = shape(state, f"{prefix}1.weight")
    upscale = shuffle_scale(state, f"{prefix}3.weight", channels)
    if kernel != 5 or upscale == 1:  # three convolutions of another kind, such as SRCNN
        return None
    config = {"upscale": upscale, "channels": channels, "widths": (first, shape(state, f"{prefix}2.weight")[0])}
    return config | {"color": "y"} if channels == 1 else config


def detect(state: StateDict) -> Config | None:
    return _detect(state, "conv")


def detect_clip(state: StateDict) -> Config | None:
    return _detect(state, "conv_")


def descriptor(module: ESPCN | ESPCNClip) -> Descriptor:
    return Descriptor("espcn", module.upscale, module.color, reach=radius([(5, 1), (3, 1), (3, 1)]))


COLORS = {"color": ("rgb", "ycbcr")}
NETWORK = Network("espcn", ESPCN, detect, descriptor, undecided=COLORS)
NETWORK_CLIP = Network("espcn", ESPCNClip, detect_clip, descriptor, undecided=COLORS)
