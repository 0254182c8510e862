"""HiT-SRF, a hierarchical transformer (HiT-SR: Zhang et al., ECCV 2024), in plain torch.

bitsr does not know this network: it stands for one of your own.  The state dict has the keys of the authors'
checkpoints (SRFormer-light with hierarchical windows and spatial-channel correlation).  Two things are there for
compression, and both are optional: products of feature maps are modules (`MatMul`), so that their operands are found
and quantized, and linears that read no picture are of a class of their own (`Constant`), so that they are left alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.parts.matmul import MatMul

RGB_MEAN = (0.4488, 0.4371, 0.4040)
BASE = 8  # the window of SRFormer-light; larger windows are correlated with a BASE x BASE summary of themselves
WINDOWS = (4, 8, 16, 32, 48, 64)  # of the blocks of a group, in LR pixels


class Constant(nn.Linear):
    """A linear layer that compression does not replace: it takes `nn.Linear` itself, not what derives from it."""


def on_map(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution on a channels-last map."""
    return layer(x.movedim(-1, 1)).movedim(1, -1)


def mirror(x: Tensor, axis: int, multiple: int) -> Tensor:
    """Reflect at the end, as often as needed, to a multiple of ``multiple``."""
    size = x.shape[axis]
    period = max(1, 2 * size - 2)
    place = torch.arange(-(-size // multiple) * multiple, device=x.device) % period
    return x.index_select(axis, torch.minimum(place, period - place).clamp_max(size - 1))


def split_windows(x: Tensor, side: int) -> Tensor:
    """(n, h, w, c) -> (n * windows, side * side, c)."""
    cells = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
    return cells.flatten(3, 4).flatten(0, 2)


def join_windows(x: Tensor, side: int, height: int, width: int) -> Tensor:
    """Inverse of `split_windows` for maps of height x width."""
    cells = x.unflatten(1, (side, side)).unflatten(0, (-1, height // side, width // side))
    return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class DualFeatures(nn.Module):
    """Dual feature extraction: a spatial branch gates a pointwise one.  NCHW."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        narrow = dim // 5
        self.conv = nn.Sequential(
            nn.Conv2d(dim, narrow, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(narrow, narrow, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(narrow, dim, 1),
        )  # fmt: skip
        self.linear = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.linear(x)


class PositionBias(nn.Module):
    """A small network turns the offset between two tokens into one bias per head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.pos_proj = Constant(2, width)
        self.pos1, self.pos2, self.pos3 = (
            nn.Sequential(nn.LayerNorm(width), nn.ReLU(), Constant(width, out)) for out in (width, width, heads)
        )

    def forward(self, window: int, base: int) -> Tensor:
        """Mean bias between each token and the tokens of each cell: (heads, window**2, base**2).

        A cell has (window / base)**2 tokens.  The mean over a cell depends on the distance to its corner alone, hence
        is a box filter over the table of all offsets.
        """
        cell = window // base
        weight = self.pos_proj.weight
        offsets = torch.arange(1 - window, window, device=weight.device, dtype=weight.dtype)
        grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
        table = self.pos3(self.pos2(self.pos1(self.pos_proj(grid)))).movedim(-1, 0)
        means = F.avg_pool2d(table, cell, stride=1)
        tokens, corners = (torch.arange(0, window, step, device=weight.device) for step in (1, cell))
        place = tokens[:, None] - corners + window - cell
        return means[:, place[:, None, :, None], place[None, :, None, :]].flatten(3, 4).flatten(1, 2)


class Correlation(nn.Module):
    """Spatial-channel correlation in windows: linear in the window's area, without softmax.

    Half of the channels are queries, the other half values.  Spatial: each token with the summary of its window, per
    head.  Channel: each channel of the queries with each of the values.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.base = heads, window, min(window, BASE)
        self.qv = DualFeatures(dim)
        self.spatial_linear = nn.Linear((window // self.base) ** 2, 1)
        self.pos = PositionBias(dim // 4 // 4, heads)
        self.proj = nn.Linear(dim, dim)
        self.spatial_scores, self.spatial_values = MatMul(), MatMul()
        self.channel_scores, self.channel_values = MatMul(), MatMul()

    def summary(self, v: Tensor) -> Tensor:
        """(n, heads, window**2, d) -> (n, heads, base**2, d): one weighted sum over the tokens of each cell."""
        cell = (self.base, self.window // self.base)
        cells = v.unflatten(2, (*cell, *cell)).permute(0, 1, 2, 4, 6, 3, 5)
        return self.spatial_linear(cells.flatten(5, 6)).squeeze(-1).flatten(2, 3)

    def spatial(self, q: Tensor, v: Tensor) -> Tensor:
        """q, v: (n, tokens, heads, d)."""
        q, v = q.transpose(1, 2), self.summary(v.transpose(1, 2))
        scores = self.spatial_scores(q, v.mT) / q.shape[-1] + self.pos(self.window, self.base)
        return self.spatial_values(scores, v).transpose(1, 2).flatten(2)

    def channel(self, q: Tensor, v: Tensor) -> Tensor:
        """q, v: (n, tokens, dim / 2)."""
        scores = self.channel_scores(q.mT, v) / q.shape[1]
        return self.channel_values(scores, v.mT).mT

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = mirror(mirror(x, 1, self.window), 2, self.window)
        windows = split_windows(on_map(self.qv, x), self.window)
        q, v = windows.unflatten(-1, (2, self.heads, -1)).unbind(2)
        y = torch.cat([self.spatial(q, v), self.channel(q.flatten(2), v.flatten(2))], dim=-1)
        return self.proj(join_windows(y, self.window, *x.shape[1:3])[:, :height, :width])


class FeedForward(nn.Module):
    """Two linears with a depthwise convolution between them.  Channels last."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        depthwise = nn.Sequential(nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden), nn.GELU())
        self.dwconv = nn.ModuleDict({"depthwise_conv": depthwise})

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        return self.fc2(x + on_map(self.dwconv["depthwise_conv"], x))


class Block(nn.Module):
    """Correlation and feed-forward, each normalized before it joins the shortcut."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.correlation, self.norm1 = Correlation(dim, heads, window), nn.LayerNorm(dim)
        self.mlp, self.norm2 = FeedForward(dim, 2 * dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.correlation(x))
        return x + self.norm2(self.mlp(x))


class Group(nn.Module):
    """Blocks with growing windows and a convolution, around a shortcut."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.residual_group = nn.ModuleDict({"blocks": nn.Sequential(*(Block(dim, heads, w) for w in WINDOWS))})
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + on_map(self.conv, self.residual_group["blocks"](x))


class HiTSRF(nn.Module):
    """RGB -> RGB in [0, 1], NCHW; any size."""

    mean: Tensor

    def __init__(self, scale: int = 4, dim: int = 60, heads: int = 6, groups: int = 4) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(3, dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(dim)})
        self.layers = nn.Sequential(*(Group(dim, heads) for _ in range(groups)))
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        self.upsample = nn.Sequential(nn.Conv2d(dim, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first(x - self.mean)
        tokens = self.patch_embed["norm"](first.movedim(1, -1))
        deep = self.conv_after_body(self.norm(self.layers(tokens)).movedim(-1, 1))
        return self.upsample(first + deep) + self.mean


def load_hit_srf(path: str | Path, scale: int = 4) -> HiTSRF:
    """The network with the authors' weights, in eval mode."""
    module = HiTSRF(scale)
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["params"])
    return module.eval()
