"""IMDN: information multi-distillation network (Hui et al., ACM MM 2019), official state-dict keys (Zheng222/IMDN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.archs.blocks import distillation_config
from bitsr.archs.network import Config, Network, StateDict, color_of, radius
from bitsr.descriptor import Descriptor


class CCA(nn.Module):
    """Contrast-aware channel attention: a gate per channel from the mean and deviation over the whole picture."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1), nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        deviation = (x - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        return x * self.conv_du(deviation + mean)


class IMDModule(nn.Module):
    """Four 3x3 convolutions, each of which keeps a quarter of its channels and hands on the rest; fused by 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.distilled = channels // 4
        self.remaining = channels - self.distilled
        self.c1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.c2 = nn.Conv2d(self.remaining, channels, 3, 1, 1)
        self.c3 = nn.Conv2d(self.remaining, channels, 3, 1, 1)
        self.c4 = nn.Conv2d(self.remaining, self.distilled, 3, 1, 1)
        self.act = nn.LeakyReLU(0.05)
        self.c5 = nn.Conv2d(4 * self.distilled, channels, 1)
        self.cca = CCA(4 * self.distilled)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        remaining = x
        for conv in (self.c1, self.c2, self.c3):
            distilled, remaining = self.act(conv(remaining)).split((self.distilled, self.remaining), dim=1)
            kept.append(distilled)
        kept.append(self.c4(remaining))
        return self.c5(self.cca(torch.cat(kept, dim=1))) + x


class IMDN(nn.Module):
    """RGB -> RGB in [0, 1], NCHW; any size."""

    eight_bit = ("cca",)  # 1x1 convolutions on one pooled pixel: next to nothing to store or to run
    blocks = (IMDModule,)

    def __init__(self, in_nc: int = 3, nf: int = 64, num_modules: int = 6, out_nc: int = 3, upscale: int = 4) -> None:
        super().__init__()
        if num_modules != 6:
            raise ValueError(f"IMDN has 6 modules, got {num_modules}")
        if nf < 16 or nf % 4:
            raise ValueError(f"nf is a multiple of 4 and at least 16, got {nf}")
        self.upscale = upscale
        self.fea_conv = nn.Conv2d(in_nc, nf, 3, 1, 1)
        for i in range(1, 7):
            setattr(self, f"IMDB{i}", IMDModule(nf))
        self.c = nn.Sequential(nn.Conv2d(6 * nf, nf, 1), nn.LeakyReLU(0.05))
        self.LR_conv = nn.Conv2d(nf, nf, 3, 1, 1)
        self.upsampler = nn.Sequential(nn.Conv2d(nf, out_nc * upscale**2, 3, 1, 1), nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        first = self.fea_conv(x)
        outputs = []
        features = first
        for i in range(1, 7):
            features = getattr(self, f"IMDB{i}")(features)
            outputs.append(features)
        fused = self.LR_conv(self.c(torch.cat(outputs, dim=1))) + first
        return self.upsampler(fused)


def detect(state: StateDict) -> Config | None:
    if "IMDB1.cca.conv_du.0.weight" not in state or "fea_conv.weight" not in state:
        return None
    return distillation_config(state)


def descriptor(module: IMDN) -> Descriptor:
    """The gates see the whole picture; ``reach`` is the radius of the convolutions alone."""
    reach = radius([(3, 1)] * (1 + 6 * 4 + 1 + 1))
    return Descriptor("imdn", module.upscale, color_of(module.fea_conv), tiling="global", reach=reach)


NETWORK = Network("imdn", IMDN, detect, descriptor)
