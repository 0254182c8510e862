"""What runs beside a layer of signs, on its input as it comes, and is added to its output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.parts.binary_layers import matched


class Diagonal(nn.Module):
    """A factor per output on the input, which is repeated to as many channels or cut into as many as there are outputs,
    of which the mean is taken.

    Args:
        inputs: channels of the input, on the last axis.
        outputs: of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        if max(inputs, outputs) % min(inputs, outputs):
            raise ValueError(f"no diagonal from {inputs} to {outputs} channels")
        self.inputs = inputs
        self.factor = nn.Parameter(torch.zeros(outputs))

    def passed(self, x: Tensor) -> Tensor:
        """The input with as many channels as the output."""
        outputs = len(self.factor)
        if self.inputs <= outputs:
            return matched(x, outputs, -1)
        return x.unflatten(-1, (-1, outputs)).mean(-2)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.passed(x)


class LowRank(nn.Module):
    """Two thin linears without bias, with ``rank`` numbers between them or as many as the matrix has; 0 at first."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        rank = min(rank, inputs, outputs)
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.down(x))
        return y


class Sparse(nn.Module):
    """A linear without bias of few weights, whose places do not change while they are trained; 0 at first.

    Args:
        inputs, outputs: channels, on the last axis.
        count: how many weights.

    Attributes:
        places: (count), output * inputs + input, in ascending order.
        values: (count).
    """

    places: Tensor

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.register_buffer("places", torch.arange(min(count, inputs * outputs)))
        self.values = nn.Parameter(torch.zeros(len(self.places)))

    @torch.no_grad()
    def take(self, weight: Tensor, size: Tensor | None = None) -> None:
        """Become the entries of ``weight`` (outputs, inputs) that are largest by ``size`` (by magnitude)."""
        chosen = (weight.abs() if size is None else size).flatten().topk(len(self.places)).indices
        self.places.copy_(chosen.sort().values)
        self.values.copy_(weight.flatten()[self.places])

    def weight(self) -> Tensor:
        """With all its zeros, (outputs, inputs)."""
        empty = self.values.new_zeros(self.outputs * self.inputs)
        return empty.index_put((self.places,), self.values).view(self.outputs, self.inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight())
