"""HAT: hybrid attention transformer (Chen et al., CVPR 2023), with the official state-dict keys (XPixelGroup/HAT).

Feature maps are NCHW in the convolutions and BxHxWxC in the transformer; windows are B' x tokens x C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.blocks import pixel_shuffle_tail, tail_scale
from bitsr.archs.network import Config, Network, StateDict, color_of, count, shape
from bitsr.archs.swinir import (
    BLOCK,
    RGB_MEAN,
    Mlp,
    PatchEmbed,
    merge,
    mlp_ratio,
    partition,
    relative_position_index,
    shift_mask,
    window_of,
)  # fmt: skip
from bitsr.descriptor import Descriptor
from bitsr.errors import CheckpointError
from bitsr.parts.folding import Fold
from bitsr.parts.matmul import MatMul


def overlap_index(window: int, overlap: int) -> Tensor:
    """window**2 x overlap**2 indices into the bias table of OCAB, which has (window + overlap - 1)**2 rows.

    The official code adds window - overlap + 1 to the offsets of keys against queries, which makes some indices
    negative; Python counts those from the end.
    """
    rows = window + overlap - 1
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    v, u = torch.meshgrid(torch.arange(overlap), torch.arange(overlap), indexing="ij")
    dy, dx = (b.flatten()[None] - a.flatten()[:, None] + window - overlap + 1 for a, b in ((y, v), (x, u)))
    return dy * rows + dx


class Attention(nn.Module):
    """softmax(scale q k^T + bias) v; queries, keys and values are B' x tokens x C."""

    def __init__(self, dim: int, heads: int, table_rows: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.matmul_qk = MatMul()
        self.matmul_av = MatMul(softmax=True)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """``index``: queries x keys, rows of the bias table; ``mask``: windows x queries x keys, is added."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = self.matmul_qk(q * self.scale, k.transpose(-2, -1))
        scores = scores + self.relative_position_bias_table[index].permute(2, 0, 1)
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        return self.matmul_av(scores.softmax(dim=-1), v).transpose(1, 2).flatten(2)


class WindowAttention(Attention):
    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)
        return self.proj(self.attend(q, k, v, index, mask))


class ChannelAttention(nn.Module):
    """A gate per channel from the mean over the whole picture (Zhang et al., RCAN, ECCV 2018)."""

    def __init__(self, dim: int, squeeze_factor: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, dim // squeeze_factor, 1), nn.ReLU(),
            nn.Conv2d(dim // squeeze_factor, dim, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class CAB(nn.Module):
    """Channel attention block."""

    def __init__(self, dim: int, compress_ratio: int, squeeze_factor: int) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(dim, dim // compress_ratio, 3, 1, 1), nn.GELU(),
            nn.Conv2d(dim // compress_ratio, dim, 3, 1, 1), ChannelAttention(dim, squeeze_factor),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.cab(x)


class HAB(nn.Module):
    """Hybrid attention block: attention in (shifted) windows and, beside it on the same norm, a CAB; then the MLP."""

    def __init__(
        self, dim: int, heads: int, window: int, shift: int, compress_ratio: int, squeeze_factor: int,
        conv_scale: float, ratio: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.window, self.shift, self.conv_scale = window, shift, conv_scale
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, (2 * window - 1) ** 2)
        self.conv_block = CAB(dim, compress_ratio, squeeze_factor)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * ratio))

    def forward(self, x: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        y = self.norm1(x)
        conv = self.conv_block(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = y.roll((-self.shift, -self.shift), dims=(1, 2))
        y = self.attn(partition(y, self.window), index, mask if self.shift else None)
        y = merge(y, self.window, h, w).roll((self.shift, self.shift), dims=(1, 2))
        x = x + y + conv * self.conv_scale
        return x + self.mlp(self.norm2(x))


class OCAB(Attention):
    """Overlapping cross-attention block: queries of a window meet the keys and values of a wider one, zero outside the
    picture; then the MLP."""

    def __init__(self, dim: int, heads: int, window: int, overlap: int, ratio: float) -> None:
        super().__init__(dim, heads, (window + overlap - 1) ** 2)
        self.window, self.margin = window, (overlap - window) // 2
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * ratio))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=3)
        y = self.attend(partition(q, self.window), self.widened(k), self.widened(v), index)
        x = x + self.proj(merge(y, self.window, h, w))
        return x + self.mlp(self.norm2(x))

    def widened(self, x: Tensor) -> Tensor:
        """B x H x W x C -> (B * windows) x overlap**2 x C."""
        margin, side = self.margin, self.window + 2 * self.margin
        x = F.pad(x, (0, 0, margin, margin, margin, margin))
        windows = x.unfold(1, side, self.window).unfold(2, side, self.window)  # B x rows x columns x C x side x side
        return windows.permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(0, 2)


class AttentionBlocks(nn.Module):
    def __init__(self, blocks: Sequence[HAB], overlap_attn: OCAB) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.overlap_attn = overlap_attn

    def forward(self, x: Tensor, index: Tensor, index_overlap: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, index, mask)
        return self.overlap_attn(x, index_overlap)


class RHAG(nn.Module):
    """Residual hybrid attention group."""

    def __init__(self, residual_group: AttentionBlocks, dim: int) -> None:
        super().__init__()
        self.residual_group = residual_group
        self.conv = nn.Conv2d(dim, dim, 3, 1, 1)

    def forward(self, x: Tensor, index: Tensor, index_overlap: Tensor, mask: Tensor) -> Tensor:
        y = self.residual_group(x, index, index_overlap, mask)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class HAT(nn.Module):
    """RGB -> RGB in [0, 1], NCHW.  The picture is reflect-padded to a multiple of the window, the output cropped.

    The published networks have windows of 16, ``overlap_ratio`` 0.5 and ``conv_scale`` 0.01; HAT-S has 144 channels
    and ratios of 24, HAT 180 and 3 (``squeeze_factor`` 30).
    """

    mean: Tensor
    relative_position_index_SA: Tensor
    relative_position_index_OCA: Tensor
    blocks = (HAB, OCAB)
    residual_groups = (AttentionBlocks,)

    def __init__(
        self, upscale: int = 4, in_chans: int = 3, window_size: int = 16, compress_ratio: int = 24,
        squeeze_factor: int = 24, conv_scale: float = 0.01, overlap_ratio: float = 0.5, img_range: float = 1.0,
        depths: Sequence[int] = (6,) * 6, embed_dim: int = 144, num_heads: Sequence[int] = (6,) * 6,
        mlp_ratio: float = 2.0, num_feat: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        overlap = window_size + int(window_size * overlap_ratio)
        if (overlap - window_size) % 2:
            raise ValueError(f"a window of {window_size} cannot grow to {overlap} by the same number on both sides")
        self.upscale, self.window_size, self.img_range = upscale, window_size, img_range
        mean = torch.tensor(RGB_MEAN) if in_chans == 3 else torch.zeros(in_chans)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("relative_position_index_SA", relative_position_index(window_size))
        self.register_buffer("relative_position_index_OCA", overlap_index(window_size, overlap))
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, 1, 1)
        self.patch_embed = PatchEmbed(embed_dim)
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [
                HAB(embed_dim, heads, window_size, i % 2 * (window_size // 2), compress_ratio, squeeze_factor,
                    conv_scale, mlp_ratio)
                for i in range(depth)
            ]  # fmt: skip
            overlap_attn = OCAB(embed_dim, heads, window_size, overlap, mlp_ratio)
            self.layers.append(RHAG(AttentionBlocks(blocks, overlap_attn), embed_dim))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, 1, 1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, num_feat, 3, 1, 1), nn.LeakyReLU(0.01))
        self.upsample = nn.Sequential(*pixel_shuffle_tail(upscale, num_feat))
        self.conv_last = nn.Conv2d(num_feat, in_chans, 3, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def folds(self) -> list[Fold]:
        """Where a division of a layer's input channels can be moved into the layer before (exactly).

        Not into ``norm1`` of a HAB, which the attention and the CAB read.
        """
        width = self.norm.normalized_shape[0]
        found = []
        for i, layer in enumerate(self.layers):
            group = f"layers.{i}.residual_group"
            for j in range(len(layer.residual_group.blocks)):  # type: ignore[union-attr, arg-type]
                block = f"{group}.blocks.{j}"
                found.append(Fold(f"{block}.norm2", f"{block}.mlp.fc1"))
                found.append(Fold(f"{block}.attn.qkv", f"{block}.attn.proj", rows=(2 * width, 3 * width)))
            block = f"{group}.overlap_attn"
            found += [
                Fold(f"{block}.norm1", f"{block}.qkv"),
                Fold(f"{block}.norm2", f"{block}.mlp.fc1"),
                Fold(f"{block}.qkv", f"{block}.proj", rows=(2 * width, 3 * width)),
            ]
        return found

    def body(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed.norm(x.permute(0, 2, 3, 1))
        h, w = x.shape[2:]
        mask = shift_mask(h, w, self.window_size, self.window_size // 2).to(x)
        for layer in self.layers:
            tokens = layer(tokens, self.relative_position_index_SA, self.relative_position_index_OCA, mask)
        return self.norm(tokens).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = F.pad(x, (0, -w % self.window_size, 0, -h % self.window_size), mode="reflect")
        first = self.conv_first((x - self.mean) * self.img_range)
        y = self.conv_after_body(self.body(first)) + first
        y = self.conv_last(self.upsample(self.conv_before_upsample(y)))
        y = y / self.img_range + self.mean
        return y[:, :, : h * self.upscale, : w * self.upscale]


def detect(state: StateDict) -> Config | None:
    """Every hyper-parameter but ``conv_scale`` and ``img_range``, which are the same in all releases."""
    first, overlapping = BLOCK.format(0, 0), "layers.0.residual_group.overlap_attn."
    tables = {key + "relative_position_bias_table" for key in (first + "attn.", overlapping)}
    if not tables | {first + "conv_block.cab.0.weight"} <= set(state):
        return None
    dim, channels = shape(state, "conv_first.weight")[:2]
    layers = count(state, "layers.{}.residual_group.overlap_attn.norm1.weight")
    window = window_of(state, first + "attn.relative_position_bias_table")
    rows = shape(state, overlapping + "relative_position_bias_table", 2)[0]
    overlap = math.isqrt(rows) + 1 - window
    if (window + overlap - 1) ** 2 != rows or overlap < window:
        raise CheckpointError(f"{overlapping}relative_position_bias_table has {rows} rows, too odd for a window")
    return {
        "upscale": tail_scale(state, "upsample"),
        "in_chans": channels,
        "window_size": window,
        "compress_ratio": dim // shape(state, first + "conv_block.cab.0.weight")[0],
        "squeeze_factor": dim // shape(state, first + "conv_block.cab.3.attention.1.weight")[0],
        "overlap_ratio": (overlap - window) / window,
        "depths": tuple(count(state, BLOCK.format(i, "{}") + "norm1.weight") for i in range(layers)),
        "embed_dim": dim,
        "num_heads": tuple(
            shape(state, BLOCK.format(i, 0) + "attn.relative_position_bias_table", 2)[1] for i in range(layers)
        ),
        "mlp_ratio": mlp_ratio(shape(state, first + "mlp.fc1.weight", 2)[0], dim),
        "num_feat": shape(state, "conv_before_upsample.0.weight")[0],
    }


def descriptor(module: HAT) -> Descriptor:
    """The channel attention sees the whole picture; ``reach`` is two windows, for the attention."""
    window = module.window_size
    return Descriptor(
        "hat",
        module.upscale,
        color_of(module.conv_first),
        multiple=window,
        min_size=window // 2 + 1,  # reflect padding to one window needs that much picture
        tiling="global",
        reach=2 * window,
    )


NETWORK = Network(
    "hat",
    HAT,
    detect,
    descriptor,
    range_keyword="img_range",
    derived=("relative_position_index_SA", "relative_position_index_OCA"),
)
