"""SRResNet with batch norm and PReLU: the generator of SRGAN (Ledig et al., CVPR 2017).

There is no official release.  The keys are those of Lornatang/SRGAN-PyTorch; those of its older files and of
leftthomas/SRGAN are translated by :func:`canonical`.
"""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor, nn

from bitsr.archs.network import Config, Network, StateDict, color_of, count, radius, shape
from bitsr.descriptor import Descriptor
from bitsr.errors import CheckpointError


class ResidualBlock(nn.Module):
    def __init__(self, features: int, bias: bool) -> None:
        super().__init__()
        self.rcb = nn.Sequential(
            nn.Conv2d(features, features, 3, 1, 1, bias=bias), nn.BatchNorm2d(features), nn.PReLU(),
            nn.Conv2d(features, features, 3, 1, 1, bias=bias), nn.BatchNorm2d(features),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rcb(x)


class UpsampleBlock(nn.Module):
    def __init__(self, features: int, factor: int) -> None:
        super().__init__()
        self.upsample_block = nn.Sequential(
            nn.Conv2d(features, features * factor**2, 3, 1, 1), nn.PixelShuffle(factor), nn.PReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample_block(x)


class SRResNet(nn.Module):
    """RGB -> RGB in [0, 1], NCHW; any size; ``upscale`` 3 or a power of two.

    ``ending``: "clip" to [0, 1], or (tanh + 1) / 2 as in leftthomas/SRGAN, whose convolutions before batch norms also
    have a ``bias``.
    """

    blocks = (ResidualBlock,)

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_block: int = 16, upscale: int = 4,
        bias: bool = False, ending: Literal["clip", "tanh"] = "clip",
    ) -> None:  # fmt: skip
        super().__init__()
        factors = [3] if upscale == 3 else [2] * (upscale.bit_length() - 1)
        if upscale != 3 and 2 ** len(factors) != upscale:
            raise ValueError(f"SRResNet upscales by 3 or a power of two, got {upscale}")
        self.upscale, self.ending = upscale, ending
        self.conv1 = nn.Sequential(nn.Conv2d(num_in_ch, num_feat, 9, 1, 4), nn.PReLU())
        self.trunk = nn.Sequential(*(ResidualBlock(num_feat, bias) for _ in range(num_block)))
        self.conv2 = nn.Sequential(nn.Conv2d(num_feat, num_feat, 3, 1, 1, bias=bias), nn.BatchNorm2d(num_feat))
        self.upsampling = nn.Sequential(*(UpsampleBlock(num_feat, factor) for factor in factors))
        self.conv3 = nn.Conv2d(num_feat, num_out_ch, 9, 1, 4)

    def batch_norms(self) -> list[tuple[str, str]]:
        """(convolution, the batch norm that alone reads it), by name."""
        pairs = [(f"trunk.{i}.rcb.{j}", f"trunk.{i}.rcb.{j + 1}") for i in range(len(self.trunk)) for j in (0, 3)]
        return [*pairs, ("conv2.0", "conv2.1")]

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        y = self.conv3(self.upsampling(first + self.conv2(self.trunk(first))))
        return y.clamp(0, 1) if self.ending == "clip" else (torch.tanh(y) + 1) / 2


# ---- state dicts ----------------------------------------------------------------------------------------------------

PARTS = {"conv1": "0", "bn1": "1", "prelu": "2", "conv2": "3", "bn2": "4"}  # of a residual block of leftthomas/SRGAN


def canonical(state: StateDict) -> StateDict:
    """The same tensors under the names of this module."""
    if "conv_block1.0.weight" in state:
        return {re.sub(r"^conv_block(\d)\.", r"conv\1.", key): value for key, value in state.items()}
    if "block1.0.weight" in state and "block2.conv1.weight" in state:
        blocks = sum(bool(re.fullmatch(r"block\d+\.conv1\.weight", key)) for key in state)
        return {_of_block(key, blocks): value for key, value in state.items()}
    return state


def _of_block(key: str, blocks: int) -> str:
    """Blocks of leftthomas/SRGAN: 1, ``blocks`` residual ones, the convolution after them, upsampling and the end."""
    found = re.fullmatch(r"block(\d+)\.(\w+)\.(.+)", key)
    if found is None:
        return key
    block, part, rest = int(found[1]), found[2], found[3]
    if block == 1:
        return f"conv1.{part}.{rest}"
    if block <= blocks + 1:
        return f"trunk.{block - 2}.rcb.{PARTS.get(part, part)}.{rest}"
    if block == blocks + 2:
        return f"conv2.{part}.{rest}"
    if rest in ("weight", "bias"):
        return f"conv3.{rest}"
    return f"upsampling.{part}.upsample_block." + rest.replace("conv.", "0.").replace("prelu.", "2.")


def detect(state: StateDict) -> Config | None:
    ending = "tanh" if "block1.0.weight" in state else "clip"
    state = canonical(state)
    if not {"conv1.0.weight", "trunk.0.rcb.1.running_mean", "conv2.1.running_var", "conv3.weight"} <= set(state):
        return None
    features, channels = shape(state, "conv1.0.weight")[:2]
    factors = []
    for i in range(count(state, "upsampling.{}.upsample_block.0.weight")):
        made = shape(state, f"upsampling.{i}.upsample_block.0.weight")[0]
        if made not in (4 * features, 9 * features):
            raise CheckpointError(f"upsampling.{i} makes {made} of {features} channels, which no 2x2 or 3x3 pixels are")
        factors.append(2 if made == 4 * features else 3)
    if 3 in factors and len(factors) > 1:
        raise CheckpointError(f"the network upsamples by {' and '.join(map(str, factors))}, expected 3 alone")
    return {
        "num_in_ch": channels,
        "num_out_ch": shape(state, "conv3.weight")[0],
        "num_feat": features,
        "num_block": count(state, "trunk.{}.rcb.0.weight"),
        "upscale": 3 if 3 in factors else 2 ** len(factors),
        "bias": "conv2.0.bias" in state,
        "ending": ending,
    }


def descriptor(module: SRResNet) -> Descriptor:
    convs = [(9, 1), *[(3, 1)] * (2 * len(module.trunk) + 1)]
    ups = [(3, 1)] if module.upscale == 3 else [(3, 2**i) for i in range(len(module.upsampling))]
    first = module.conv1[0]
    assert isinstance(first, nn.Conv2d)
    return Descriptor("srresnet", module.upscale, color_of(first), reach=radius([*convs, *ups, (9, module.upscale)]))


NETWORK = Network("srresnet", SRResNet, detect, descriptor, canonical=canonical, derived=("num_batches_tracked",))
