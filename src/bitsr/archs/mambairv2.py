"""MambaIRv2-light (Guo et al., "MambaIRv2: Attentive State Space Restoration", CVPR 2025), with the official keys.

Feature maps are NCHW in the convolutions, B x H x W x C elsewhere; a scan sees B x HW x C.  The official forward draws
Gumbel noise for its router and sorts tokens unstably even in evaluation, so no two runs agree.  Here the class of the
largest score wins, the first one of equals, and tokens of a class keep their order; noise is an option of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.archs.network import Config, Network, StateDict, color_of, count, shape, shuffle_scale
from bitsr.archs.selective_scan import selective_scan
from bitsr.archs.swinir import (
    RGB_MEAN,
    PatchEmbed,
    merge,
    mlp_ratio,
    partition,
    relative_position_index,
    residual_conv,
    shift_mask,
    window_of,
)
from bitsr.descriptor import Descriptor
from bitsr.parts.folding import Fold
from bitsr.parts.matmul import MatMul


class Gate(nn.Module):
    """The first half of the channels times a depthwise convolution of the second."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv2d(dim, dim, 5, 1, 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return first * self.conv(self.norm(second).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GatedMLP(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.sg = Gate(hidden // 2)
        self.fc2 = nn.Linear(hidden // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.sg(F.gelu(self.fc1(x))))


class WindowAttention(nn.Module):
    """Attention in windows of tokens that are queries, keys and values already."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.matmul_qk = MatMul()
        self.matmul_av = MatMul(softmax=True)

    def forward(self, qkv: Tensor, position_index: Tensor, mask: Tensor | None) -> Tensor:
        """B' x tokens x 3C -> B' x tokens x C."""
        b, n, c3 = qkv.shape
        q, k, v = qkv.view(b, n, 3, self.heads, c3 // 3 // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[position_index].permute(2, 0, 1)
        scores = self.matmul_qk(q * self.scale, k.transpose(-2, -1)) + bias
        if mask is not None:
            scores = (scores.view(-1, len(mask), self.heads, n, n) + mask[None, :, None]).view(b, self.heads, n, n)
        attended = self.matmul_av(scores.softmax(dim=-1), v)
        return self.proj(attended.transpose(1, 2).reshape(b, n, c3 // 3))


class SelectiveScan(nn.Module):
    """The scan with inputs of its own making: delta, B and C are linear in the tokens, C is prompted by their class."""

    def __init__(self, dim: int, d_state: int) -> None:
        super().__init__()
        self.dt_rank, self.d_state = math.ceil(dim / 16), d_state
        self.x_proj_weight = nn.Parameter(torch.empty(1, self.dt_rank + 2 * d_state, dim))
        self.dt_projs_weight = nn.Parameter(torch.empty(1, dim, self.dt_rank))
        steps = torch.exp(torch.empty(1, dim).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_projs_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # softplus gives the steps back
        self.A_logs = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(dim, 1))
        self.Ds = nn.Parameter(torch.ones(dim))
        nn.init.uniform_(self.x_proj_weight, -(dim**-0.5), dim**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """``x``: B x L x C in the order of the scan, ``prompt``: B x L x d_state, added to C place by place."""
        rank, b, c = F.linear(x, self.x_proj_weight[0]).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.softplus(F.linear(rank, self.dt_projs_weight[0], self.dt_projs_bias[0]))
        return selective_scan(x, delta, -self.A_logs.exp(), b, c + prompt, self.Ds)


class ASSM(nn.Module):
    """Attentive state-space module: a router gives each token a class, and the scan visits class after class.

    As the official code has it, only the tokens are sorted, their prompts are not: the k-th token of the scan meets
    the prompt of the k-th pixel.  Published weights are trained so.
    """

    def __init__(self, dim: int, d_state: int, num_tokens: int, inner_rank: int, hidden: int) -> None:
        super().__init__()
        self.selectiveScan = SelectiveScan(hidden, d_state)
        self.out_norm = nn.LayerNorm(hidden)
        self.out_proj = nn.Linear(hidden, dim)
        self.in_proj = nn.Sequential(nn.Conv2d(dim, hidden, 1, 1, 0))
        self.CPE = nn.Sequential(nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden))
        self.embeddingB = nn.Embedding(num_tokens, inner_rank)
        nn.init.uniform_(self.embeddingB.weight, -1 / num_tokens, 1 / num_tokens)
        self.route = nn.Sequential(nn.Linear(dim, dim // 3), nn.GELU(), nn.Linear(dim // 3, num_tokens))

    def prompts(self, embedding: nn.Embedding) -> Tensor:
        """What each class adds to C: classes x d_state."""
        return self.embeddingB.weight @ embedding.weight

    def routed(self, x: Tensor, prompts: Tensor, noise: bool) -> tuple[Tensor, Tensor]:
        """Class and prompt of every token, B x L and B x L x d_state, of tokens ``x`` (B x L x C).

        In training the gradient of a prompt reaches the router through the probabilities (straight-through).
        """
        scores = self.route(x)
        if self.training and noise:
            scores = scores + gumbel_noise(scores)
        classes = scores.argmax(-1)
        if not self.training:
            return classes, prompts[classes]
        soft = scores.softmax(-1)
        return classes, (F.one_hot(classes, len(prompts)) - soft.detach() + soft) @ prompts

    def forward(self, x: Tensor, embedding: nn.Embedding, noise: bool) -> Tensor:
        b, h, w, _ = x.shape
        classes, prompt = self.routed(x.flatten(1, 2), self.prompts(embedding), noise)
        y = self.in_proj(x.permute(0, 3, 1, 2))
        y = (y * torch.sigmoid(self.CPE(y))).flatten(2).transpose(1, 2)
        order = classes.argsort(dim=-1, stable=True)[..., None]
        scanned = self.selectiveScan(y.gather(1, order.expand_as(y)), prompt)
        y = torch.empty_like(scanned).scatter(1, order.expand_as(scanned), scanned)
        return self.out_proj(self.out_norm(y)).view(b, h, w, -1)


def gumbel_noise(scores: Tensor) -> Tensor:
    return -torch.empty_like(scores).exponential_().log()


class AttentiveLayer(nn.Module):
    """Window attention and a gated MLP, then the attentive scan and another one; on B x H x W x C."""

    def __init__(
        self, dim: int, d_state: int, heads: int, window: int, shift: int, inner_rank: int, num_tokens: int, hidden: int
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))
        self.scale1 = nn.Parameter(torch.full((dim,), 1e-4))
        self.scale2 = nn.Parameter(torch.full((dim,), 1e-4))
        self.wqkv = nn.Linear(dim, 3 * dim)
        self.win_mhsa = WindowAttention(dim, window, heads)
        self.assm = ASSM(dim, d_state, num_tokens, inner_rank, hidden)
        self.convffn1 = GatedMLP(dim, hidden)
        self.convffn2 = GatedMLP(dim, hidden)
        self.embeddingA = nn.Embedding(inner_rank, d_state)
        nn.init.uniform_(self.embeddingA.weight, -1 / inner_rank, 1 / inner_rank)

    def attended(self, x: Tensor, position_index: Tensor, mask: Tensor | None) -> Tensor:
        h, w = x.shape[1:3]
        qkv = self.wqkv(x)
        if self.shift:
            qkv = qkv.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = self.win_mhsa(partition(qkv, self.window), position_index, mask if self.shift else None)
        y = merge(windows, self.window, h, w)
        return y.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else y

    def forward(self, x: Tensor, position_index: Tensor, mask: Tensor, noise: bool) -> Tensor:
        y = x + self.attended(self.norm1(x), position_index, mask)
        x = x * self.scale1 + y + self.convffn1(self.norm2(y))
        y = x + self.assm(self.norm3(x), self.embeddingA, noise)
        return x * self.scale2 + y + self.convffn2(self.norm4(y))


class BasicBlock(nn.Module):
    def __init__(self, layers: Sequence[AttentiveLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, position_index: Tensor, mask: Tensor, noise: bool) -> Tensor:
        for layer in self.layers:
            x = layer(x, position_index, mask, noise)
        return x


class ASSB(nn.Module):
    """A group of layers, a convolution, a skip."""

    def __init__(self, layers: Sequence[AttentiveLayer], dim: int, kind: str) -> None:
        super().__init__()
        self.residual_group = BasicBlock(layers)
        self.conv = residual_conv(dim, kind)

    def forward(self, x: Tensor, position_index: Tensor, mask: Tensor, noise: bool) -> Tensor:
        y = self.residual_group(x, position_index, mask, noise)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MambaIRv2Light(nn.Module):
    """NCHW -> NCHW, of any size: the input is mirrored to a multiple of the window, the output cropped.

    ``routing_noise`` draws Gumbel noise for the router while the module is in training mode.
    """

    mean: Tensor
    relative_position_index_SA: Tensor
    blocks = (AttentiveLayer,)
    residual_groups = (BasicBlock,)
    floating = ("route", "CPE", "sg")  # parts that compression leaves alone: the router, and depthwise convolutions

    def __init__(
        self, upscale: int = 4, in_chans: int = 3, embed_dim: int = 48, d_state: int = 8,
        depths: Sequence[int] = (5, 5, 5, 5), num_heads: Sequence[int] = (4, 4, 4, 4), window_size: int = 16,
        inner_rank: int = 32, num_tokens: int = 64, mlp_ratio: float = 1.0, img_range: float = 1.0,
        resi_connection: str = "1conv", routing_noise: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.upscale, self.window_size, self.img_range, self.routing_noise = (
            upscale, window_size, img_range, routing_noise
        )  # fmt: skip
        mean = torch.tensor(RGB_MEAN) if in_chans == 3 else torch.zeros(in_chans)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("relative_position_index_SA", relative_position_index(window_size))
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, 1, 1)
        self.patch_embed = PatchEmbed(embed_dim)
        hidden = int(embed_dim * mlp_ratio)
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            group = [
                AttentiveLayer(
                    embed_dim, d_state, heads, window_size, (i % 2) * (window_size // 2), inner_rank, num_tokens, hidden
                )
                for i in range(depth)
            ]
            self.layers.append(ASSB(group, embed_dim, resi_connection))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_conv(embed_dim, resi_connection)
        self.upsample = nn.Sequential(nn.Conv2d(embed_dim, upscale**2 * in_chans, 3, 1, 1), nn.PixelShuffle(upscale))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def folds(self) -> list[Fold]:
        """Where a division of a layer's input channels can be moved into the layer before (exactly)."""
        found = []
        width = self.norm.normalized_shape[0]
        for i, group in enumerate(self.layers):
            for j in range(len(group.residual_group.layers)):  # type: ignore[union-attr, arg-type]
                layer = f"layers.{i}.residual_group.layers.{j}"
                found += [
                    Fold(f"{layer}.norm1", f"{layer}.wqkv"),
                    Fold(f"{layer}.wqkv", f"{layer}.win_mhsa.proj", rows=(2 * width, 3 * width)),
                    Fold(f"{layer}.norm2", f"{layer}.convffn1.fc1"),
                    Fold(f"{layer}.convffn1.sg.conv", f"{layer}.convffn1.fc2"),
                    Fold(f"{layer}.assm.out_norm", f"{layer}.assm.out_proj"),
                    Fold(f"{layer}.norm4", f"{layer}.convffn2.fc1"),
                    Fold(f"{layer}.convffn2.sg.conv", f"{layer}.convffn2.fc2"),
                ]
        return found

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = (mirrored(x, self.window_size) - self.mean) * self.img_range
        first = self.conv_first(x)
        tokens = self.patch_embed.norm(first.permute(0, 2, 3, 1))
        mask = shift_mask(x.shape[2], x.shape[3], self.window_size, self.window_size // 2).to(tokens)
        for group in self.layers:
            tokens = group(tokens, self.relative_position_index_SA, mask, self.routing_noise)
        body = self.conv_after_body(self.norm(tokens).permute(0, 3, 1, 2)) + first
        y = self.upsample(body) / self.img_range + self.mean
        return y[:, :, : h * self.upscale, : w * self.upscale]


def mirrored(x: Tensor, multiple: int) -> Tensor:
    """Bottom and right filled up to multiples by mirroring, the last pixel repeated, as often as needed."""
    for axis in (2, 3):
        size = x.shape[axis]
        i = torch.arange(size + -size % multiple, device=x.device) % (2 * size)
        x = x.index_select(axis, torch.minimum(i, 2 * size - 1 - i))
    return x


LAYER = "layers.{}.residual_group.layers.{}."


def detect(state: StateDict) -> Config | None:
    """Every hyper-parameter but ``img_range``, which is 1 in all releases."""
    first = LAYER.format(0, 0)
    if not {first + "assm.selectiveScan.A_logs", first + "convffn1.sg.conv.weight"} <= set(state):
        return None
    dim, channels = shape(state, "conv_first.weight")[:2]
    groups = count(state, LAYER.format("{}", 0) + "norm1.weight")
    table = "win_mhsa.relative_position_bias_table"
    return {
        "upscale": shuffle_scale(state, "upsample.0.weight", channels),
        "in_chans": channels,
        "embed_dim": dim,
        "d_state": shape(state, first + "assm.selectiveScan.A_logs", 2)[1],
        "depths": tuple(count(state, LAYER.format(i, "{}") + "norm1.weight") for i in range(groups)),
        "num_heads": tuple(shape(state, LAYER.format(i, 0) + table, 2)[1] for i in range(groups)),
        "window_size": window_of(state, first + table),
        "inner_rank": shape(state, first + "assm.embeddingB.weight", 2)[1],
        "num_tokens": shape(state, first + "assm.embeddingB.weight", 2)[0],
        "mlp_ratio": mlp_ratio(shape(state, first + "assm.in_proj.0.weight")[0], dim),
        "resi_connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
    }


def descriptor(module: MambaIRv2Light) -> Descriptor:
    """The scan passes over the whole picture, so that tiles change the output."""
    return Descriptor(
        "mambairv2light", module.upscale, color_of(module.conv_first), multiple=module.window_size, tiling="global"
    )


NETWORK = Network(
    "mambairv2light",
    MambaIRv2Light,
    detect,
    descriptor,
    range_keyword="img_range",
    derived=("relative_position_index_SA",),
)
