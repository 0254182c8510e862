"""MSRResNet: SRResNet without batch norm, with a bilinear skip (Wang et al., 2018), state-dict keys of BasicSR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.blocks import ResidualBlock
from bitsr.archs.network import Config, Network, StateDict, color_of, count, radius, shape
from bitsr.descriptor import Descriptor
from bitsr.errors import CheckpointError


class MSRResNet(nn.Module):
    """RGB -> RGB in [0, 1], NCHW; any size; ``upscale`` 2, 3 or 4."""

    blocks = (ResidualBlock,)

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_block: int = 16, upscale: int = 4
    ) -> None:
        super().__init__()
        if upscale not in (2, 3, 4):
            raise ValueError(f"MSRResNet upscales by 2, 3 or 4, got {upscale}")
        self.upscale = upscale
        step = 3 if upscale == 3 else 2
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat) for _ in range(num_block)))
        self.upconv1 = nn.Conv2d(num_feat, num_feat * step**2, 3, 1, 1)
        if upscale == 4:
            self.upconv2 = nn.Conv2d(num_feat, num_feat * 4, 3, 1, 1)
        self.pixel_shuffle = nn.PixelShuffle(step)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.lrelu(self.conv_first(x)))
        y = self.lrelu(self.pixel_shuffle(self.upconv1(y)))
        if self.upscale == 4:
            y = self.lrelu(self.pixel_shuffle(self.upconv2(y)))
        y = self.conv_last(self.lrelu(self.conv_hr(y)))
        return y + F.interpolate(x, scale_factor=self.upscale, mode="bilinear", align_corners=False)


def detect(state: StateDict) -> Config | None:
    if not {"conv_first.weight", "body.0.conv1.weight", "upconv1.weight", "conv_hr.weight"} <= set(state):
        return None
    features, channels = shape(state, "conv_first.weight")[:2]
    factor = {4: 2, 9: 3}.get(shape(state, "upconv1.weight")[0] // features)
    if factor is None:
        raise CheckpointError(f"upconv1.weight upsamples by neither 2 nor 3: shape {shape(state, 'upconv1.weight')}")
    return {
        "num_in_ch": channels,
        "num_out_ch": shape(state, "conv_last.weight")[0],
        "num_feat": features,
        "num_block": count(state, "body.{}.conv1.weight"),
        "upscale": 4 if "upconv2.weight" in state else factor,
    }


def descriptor(module: MSRResNet) -> Descriptor:
    scale = module.upscale
    upsampling = [(3, 1), (3, 2)] if scale == 4 else [(3, 1)]
    reach = radius([*[(3, 1)] * (1 + 2 * len(module.body)), *upsampling, (3, scale), (3, scale)])
    return Descriptor("msrresnet", scale, color_of(module.conv_first), reach=reach)


NETWORK = Network("msrresnet", MSRResNet, detect, descriptor)
