"""The processes that train together: one, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bitsr.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """``rank`` of ``size`` processes; alone, every method returns what it is given."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files, validates and reports."""
        return self.rank == 0

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch; parts are equal, so the mean of means is the mean."""
        return batch[self.rank :: self.size]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def decide(self, flag: bool, device: torch.device) -> bool:
        """What the leading process says."""
        if self.size == 1:
            return flag
        word = torch.tensor([flag], dtype=torch.uint8, device=device)
        dist.broadcast(word, 0)
        return bool(word)

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model``, with gradients averaged over the processes."""
        return DistributedDataParallel(model) if self.size > 1 else model

    def check_batch(self, batch: int) -> None:
        """Raises `ConfigError` unless the batch can be dealt out in equal parts."""
        if batch % self.size:
            raise ConfigError(f"a batch of {batch} cannot be dealt out to {self.size} processes in equal parts")


@contextmanager
def assembled(device: torch.device) -> Iterator[Team]:
    """The team that torchrun started, over NCCL on CUDA and gloo on the CPU; a team of one without torchrun."""
    if not dist.is_torchelastic_launched():
        yield Team()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """The device of this process: with torchrun and CUDA the one of its local rank."""
    if name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no CUDA device here")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
