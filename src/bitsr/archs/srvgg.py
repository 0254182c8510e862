"""SRVGGNetCompact: the small networks of Real-ESRGAN (general x4v3, anime video; Wang et al., 2021), official keys."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.network import Config, Network, StateDict, color_of, radius, shape, shuffle_scale
from bitsr.descriptor import Descriptor


class SRVGGNetCompact(nn.Module):
    """RGB -> RGB in [0, 1], NCHW; any size: convolutions with PReLU, a pixel shuffle, and the nearest pixel added."""

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_conv: int = 16, upscale: int = 4
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.body = nn.ModuleList([nn.Conv2d(num_in_ch, num_feat, 3, 1, 1), nn.PReLU(num_feat)])
        for _ in range(num_conv):
            self.body += [nn.Conv2d(num_feat, num_feat, 3, 1, 1), nn.PReLU(num_feat)]
        self.body.append(nn.Conv2d(num_feat, num_out_ch * upscale**2, 3, 1, 1))
        self.upsampler = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.body:
            y = layer(y)
        return self.upsampler(y) + F.interpolate(x, scale_factor=self.upscale, mode="nearest")


def detect(state: StateDict) -> Config | None:
    """Layers are numbered without gaps, every second one a PReLU."""
    numbers = [key.split(".")[1] for key in state if key.startswith("body.") and key.count(".") == 2]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    if last < 2 or last % 2 or len(state) != 3 * last // 2 + 2:
        return None
    if "body.0.weight" not in state or "body.1.weight" not in state or state["body.1.weight"].ndim != 1:
        return None
    features, channels = shape(state, "body.0.weight")[:2]
    return {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": features,
        "num_conv": last // 2 - 1,
        "upscale": shuffle_scale(state, f"body.{last}.weight", channels),
    }


def descriptor(module: SRVGGNetCompact) -> Descriptor:
    first = module.body[0]
    assert isinstance(first, nn.Conv2d)
    reach = radius([(3, 1)] * (len(module.body) // 2 + 1))
    return Descriptor("srvgg", module.upscale, color_of(first), reach=reach)


NETWORK = Network("srvgg", SRVGGNetCompact, detect, descriptor)
