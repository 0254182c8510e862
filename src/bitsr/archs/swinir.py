"""SwinIR (Liang et al., ICCV workshops 2021) in all its variants, with the official state-dict keys.

Feature maps are NCHW in the convolutions and BxHxWxC in the transformer; windows are B' x tokens x C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.blocks import pixel_shuffle_tail, tail_scale
from bitsr.archs.network import Config, Network, StateDict, color_of, count, shape, shuffle_scale
from bitsr.descriptor import Descriptor
from bitsr.errors import CheckpointError
from bitsr.parts.folding import Fold
from bitsr.parts.matmul import MatMul

RGB_MEAN = (0.4488, 0.4371, 0.4040)


def partition(x: Tensor, window: int) -> Tensor:
    """B x H x W x C -> (B * windows) x window**2 x C."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def merge(windows: Tensor, window: int, h: int, w: int) -> Tensor:
    """Inverse of :func:`partition`."""
    x = windows.view(-1, h // window, w // window, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, h, w, windows.shape[-1])


def relative_position_index(window: int) -> Tensor:
    """window**2 x window**2 indices into the bias table: (dy + window - 1) * (2 window - 1) + dx + window - 1."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def shift_mask(h: int, w: int, window: int, shift: int) -> Tensor:
    """windows x tokens x tokens: what is added to scores, -inf where two tokens of a cyclically shifted window were no
    neighbours, else 0.

    The official -100 gives the same outputs through weights of 1e-44, on which CPUs compute many times slower.
    """

    def bands(n: int) -> Tensor:
        i = torch.arange(n)
        return (i >= n - window).int() + (i >= n - shift).int()

    regions = bands(h)[:, None] * 3 + bands(w)[None, :]
    ids = partition(regions[None, :, :, None].float(), window).squeeze(-1)
    return torch.where(ids[:, :, None] == ids[:, None, :], 0.0, -torch.inf)


class WindowAttention(nn.Module):
    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.matmul_qk = MatMul()
        self.matmul_av = MatMul(softmax=True)

    def position_bias(self) -> Tensor:
        """heads x tokens x tokens."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.matmul_qk(q * self.scale, k.transpose(-2, -1)) + self.position_bias()
        if mask is not None:
            windows = mask.shape[0]
            scores = (scores.view(-1, windows, self.heads, n, n) + mask[None, :, None]).view(b, self.heads, n, n)
        attended = self.matmul_av(scores.softmax(dim=-1), v)
        return self.proj(attended.transpose(1, 2).reshape(b, n, -1))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """LN -> (shifted) window attention -> add -> LN -> MLP -> add, on B x H x W x C."""

    attn_mask: Tensor | None

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float, img_size: int) -> None:
        super().__init__()
        if img_size <= window:  # one window covers the training picture: the official code then does not shift
            window, shift = img_size, 0
        self.window, self.shift, self.img_size = window, shift, img_size
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        # only for the official keys
        self.register_buffer("attn_mask", shift_mask(img_size, img_size, window, shift).clamp(-100) if shift else None)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        y = self.norm1(x)
        if self.shift:
            y = y.roll((-self.shift, -self.shift), dims=(1, 2))
        y = merge(self.attn(partition(y, self.window), mask if self.shift else None), self.window, h, w)
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class BasicLayer(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float, img_size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, 0 if i % 2 == 0 else window // 2, mlp_ratio, img_size) for i in range(depth)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x


def residual_conv(dim: int, kind: str) -> nn.Module:
    """The convolution that closes a residual group: one 3x3, or 3x3 -> 1x1 -> 3x3 at a quarter of the width."""
    if kind == "1conv":
        return nn.Conv2d(dim, dim, 3, 1, 1)
    if kind == "3conv":
        return nn.Sequential(
            nn.Conv2d(dim, dim // 4, 3, 1, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(dim // 4, dim // 4, 1, 1, 0), nn.LeakyReLU(0.2),
            nn.Conv2d(dim // 4, dim, 3, 1, 1),
        )  # fmt: skip
    raise ValueError(f"resi_connection is '1conv' or '3conv', got {kind!r}")


class RSTB(nn.Module):
    """Residual Swin transformer block: a group of Swin blocks, a convolution, a skip."""

    def __init__(
        self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float, img_size: int, kind: str
    ) -> None:
        super().__init__()
        self.residual_group = BasicLayer(dim, depth, heads, window, mlp_ratio, img_size)
        self.conv = residual_conv(dim, kind)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.conv(self.residual_group(x, mask).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + y


class PatchEmbed(nn.Module):
    """Only the norm remains of patch embedding with patches of 1x1; the class holds its official key."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)


class SwinIR(nn.Module):
    """NCHW -> NCHW.  ``upsampler``: 'pixelshuffledirect' (light), 'pixelshuffle' (classical), 'nearest+conv' (real) or
    '' (denoising, artifact removal).  The input is reflect-padded to a multiple of the window, the output cropped."""

    mean: Tensor
    blocks = (SwinBlock,)  # what block-wise reconstruction works on
    residual_groups = (BasicLayer,)  # whose outputs feature losses compare

    def __init__(
        self, upscale: int = 4, in_chans: int = 3, img_size: int = 64, window_size: int = 8, img_range: float = 1.0,
        depths: Sequence[int] = (6, 6, 6, 6), embed_dim: int = 60, num_heads: Sequence[int] = (6, 6, 6, 6),
        mlp_ratio: float = 2.0, upsampler: str = "pixelshuffledirect", resi_connection: str = "1conv",
        num_feat: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.upscale, self.window_size, self.img_range, self.upsampler = upscale, window_size, img_range, upsampler
        mean = torch.tensor(RGB_MEAN) if in_chans == 3 else torch.zeros(in_chans)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, 1, 1)
        self.patch_embed = PatchEmbed(embed_dim)
        self.layers = nn.ModuleList(
            RSTB(embed_dim, depth, heads, window_size, mlp_ratio, img_size, resi_connection)
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_conv(embed_dim, resi_connection)
        if upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(
                nn.Conv2d(embed_dim, upscale**2 * in_chans, 3, 1, 1), nn.PixelShuffle(upscale)
            )
        elif upsampler == "pixelshuffle":
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, num_feat, 3, 1, 1), nn.LeakyReLU(0.01))
            self.upsample = nn.Sequential(*pixel_shuffle_tail(upscale, num_feat))
            self.conv_last = nn.Conv2d(num_feat, in_chans, 3, 1, 1)
        elif upsampler == "nearest+conv":
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, num_feat, 3, 1, 1), nn.LeakyReLU(0.01))
            self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
            if upscale == 4:
                self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
            self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
            self.conv_last = nn.Conv2d(num_feat, in_chans, 3, 1, 1)
        elif upsampler == "":
            self.conv_last = nn.Conv2d(embed_dim, in_chans, 3, 1, 1)
        else:
            raise ValueError(f"unknown upsampler {upsampler!r}")
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def folds(self) -> list[Fold]:
        """Where a division of a layer's input channels can be moved into the layer before (exactly)."""
        found = []
        for i, layer in enumerate(self.layers):
            for j in range(len(layer.residual_group.blocks)):  # type: ignore[union-attr, arg-type]
                block = f"layers.{i}.residual_group.blocks.{j}"
                width = self.norm.normalized_shape[0]
                found += [
                    Fold(f"{block}.norm1", f"{block}.attn.qkv"),
                    Fold(f"{block}.norm2", f"{block}.mlp.fc1"),
                    Fold(f"{block}.attn.qkv", f"{block}.attn.proj", rows=(2 * width, 3 * width)),
                ]
        return found

    def body(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed.norm(x.permute(0, 2, 3, 1))
        mask = shift_mask(x.shape[2], x.shape[3], self.window_size, self.window_size // 2).to(x)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return self.norm(tokens).permute(0, 3, 1, 2)

    def head(self, x: Tensor) -> Tensor:
        """The deep features with the long skip, before upsampling."""
        first = self.conv_first(x)
        return self.conv_after_body(self.body(first)) + first

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = F.pad(x, (0, -w % self.window_size, 0, -h % self.window_size), mode="reflect")
        x = (x - self.mean) * self.img_range
        if self.upsampler == "pixelshuffledirect":
            y = self.upsample(self.head(x))
        elif self.upsampler == "pixelshuffle":
            y = self.conv_last(self.upsample(self.conv_before_upsample(self.head(x))))
        elif self.upsampler == "nearest+conv":
            y = self.conv_before_upsample(self.head(x))
            y = F.leaky_relu(self.conv_up1(F.interpolate(y, scale_factor=2, mode="nearest")), 0.2)
            if self.upscale == 4:
                y = F.leaky_relu(self.conv_up2(F.interpolate(y, scale_factor=2, mode="nearest")), 0.2)
            y = self.conv_last(F.leaky_relu(self.conv_hr(y), 0.2))
        else:
            y = x + self.conv_last(self.head(x))
        y = y / self.img_range + self.mean
        return y[:, :, : h * self.upscale, : w * self.upscale]


BLOCK = "layers.{}.residual_group.blocks.{}."


def detect(state: StateDict) -> Config | None:
    """Every hyper-parameter but ``img_range``, for which the official releases are followed: 255 for artefact removal
    (the only networks with a window of 7), else 1."""
    first = BLOCK.format(0, 0)
    signature = ("attn.relative_position_bias_table", "attn.qkv.weight", "mlp.fc1.weight")
    if not {first + key for key in signature} <= set(state):
        return None
    if any(".overlap_attn." in key or ".conv_block." in key for key in state):  # HAT has all that and more
        return None
    dim, channels = shape(state, "conv_first.weight")[:2]
    layers = count(state, "layers.{}.residual_group.blocks.0.norm1.weight")
    window = window_of(state, first + "attn.relative_position_bias_table")
    upsampler, upscale = _upsampling(state, channels)
    config: Config = {
        "upscale": upscale,
        "in_chans": channels,
        "img_size": _img_size(state, window),
        "window_size": window,
        "img_range": 255.0 if window == 7 and not upsampler else 1.0,
        "depths": tuple(count(state, BLOCK.format(i, "{}") + "norm1.weight") for i in range(layers)),
        "embed_dim": dim,
        "num_heads": tuple(
            shape(state, BLOCK.format(i, 0) + "attn.relative_position_bias_table", 2)[1] for i in range(layers)
        ),
        "mlp_ratio": mlp_ratio(shape(state, first + "mlp.fc1.weight", 2)[0], dim),
        "upsampler": upsampler,
        "resi_connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
    }
    if "conv_before_upsample.0.weight" in state:
        config["num_feat"] = shape(state, "conv_before_upsample.0.weight")[0]
    return config


def window_of(state: StateDict, key: str) -> int:
    """The window of bias table ``key``, which has (2 window - 1)**2 rows."""
    rows = shape(state, key, 2)[0]
    window = (math.isqrt(rows) + 1) // 2
    if (2 * window - 1) ** 2 != rows:
        raise CheckpointError(f"{key} has {rows} rows, which belong to no square window")
    return window


def mlp_ratio(hidden: int, dim: int) -> float:
    """The ``mlp_ratio`` with int(dim * ratio) == hidden."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def _upsampling(state: StateDict, channels: int) -> tuple[str, int]:
    """(upsampler, scale) from the convolutions after the body."""
    if "conv_up1.weight" in state:
        return "nearest+conv", 4 if "conv_up2.weight" in state else 2
    if "conv_before_upsample.0.weight" in state:
        return "pixelshuffle", tail_scale(state, "upsample")
    if "upsample.0.weight" in state:
        return "pixelshuffledirect", shuffle_scale(state, "upsample.0.weight", channels)
    return "", 1


def _img_size(state: StateDict, window: int) -> int:
    """Side of the training pictures. The shift masks tell it: one per window. Index tables without masks mean that one
    window covers the picture; with neither (weights without buffers) it does not matter and eight windows are taken."""
    masks = [value for key, value in state.items() if key.endswith(".attn_mask")]
    if masks:
        side = math.isqrt(len(masks[0]))
        if side**2 != len(masks[0]):
            raise CheckpointError(f"attn_mask is for {len(masks[0])} windows, which form no square picture")
        return side * window
    shifts = BLOCK.format(0, 1) + "norm1.weight" in state
    indices = BLOCK.format(0, 0) + "attn.relative_position_index" in state
    return window if shifts and indices else 8 * window


def descriptor(module: SwinIR) -> Descriptor:
    """Attention reaches further with every shifted block, with ever less weight: two windows of overlap on each side,
    as much as the official tiling has, leave differences far below a grey level."""
    window = module.window_size
    return Descriptor(
        "swinir",
        module.upscale,
        color_of(module.conv_first),
        multiple=window,
        min_size=window // 2 + 1,  # reflect padding to one window needs that much picture
        tiling="window",
        reach=2 * window,
    )


NETWORK = Network(
    "swinir",
    SwinIR,
    detect,
    descriptor,
    range_keyword="img_range",
    derived=("relative_position_index", "attn_mask"),
)
