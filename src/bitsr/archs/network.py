"""What a file of `archs/` says about its network: how to recognise it in a state dict, how to build and describe it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from bitsr.descriptor import Color, Descriptor
from bitsr.errors import CheckpointError

StateDict = Mapping[str, Tensor]
Config = dict[str, Any]  # keywords of a network's constructor


@dataclass(frozen=True)
class Network:
    """One entry of the registry in `detect.py`.

    Attributes:
        name: the name in descriptors and for `load(arch=...)`.
        build: the class; its keywords are the hyper-parameters.
        detect: reads the keywords from a state dict; None if the keys are another network's.
        descriptor: what callers need to know of a built network.
        undecided: keywords that weights do not tell, with the values in use; settled by the table of known
            checkpoints, an option or a probe, unless `detect` already knows them. Without values it takes an option.
        range_keyword: the keyword that an `input_range` of 1 or 255 sets; None if the network always works on 0..1.
        canonical: gives a state dict under other names that are in use the network's own.
        derived: last parts of the names of buffers that follow from the hyper-parameters and may be missing.
    """

    name: str
    build: Callable[..., nn.Module]
    detect: Callable[[StateDict], Config | None]
    descriptor: Callable[[Any], Descriptor]
    undecided: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    range_keyword: str | None = None
    canonical: Callable[[StateDict], StateDict] = dict
    derived: tuple[str, ...] = ()

    @property
    def untold(self) -> tuple[str, ...]:
        """Keywords that weights do not tell; a checkpoint written by bitsr notes them."""
        return tuple(dict.fromkeys((*self.undecided, *([self.range_keyword] if self.range_keyword else []))))

    def untold_of(self, module: nn.Module) -> Config:
        """Those keywords as ``module`` has them."""
        return {key: getattr(module, key) for key in self.untold if hasattr(module, key)}


def shape(state: StateDict, key: str, rank: int = 4) -> tuple[int, ...]:
    """The shape of a tensor that must be there; raises `CheckpointError` if it is missing or of another rank."""
    if key not in state:
        raise CheckpointError(f"missing key {key}")
    size = tuple(state[key].shape)
    if len(size) != rank or 0 in size:
        raise CheckpointError(f"{key} has shape {size}, expected {rank} dimensions, none of them 0")
    return size


def count(state: StateDict, key: str) -> int:
    """How many of ``key.format(0)``, ``key.format(1)``, ... are there in a row."""
    number = 0
    while key.format(number) in state:
        number += 1
    return number


def shuffle_scale(state: StateDict, key: str, channels: int) -> int:
    """The scale of the one pixel shuffle behind convolution ``key`` that makes ``channels`` channels."""
    made = shape(state, key)[0]
    scale = math.isqrt(made // channels)
    if scale * scale * channels != made:
        raise CheckpointError(f"{key} makes {made} channels, which no pixel shuffle turns into {channels}")
    return scale


def radius(convs: Sequence[tuple[int, int]]) -> int:
    """Receptive radius in LR pixels, rounded up, of convolutions given as (kernel side, scale they work at)."""
    return math.ceil(sum((kernel // 2) / scale for kernel, scale in convs))


def color_of(first: nn.Conv2d, unshuffle: int = 1) -> Color:
    """Luma for a network whose first convolution takes one channel, RGB for three; raises `CheckpointError` else.

    Behind a pixel unshuffle it takes ``unshuffle``**2 times as many.
    """
    channels = first.in_channels // unshuffle**2
    if channels not in (1, 3):
        raise CheckpointError(f"the network takes {channels} channels, expected 1 (luma) or 3 (RGB)")
    return "y" if channels == 1 else "rgb"
