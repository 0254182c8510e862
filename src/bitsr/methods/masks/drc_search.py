"""DRC: how many channels stay in each transformer block is searched, and which ones is told by their gradients.

Guo et al., "Towards Lightweight Super-Resolution with Dual Regression Learning", TPAMI 2024.  Differences: the
full-precision network's output stands in for the HR picture; the search is DARTS's of first order; when channels are
selected, the dual network is left out and nothing is trained between two choices, because all is trained afterwards.
Shares start equal and learn at a rate that lets them part within the steps there are (there: 3e-4 for 100 epochs).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.swinir import WindowAttention
from bitsr.methods.masks.drc import Channels, head_size, hidden_size, largest, swin_blocks
from bitsr.methods.ptq.distill import outputs_of

RATE = 0.5  # of the channels leave at least, as of the weights of 2:4
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of what may stay: the candidates of every width
DUAL = 0.1  # weight of the dual regression
TRAVEL = 2.0  # how far the logits of the shares can get in a search
ROUNDS = 10  # of the selection; every width has grown to r / ROUNDS of its aim after round r


class Dual(nn.Sequential):
    """Scales a picture down: log2(scale) convolutions of stride 2, then one to the picture's channels."""

    def __init__(self, scale: int, channels: int, features: int = 16) -> None:
        steps = max(1, round(math.log2(scale)))
        halving: list[nn.Module] = []
        for i in range(steps):
            halving += [nn.Conv2d(features if i else channels, features, 3, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        super().__init__(*halving, nn.Conv2d(features, channels, 3, 1, 1, bias=False))

    def distance(self, picture: Tensor, low: Tensor) -> Tensor:
        """Mean absolute difference to the small picture ``low``; scales that are no power of 2 are resized to it."""
        down = self(picture)
        if down.shape != low.shape:
            down = F.interpolate(down, low.shape[2:], mode="bilinear")
        return F.l1_loss(down, low)


class Width(nn.Module):
    """A width to be searched: a share of each candidate, which keeps the first channels in the order of ``size``."""

    kept: Tensor

    def __init__(self, size: Tensor) -> None:
        super().__init__()
        most = (1 - RATE) * len(size)
        self.candidates = sorted({max(1, round(most * share)) for share in SHARES})
        rank = size.argsort(descending=True, stable=True).argsort()
        self.register_buffer("kept", torch.stack([(rank < width).float() for width in self.candidates]))
        self.logits = nn.Parameter(torch.zeros(len(self.candidates), device=size.device))

    def shares(self) -> Tensor:
        return self.logits.softmax(0)

    def best(self) -> int:
        return self.candidates[int(self.logits.argmax())]


class GatedInput(nn.Module):
    """A linear whose input channels are multiplied by the summed shares of the candidates that keep them."""

    def __init__(self, linear: nn.Linear, width: Width) -> None:
        super().__init__()
        self.linear, self.width = linear, width

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * (self.width.shares() @ self.width.kept))


class GatedOutput(nn.Module):
    """A linear whose output channels are multiplied by ``gate``."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.gate = linear, linear.weight.new_ones(())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.gate


class MixedAttention(nn.Module):
    """Attention with each candidate's channels, mixed by their shares."""

    def __init__(self, attention: WindowAttention, width: Width) -> None:
        super().__init__()
        self.gated = GatedOutput(attention.qkv)
        self.attention, self.width, self.copies = attention, width, 3 * attention.heads
        attention.qkv = self.gated  # type: ignore[assignment]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mixed = torch.zeros_like(x)
        for share, kept in zip(self.width.shares(), self.width.kept, strict=True):
            self.gated.gate = kept.repeat(self.copies)
            mixed = mixed + share * self.attention(x, mask)
        return mixed


def search_widths(
    model: nn.Module, batches: Sequence[Tensor], scale: int, steps: int, rate: float = 2e-4
) -> list[tuple[int, int]]:
    """(dimensions of a head, hidden units) of each block.

    Shares of the widths learn on one half of the ``batches`` (NCHW in [0, 1], at least 2), weights on the other, in
    turns, ``steps`` times.  ``model`` stays as it is; torch's generator is drawn from, for the dual network.
    """
    student = copy.deepcopy(model).requires_grad_(True).train()
    weights = list(student.parameters())
    searched: list[tuple[Width, Width]] = []
    for block in swin_blocks(student).values():
        head, hidden = Width(head_size(block.attn)), Width(hidden_size(block))
        searched.append((head, hidden))
        block.attn = MixedAttention(block.attn, head)  # type: ignore[assignment]
        block.mlp.fc2 = GatedInput(block.mlp.fc2, hidden)  # type: ignore[assignment]
    dual = Dual(scale, batches[0].shape[1]).to(batches[0])
    weights += dual.parameters()
    shares = [width.logits for pair in searched for width in pair]
    with torch.no_grad():
        pairs = [(low, model(low)) for low in batches]
    turns = (
        (torch.optim.Adam(shares, TRAVEL / max(steps, 1), weight_decay=1e-3), shares, pairs[1::2]),
        (torch.optim.Adam(weights, rate), weights, pairs[::2]),
    )
    for step in range(steps):
        for optimizer, learned, half in turns:
            low, wanted = half[step % len(half)]
            picture = student(low)
            loss = F.l1_loss(picture, wanted) + DUAL * dual.distance(picture, low)
            for parameter, grad in zip(learned, torch.autograd.grad(loss, learned), strict=True):
                parameter.grad = grad
            nn.utils.clip_grad_norm_(learned, 5)
            optimizer.step()
    return [(head.best(), hidden.best()) for head, hidden in searched]


def select_channels(model: nn.Module, batches: Sequence[Tensor], widths: Sequence[tuple[int, int]]) -> list[Channels]:
    """Which channels stay in each block: those whose columns of the reading layer (attention's projection, the second
    of the MLP) had the largest gradient when they were chosen.

    All columns are 0 at first.  In each of `ROUNDS` rounds, of one batch, every layer gets back the next of them; the
    loss has the distance of these layers' outputs to the full-precision ones besides.
    """
    student = copy.deepcopy(model).requires_grad_(False).eval()
    units = [
        unit
        for (name, block), (head, hidden) in zip(swin_blocks(student).items(), widths, strict=True)
        for unit in (
            GrowingLinear(f"{name}.attn.proj", block.attn.proj, block.attn.heads, head),
            GrowingLinear(f"{name}.mlp.fc2", block.mlp.fc2, 1, hidden),
        )
    ]
    names = [unit.name for unit in units]
    for done in range(1, ROUNDS + 1):
        low = batches[done % len(batches)]
        with torch.no_grad():
            picture, *wanted = outputs_of(model, low, names)
        ours, *found = outputs_of(student, low, names)
        loss = F.l1_loss(ours, picture)
        for theirs, output in zip(wanted, found, strict=True):
            loss = loss + F.mse_loss(output, theirs)
        loss.backward()  # type: ignore[no-untyped-call]
        for unit in units:
            unit.grow(done / ROUNDS)
    chosen = [unit.chosen.nonzero().flatten() for unit in units]
    return [Channels(head, hidden) for head, hidden in zip(chosen[::2], chosen[1::2], strict=True)]


class GrowingLinear:
    """A linear that starts without columns and gets them back, those of one channel in all ``heads`` together."""

    def __init__(self, name: str, linear: nn.Linear, heads: int, width: int) -> None:
        self.name, self.linear, self.heads, self.width = name, linear, heads, width
        self.full = linear.weight.detach().clone()
        self.chosen = torch.zeros(linear.in_features // heads, dtype=torch.bool, device=self.full.device)
        linear.weight.requires_grad_(True).data.zero_()

    def grow(self, share: float) -> None:
        """Channels of the largest gradients come back until there are ``share`` of the width."""
        grad = self.linear.weight.grad
        assert grad is not None
        size = grad.abs().sum(0).view(self.heads, -1).sum(0).masked_fill(self.chosen, -1)
        missing = round(share * self.width) - int(self.chosen.sum())
        self.chosen[largest(size, missing)] = True
        self.linear.weight.data = self.full * self.chosen.repeat(self.heads)
        self.linear.weight.grad = None
