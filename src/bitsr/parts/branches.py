"""What runs beside a layer of signs, on its input as it comes, and is added to its output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.parts.binary_layers import matched


class Diagonal(nn.Module):
    """A factor per output on the input, which is repeated or averaged to as many channels.

    Args:
        inputs: channels of the input, on the last axis.
        outputs: of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.factor = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * matched(x, len(self.factor), -1)


class LowRank(nn.Module):
    """Two thin linears without bias; 0 at first."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.down(x))
        return y
