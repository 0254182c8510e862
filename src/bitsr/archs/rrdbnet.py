"""RRDBNet: ESRGAN (Wang et al., ECCV workshops 2018) and Real-ESRGAN (Wang et al., ICCV workshops 2021).

The keys are those of BasicSR; files with the two older sets of names, of the first and of the second ESRGAN release,
are translated by :func:`canonical`.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.network import Config, Network, StateDict, color_of, count, radius, shape
from bitsr.descriptor import Descriptor
from bitsr.errors import CheckpointError

SLOPE = 0.2  # of every leaky ReLU
REACH = 32  # overlap of tiles, in pixels of the body
RESIDUAL = 0.2  # share of a branch that is added, in dense blocks and around three of them


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and everything made before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for i in range(1, 5):
            setattr(self, f"conv{i}", nn.Conv2d(features + (i - 1) * growth, growth, 3, 1, 1))
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for i in range(1, 5):
            made = F.leaky_relu(getattr(self, f"conv{i}")(seen), SLOPE)
            seen = torch.cat([seen, made], dim=1)
        return x + self.conv5(seen) * RESIDUAL


class RRDB(nn.Module):
    """Residual in residual dense block."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (ResidualDenseBlock(features, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rdb3(self.rdb2(self.rdb1(x))) * RESIDUAL


class RRDBNet(nn.Module):
    """RGB -> RGB in [0, 1], NCHW; any size.

    ``upscale`` is a power of two.  ``unshuffle`` gathers the pixels of its blocks as channels first, so that the body
    works on fewer pixels: 2 in Real-ESRGAN x2, 4 in x1, 1 elsewhere.  The picture is then reflect-padded to a multiple.
    """

    blocks = (RRDB,)

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_block: int = 23, num_grow_ch: int = 32,
        upscale: int = 4, unshuffle: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        doublings = (upscale * unshuffle).bit_length() - 1
        if 2**doublings != upscale * unshuffle:
            raise ValueError(f"RRDBNet doubles its features, which gives no scale of {upscale} * {unshuffle}")
        self.upscale, self.unshuffle, self.doublings = upscale, unshuffle, doublings
        self.conv_first = nn.Conv2d(num_in_ch * unshuffle**2, num_feat, 3, 1, 1)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        for i in range(1, doublings + 1):
            setattr(self, f"conv_up{i}", nn.Conv2d(num_feat, num_feat, 3, 1, 1))
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        if self.unshuffle > 1:
            x = F.pad(x, (0, -w % self.unshuffle, 0, -h % self.unshuffle), mode="reflect")
            x = F.pixel_unshuffle(x, self.unshuffle)
        first = self.conv_first(x)
        y = first + self.conv_body(self.body(first))
        for i in range(1, self.doublings + 1):
            y = F.leaky_relu(getattr(self, f"conv_up{i}")(F.interpolate(y, scale_factor=2, mode="nearest")), SLOPE)
        y = self.conv_last(F.leaky_relu(self.conv_hr(y), SLOPE))
        return y[:, :, : h * self.upscale, : w * self.upscale]


# ---- state dicts ----------------------------------------------------------------------------------------------------

SECOND = [  # xinntao/ESRGAN since 2019: pattern -> BasicSR
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."), (r"trunk_conv\.", "conv_body."),
    (r"upconv(\d)\.", r"conv_up\1."), (r"HRconv\.", "conv_hr."),
]  # fmt: skip
FIRST_BODY = re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(\w+)")


def canonical(state: StateDict) -> StateDict:
    """The same tensors under the names of BasicSR."""
    if "RRDB_trunk.0.RDB1.conv1.weight" in state:
        return {_renamed(key): value for key, value in state.items()}
    if "model.1.sub.0.RDB1.conv1.0.weight" in state:
        names = _numbered(state)
        return {FIRST_BODY.sub(r"body.\1.rdb\2.conv\3.\4", names.get(key, key)): value for key, value in state.items()}
    return state


def _renamed(key: str) -> str:
    for pattern, name in SECOND:
        key = re.sub(f"^{pattern}", name, key)
    return key


def _numbered(state: StateDict) -> dict[str, str]:
    """The first release numbers its layers: 0 is the first convolution, 1 the body with the convolution after it, and
    then every third one doubles the size, until two convolutions end it."""
    blocks = count(state, "model.1.sub.{}.RDB1.conv1.0.weight")
    convs = sorted(int(found[1]) for key in state if (found := re.fullmatch(r"model\.(\d+)\.weight", key)))
    names = {"model.0": "conv_first", f"model.1.sub.{blocks}": "conv_body"}
    ends = ["conv_last", "conv_hr"]
    for i, number in enumerate(convs[1:], 1):
        left = len(convs) - 1 - i
        names[f"model.{number}"] = ends[left] if left < 2 else f"conv_up{i}"
    return {f"{old}.{kind}": f"{new}.{kind}" for old, new in names.items() for kind in ("weight", "bias")}


def detect(state: StateDict) -> Config | None:
    state = canonical(state)
    if not {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight", "conv_last.weight"} <= set(state):
        return None
    features, taken = shape(state, "conv_first.weight")[:2]
    made = shape(state, "conv_last.weight")[0]
    unshuffle = {1: 1, 4: 2, 16: 4}.get(taken // made)
    doublings = sum(bool(re.fullmatch(r"conv_up\d\.weight", key)) for key in state)
    if unshuffle is None or taken % made or 2**doublings < unshuffle:
        raise CheckpointError(
            f"{taken} channels become {made} after {doublings} doublings of the size, which is no scale of RRDBNet"
        )
    return {
        "num_in_ch": made,
        "num_out_ch": made,
        "num_feat": features,
        "num_block": count(state, "body.{}.rdb1.conv1.weight"),
        "num_grow_ch": shape(state, "body.0.rdb1.conv1.weight")[0],
        "upscale": 2**doublings // unshuffle,
        "unshuffle": unshuffle,
    }


def descriptor(module: RRDBNet) -> Descriptor:
    """Counted in the body's pixels, of which each is ``unshuffle`` LR pixels wide.

    Exact tiles of the published 23 blocks would overlap by 349 of them on each side, far beyond what they look at with
    any weight (the official tiles overlap by 10): deep networks are tiled with `REACH`.
    """
    body = [(3, 1)] * (2 + 15 * len(module.body))
    ends = [(3, 2**i) for i in range(1, module.doublings + 1)] + [(3, 2**module.doublings)] * 2
    exact = radius([*body, *ends])
    return Descriptor(
        "rrdbnet",
        module.upscale,
        color_of(module.conv_first, module.unshuffle),
        multiple=module.unshuffle,
        min_size=module.unshuffle // 2 + 1,  # what reflect padding needs
        tiling="exact" if exact <= REACH else "window",
        reach=module.unshuffle * min(exact, REACH),
    )


NETWORK = Network("rrdbnet", RRDBNet, detect, descriptor, canonical=canonical)
