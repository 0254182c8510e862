"""EDSR: enhanced deep residual network (Lim et al., CVPR workshops 2017), state-dict keys of BasicSR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitsr.archs.blocks import ResidualBlock, pixel_shuffle_tail, tail_convs, tail_scale
from bitsr.archs.network import Config, Network, StateDict, color_of, count, radius, shape
from bitsr.descriptor import Descriptor


class EDSR(nn.Module):
    """RGB -> RGB in [0, 1], NCHW; any size.

    The features work on (x - rgb_mean) * img_range. The published models have ``img_range`` 255 and ``res_scale`` 1
    (64 features, 16 blocks) or 0.1 (256 features, 32 blocks).
    """

    mean: Tensor
    blocks = (ResidualBlock,)

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_block: int = 16, upscale: int = 4,
        res_scale: float = 1.0, img_range: float = 255.0, rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040),
    ) -> None:  # fmt: skip
        super().__init__()
        self.upscale, self.res_scale, self.img_range = upscale, res_scale, img_range
        mean = torch.tensor(rgb_mean) if num_in_ch == 3 else torch.zeros(num_in_ch)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, res_scale) for _ in range(num_block)))
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.upsample = nn.Sequential(*pixel_shuffle_tail(upscale, num_feat))
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first((x - self.mean) * self.img_range)
        features = self.conv_after_body(self.body(first)) + first
        return self.conv_last(self.upsample(features)) / self.img_range + self.mean


def detect(state: StateDict) -> Config | None:
    if not {"conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "upsample.0.weight"} <= set(state):
        return None
    features, channels = shape(state, "conv_first.weight")[:2]
    return {
        "num_in_ch": channels,
        "num_out_ch": shape(state, "conv_last.weight")[0],
        "num_feat": features,
        "num_block": count(state, "body.{}.conv1.weight"),
        "upscale": tail_scale(state, "upsample"),
    }


def descriptor(module: EDSR) -> Descriptor:
    body = [(3, 1)] * (1 + 2 * len(module.body) + 1)
    reach = radius([*body, *tail_convs(module.upscale), (3, module.upscale)])
    return Descriptor("edsr", module.upscale, color_of(module.conv_first), reach=reach)


NETWORK = Network(
    "edsr",
    EDSR,
    detect,
    descriptor,
    undecided={"img_range": (1.0, 255.0), "res_scale": (1.0, 0.1)},
    range_keyword="img_range",
)
