"""RFDN: residual feature distillation network (Liu et al., ECCV workshops 2020), official state-dict keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.blocks import distillation_config
from bitsr.archs.network import Config, Network, StateDict, color_of, radius
from bitsr.descriptor import Descriptor


def conv(cin: int, cout: int, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1 unless ``padding`` says otherwise."""
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2 if padding is None else padding)


class ESA(nn.Module):
    """Enhanced spatial attention: a mask in (0,1) from a strided, pooled, small branch with a wide view."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, hidden, 1)
        self.conv_f = conv(hidden, hidden, 1)
        self.conv_max = conv(hidden, hidden, 3)
        self.conv2 = conv(hidden, hidden, 3, stride=2, padding=0)
        self.conv3 = conv(hidden, hidden, 3)
        self.conv3_ = conv(hidden, hidden, 3)
        self.conv4 = conv(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv1(x)
        pooled = F.max_pool2d(self.conv2(reduced), kernel_size=7, stride=3)
        wide = F.relu(self.conv_max(pooled))
        wide = F.relu(self.conv3(wide))
        wide = self.conv3_(wide)
        wide = F.interpolate(wide, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(wide + self.conv_f(reduced)))


class RFDB(nn.Module):
    """Three distillation steps (1x1 branch kept, 3x3 residual passed on), fused by a 1x1 convolution and ESA."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        distilled = channels // 2
        for step in (1, 2, 3):
            setattr(self, f"c{step}_d", conv(channels, distilled, 1))
            setattr(self, f"c{step}_r", conv(channels, channels, 3))
        self.c4 = conv(channels, distilled, 3)
        self.c5 = conv(4 * distilled, channels, 1)
        self.esa = ESA(channels, channels // 4)
        self.act = nn.LeakyReLU(0.05)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        remaining = x
        for step in (1, 2, 3):
            kept.append(self.act(getattr(self, f"c{step}_d")(remaining)))
            remaining = self.act(getattr(self, f"c{step}_r")(remaining) + remaining)
        kept.append(self.act(self.c4(remaining)))
        return self.esa(self.c5(torch.cat(kept, dim=1)))


class RFDN(nn.Module):
    """RGB -> RGB, NCHW; input at least 15x15 (the attention pools 7/3 after a stride of 2).

    ``feature_range`` multiplies the input and divides the output: 255 for the official RFDN_AIM weights.
    """

    eight_bit = ("esa",)  # the attention branch: 5 % of the weights, and it decides about all features
    blocks = (RFDB,)

    def __init__(
        self, in_nc: int = 3, nf: int = 50, num_modules: int = 4, out_nc: int = 3, upscale: int = 4,
        feature_range: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_modules != 4:
            raise ValueError(f"RFDN has 4 modules, got {num_modules}")
        self.upscale = upscale
        self.feature_range = feature_range
        self.fea_conv = conv(in_nc, nf, 3)
        self.B1, self.B2, self.B3, self.B4 = (RFDB(nf) for _ in range(4))
        self.c = nn.Sequential(conv(nf * num_modules, nf, 1), nn.LeakyReLU(0.05))
        self.LR_conv = conv(nf, nf, 3)
        self.upsampler = nn.Sequential(conv(nf, out_nc * upscale**2, 3), nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        first = self.fea_conv(x * self.feature_range)
        outputs = []
        features = first
        for block in (self.B1, self.B2, self.B3, self.B4):
            features = block(features)
            outputs.append(features)
        fused = self.LR_conv(self.c(torch.cat(outputs, dim=1))) + first
        return self.upsampler(fused) / self.feature_range


def detect(state: StateDict) -> Config | None:
    if "B1.c1_d.weight" not in state or "B1.esa.conv_f.weight" not in state:
        return None
    return distillation_config(state)


def descriptor(module: RFDN) -> Descriptor:
    """The attention pools with strides and resizes back, so it depends on where the picture begins and ends; ``reach``
    is the radius of the convolutions alone."""
    reach = radius([(3, 1)] * (1 + 4 * 4 + 1 + 1))
    return Descriptor("rfdn", module.upscale, color_of(module.fea_conv), min_size=15, tiling="global", reach=reach)


NETWORK = Network(
    "rfdn",
    RFDN,
    detect,
    descriptor,
    undecided={"feature_range": (1.0, 255.0)},
    range_keyword="feature_range",
)
