"""Binary layers after training: codes, scales and thresholds, as they are packed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.errors import ConfigError
from bitsr.parts.binary_layers import BinaryConv2d, BinaryLayer, BinaryLinear, surrounded, windows_scaled
from bitsr.program.binary import decode, encode


class FrozenBinary(nn.Module):
    """What the binary layer ``source`` computes, bit for bit, from what a file holds of it.

    Attributes:
        codes: uint8, channels last, one for each block of ``block`` inputs (see `bitsr.program.binary`).
        scale: out x number of ``groups``.
        threshold: of each input channel; inputs not below it are +1, others -1.
        token_scale: whether the signs of a pixel are multiplied by the mean of its |x| (XNOR-Net).
    """

    codes: Tensor
    scale: Tensor
    threshold: Tensor
    bias: Tensor | None
    channel_axis: int

    @torch.no_grad()
    def __init__(self, source: BinaryLayer) -> None:
        super().__init__()
        values, mask = source.binarized()
        inputs = values.shape[1]
        self.keep, self.block = (1, 1) if source.masks is None else (source.masks.keep, source.masks.block)
        self.groups = source.binarizer.groups or (inputs,)
        self.channel_axis, self.rprelu, self.shortcut = source.channel_axis, source.rprelu, source.shortcut
        self.branches, self.token_scale = source.branches, source.activation.token_scale
        threshold, flipped = (part.to(values.device) for part in source.activation.thresholds())
        values, bias = _moved_to_signs(values, mask, source)

        last = values.movedim(1, -1)
        scale = _scales(last, None if mask is None else mask.movedim(1, -1), self.groups)
        positive = (last >= 0) ^ flipped
        signs = positive.to(torch.int8) * 2 - 1
        signs = signs if mask is None else signs * mask.movedim(1, -1)
        self.register_buffer("codes", torch.from_numpy(encode(signs.cpu().numpy(), self.keep, self.block)))
        self.register_buffer("scale", scale)
        self.register_buffer("threshold", threshold)
        self.register_buffer("bias", bias)

    def effective_weight(self) -> Tensor:
        """-s, 0 or +s, in the shape of the weight that was trained."""
        signs = torch.from_numpy(decode(self.codes.cpu().numpy(), self.keep, self.block)).to(self.scale.device)
        scale = self.scale.repeat_interleave(torch.tensor(self.groups, device=self.scale.device), 1)
        scale = scale.view(len(scale), *[1] * (signs.ndim - 2), -1)
        weight: Tensor = (signs * scale).movedim(-1, 1)
        return weight.clone(memory_format=torch.contiguous_format)  # also where `contiguous` sees nothing to do

    def signs(self, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.channel_axis] = -1
        signs = (x >= self.threshold.view(shape)).to(x.dtype) * 2 - 1
        return x.abs().mean(self.channel_axis, keepdim=True) * signs if self.token_scale else signs

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Of signs, with the bias where nothing is to be done before it is added."""
        raise NotImplementedError

    def scaled(self, y: Tensor, x: Tensor) -> Tensor:
        """The product as the input wants it."""
        return y

    def forward(self, x: Tensor) -> Tensor:
        return surrounded(x, self.scaled(self.product(self.signs(x), self.effective_weight()), x), self)

    def extra_repr(self) -> str:
        return f"{self.keep}:{self.block}, {len(self.groups)} scales for {sum(self.groups)} inputs"


class FrozenBinaryLinear(FrozenBinary):
    """On the last axis."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)


class FrozenBinaryConv2d(FrozenBinary):
    """NCHW, zero padding."""

    def __init__(self, source: BinaryConv2d) -> None:
        super().__init__(source)
        if self.token_scale:
            raise ConfigError("scales of single pixels are packed with linears; convolutions take those of windows")
        self.window_scale = source.activation.window_scale
        self.kernel_size = source.kernel_size
        self.stride, self.padding, self.dilation = source.stride, source.padding, source.dilation
        if source.activation.levels[0] == 0 and any(side != 0 for side in _pair(source.padding)):
            raise ConfigError("inputs of {0, 1} cannot be padded with zeros as signs; use dorefa's 'sign'")

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        bias = None if self.window_scale else self.bias
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def scaled(self, y: Tensor, x: Tensor) -> Tensor:
        return windows_scaled(y, x, self) if self.window_scale else y


def freeze_layer(layer: BinaryLayer) -> FrozenBinary:
    """The frozen twin.

    Raises:
        ConfigError: its weights are not +-scale (a method's first stage, or means that were added back), or its inputs
            are no signs.
    """
    if isinstance(layer, BinaryLinear):
        return FrozenBinaryLinear(layer)
    assert isinstance(layer, BinaryConv2d)
    return FrozenBinaryConv2d(layer)


def _pair(value: int | tuple[int, ...] | str) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(int(v) for v in value)


def _moved_to_signs(values: Tensor, mask: Tensor | None, source: BinaryLayer) -> tuple[Tensor, Tensor | None]:
    """Weights and bias for inputs of {-1, +1}, where the layer's own are {0, 1}."""
    bias = None if source.bias is None else source.bias.detach().clone()
    if source.activation.levels == (-1.0, 1.0):
        return values, bias
    values = values / 2
    sums = (values if mask is None else values * mask).flatten(1).sum(1)
    return values, sums if bias is None else bias + sums


def _scales(last: Tensor, mask: Tensor | None, groups: tuple[int, ...]) -> Tensor:
    """|w| of each group, which must be one number; ``last`` has the inputs on the last axis."""
    scales = []
    for part, kept in zip(
        last.abs().split(groups, -1), [None] * len(groups) if mask is None else mask.split(groups, -1), strict=True
    ):
        rows = part.flatten(1)
        kept_rows = torch.ones_like(rows, dtype=torch.bool) if kept is None else kept.flatten(1)
        largest = (rows * kept_rows).amax(1)
        if not torch.equal(rows[kept_rows], largest[:, None].expand_as(rows)[kept_rows]):
            raise ConfigError("the weights are no signs times one scale per group; finish training before freezing")
        scales.append(largest)
    return torch.stack(scales, 1)
