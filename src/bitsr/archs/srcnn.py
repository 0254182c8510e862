"""SRCNN (Dong et al., ECCV 2014): three convolutions on the picture that bicubic interpolation has upscaled.

Two sets of keys are in use: ``conv1``..``conv3`` (yjn870/SRCNN-pytorch, mmagic) and ``features``, ``map``,
``reconstruction`` (Lornatang/SRCNN-PyTorch).  No weight tells the scale.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bitsr.archs.network import Config, Network, StateDict, color_of, shape
from bitsr.descriptor import Descriptor

A = -0.5  # slope of the bicubic kernel (Keys 1981), as in MATLAB and PIL, with which SRCNN is trained


class SRCNN(nn.Module):
    """NCHW in [0, 1]; any size; Y, in some trainings RGB.  The LR picture goes in: it is upscaled inside."""

    def __init__(
        self, channels: int = 1, upscale: int = 4, kernels: tuple[int, int, int] = (9, 5, 5),
        widths: tuple[int, int] = (64, 32),
    ) -> None:  # fmt: skip
        super().__init__()
        self.upscale = upscale
        ends = [channels, *widths, channels]
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(ends[i], ends[i + 1], kernel, 1, kernel // 2) for i, kernel in enumerate(kernels)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(bicubic(x, self.upscale)))
        return self.conv3(F.relu(self.conv2(y)))


def bicubic(x: Tensor, scale: int) -> Tensor:
    """N x C x H x W -> N x C x sH x sW with half-pixel centres and Keys' kernel; the border is repeated outside."""
    kernel = torch.from_numpy(phases(scale)).to(x)
    neighbours = F.pad(x, (2, 2, 2, 2), mode="replicate").unfold(2, 5, 1).unfold(3, 5, 1)
    return torch.einsum("nchwyx,py,qx->nchpwq", neighbours, kernel, kernel).flatten(4, 5).flatten(2, 3)


@cache
def phases(scale: int) -> NDArray[np.float32]:
    """scale x 5: what each of the new pixels of one pixel takes of it and of two neighbours on either side."""
    place = (np.arange(scale) + 0.5) / scale - 0.5
    d = np.abs(np.arange(-2, 3) - place[:, None])
    near = ((A + 2) * d - (A + 3)) * d * d + 1
    far = A * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0)).astype(np.float32)


OTHER_NAMES = {"features.0.": "conv1.", "map.0.": "conv2.", "reconstruction.": "conv3."}


def canonical(state: StateDict) -> StateDict:
    """The same tensors under the names ``conv1`` to ``conv3``."""
    if "reconstruction.weight" not in state:
        return state
    names = {
        key: new + key.removeprefix(old) for key in state for old, new in OTHER_NAMES.items() if key.startswith(old)
    }
    return {names.get(key, key): value for key, value in state.items()}


def detect(state: StateDict) -> Config | None:
    """Three convolutions that give as many channels as they take (ESPCN's give more)."""
    state = canonical(state)
    weights = {f"conv{i}.weight" for i in (1, 2, 3)}
    if {key for key in state if key.endswith(".weight")} != weights:
        return None
    sizes = [shape(state, key) for key in sorted(weights)]
    if sizes[0][1] != sizes[2][0] or any(kh != kw or kh % 2 == 0 for *_, kh, kw in sizes):
        return None
    return {
        "channels": sizes[0][1],
        "kernels": tuple(size[2] for size in sizes),
        "widths": (sizes[0][0], sizes[1][0]),
    }


def descriptor(module: SRCNN) -> Descriptor:
    """The convolutions see ``hr`` HR pixels around theirs, and the farthest of them two LR pixels beyond its own."""
    hr = sum(conv.kernel_size[0] // 2 for conv in (module.conv1, module.conv2, module.conv3))
    reach = 1 + math.ceil((hr - 0.5) / module.upscale + 0.5)
    return Descriptor("srcnn", module.upscale, color_of(module.conv1), reach=reach)


NETWORK = Network("srcnn", SRCNN, detect, descriptor, undecided={"upscale": ()}, canonical=canonical)
