"""CARN-M, the cascading residual network for mobiles (Ahn et al., ECCV 2018), in plain torch.

bitsr does not know this network: it stands for one of your own.  The state dict has the keys of the authors'
checkpoint, which holds one body and the upsamplers of x2, x3 and x4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

RGB_MEAN = (0.4488, 0.4371, 0.4040)


class MeanShift(nn.Module):
    """Adds a fixed colour.

    The checkpoint keeps this as a 1x1 convolution with the identity.  As a plain sum it is nothing to be compressed,
    and the first and last convolutions, which bitsr keeps at 8 bit, are those that read and write the picture.
    """

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(3).view(3, 3, 1, 1))
        self.bias = nn.Parameter(sign * torch.tensor(RGB_MEAN), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(-1, 1, 1)


def named(name: str, part: nn.Module) -> nn.Sequential:
    """``part`` alone, with the name that the checkpoint gives it."""
    return nn.Sequential(OrderedDict({name: part}))


def fusion(inputs: int, features: int) -> nn.Sequential:
    """Back to ``features`` channels."""
    return named("body", nn.Sequential(nn.Conv2d(inputs * features, features, 1), nn.ReLU()))


def upsampler(features: int, groups: int, *factors: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for factor in factors:
        conv = nn.Conv2d(features, features * factor**2, 3, padding=1, groups=groups)
        layers += [conv, nn.ReLU(), nn.PixelShuffle(factor)]
    return named("body", nn.Sequential(*layers))


def cascade(x: Tensor, blocks: Sequence[nn.Module], fusions: Sequence[nn.Module]) -> Tensor:
    """Each block reads the last fusion; each fusion reads the input and all blocks so far."""
    seen = y = x
    for block, fuse in zip(blocks, fusions, strict=True):
        seen = torch.cat([seen, block(y)], dim=1)
        y = fuse(seen)
    return y


class ResidualBlock(nn.Module):
    """Two grouped convolutions and one that mixes the groups, around a shortcut."""

    def __init__(self, features: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1, groups=groups), nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1, groups=groups), nn.ReLU(),
            nn.Conv2d(features, features, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + x).relu()


class CascadingBlock(nn.Module):
    """A cascade of one residual block, whose weights are used three times."""

    def __init__(self, features: int, groups: int) -> None:
        super().__init__()
        self.b1 = ResidualBlock(features, groups)
        self.c1, self.c2, self.c3 = (fusion(inputs, features) for inputs in (2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return cascade(x, [self.b1] * 3, [self.c1, self.c2, self.c3])


class CARNM(nn.Module):
    """RGB -> RGB in [0, 1], NCHW; any size.  ``scale``: 2, 3 or 4."""

    reach = 21  # LR pixels: 1 + 9 * 2 of the residual blocks + at most 1.75 behind them

    def __init__(self, scale: int = 4, features: int = 64, groups: int = 4) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"CARN-M upscales by 2, 3 or 4, not by {scale}")
        self.scale = scale
        self.sub_mean, self.add_mean = named("shifter", MeanShift(-1)), named("shifter", MeanShift(1))
        self.entry = nn.Conv2d(3, features, 3, padding=1)
        self.b1, self.b2, self.b3 = (CascadingBlock(features, groups) for _ in range(3))
        self.c1, self.c2, self.c3 = (fusion(inputs, features) for inputs in (2, 3, 4))
        self.upsample = nn.ModuleDict({
            "up2": upsampler(features, groups, 2), "up3": upsampler(features, groups, 3),
            "up4": upsampler(features, groups, 2, 2),
        })  # fmt: skip
        self.exit = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(self.sub_mean(x))
        x = cascade(x, [self.b1, self.b2, self.b3], [self.c1, self.c2, self.c3])
        return self.add_mean(self.exit(self.upsample[f"up{self.scale}"](x)))


def load_carn_m(path: str | Path, scale: int = 4) -> CARNM:
    """The network with the authors' weights, in eval mode."""
    module = CARNM(scale)
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return module.eval()
