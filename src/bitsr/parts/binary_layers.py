"""Layers whose inputs and weights are signs: trained here, executed as bits once frozen and lowered."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.parts.binarizers import ActivationBinarizer, RPReLU, WeightBinarizer
from bitsr.parts.masks import Masks

Shortcut = Literal["none", "before", "after"]


class BinaryLayer(nn.Module):
    """y = B(x) * (mask . B(W)) + b, and what super-resolution papers put around it.

    Args:
        source: gives weight and bias.
        activation, binarizer: of the input and of the weight.
        masks: N:M sparsity of the weight; it is chosen on the latent weight first, binarized second.
        rprelu: of the result, None for none.
        shortcut: add the input (its channels repeated or averaged where widths differ) before or after the RPReLU.

    ``branches`` take the input as it comes, and their outputs are added in the end.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    channel_axis: int

    def __init__(
        self, source: nn.Linear | nn.Conv2d, activation: ActivationBinarizer, binarizer: WeightBinarizer,
        masks: Masks | None = None, *, rprelu: RPReLU | None = None, shortcut: Shortcut = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(source.weight.detach().clone())
        self.bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
        self.activation, self.binarizer, self.masks = activation, binarizer, masks
        self.rprelu, self.shortcut = rprelu, shortcut
        self.branches = nn.ModuleList()

    def binarized(self) -> tuple[Tensor, Tensor | None]:
        """(+-scale at every place, mask)."""
        if self.masks is None:
            return self.binarizer(self.weight, None), None
        mask = self.masks.mask(self.weight)
        return self.binarizer(self.masks.latent(self.weight, mask), mask), mask

    def masked(self) -> tuple[Tensor, Tensor | None]:
        """(+-scale where kept and 0 elsewhere, mask)."""
        values, mask = self.binarized()
        if self.masks is None or mask is None:
            return values, None
        return self.masks.pruned(values, mask, self.weight), mask

    def effective_weight(self) -> Tensor:
        return self.masked()[0]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def signed_product(self, signs: Tensor, bias: Tensor | None) -> Tensor:
        """Some masks compute the gradient of the input with another weight."""
        weight, mask = self.masked()
        other = None
        if self.masks is not None and mask is not None and torch.is_grad_enabled():
            other = self.masks.backward_weight(self.weight, mask, weight)
        if other is None:
            return self.product(signs, weight, bias)
        passing = self.product(signs, other.detach(), None)
        return self.product(signs.detach(), weight, bias) + (passing - passing.detach())

    def forward(self, x: Tensor) -> Tensor:
        return surrounded(x, self.signed_product(self.activation(x), self.bias), self)

    def on_step(self, step: int, steps: int) -> None:
        """Before the forward pass of each training step."""
        self.activation.on_step(step, steps)
        self.binarizer.on_step(step, steps)
        if self.masks is not None:
            self.masks.on_step(self.weight, step, steps)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, shortcut={self.shortcut}"


class BinaryLinear(BinaryLayer):
    """On the last axis."""

    channel_axis = -1

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class BinaryConv2d(BinaryLayer):
    """NCHW, zero padding: beyond the border there is 0, no sign."""

    channel_axis = 1

    def __init__(
        self, source: nn.Conv2d, activation: ActivationBinarizer, binarizer: WeightBinarizer,
        masks: Masks | None = None, *, rprelu: RPReLU | None = None, shortcut: Shortcut = "none",
    ) -> None:  # fmt: skip
        if source.padding_mode != "zeros" or isinstance(source.padding, str) or source.groups != 1:
            raise ValueError("only convolutions of one group with zero padding given as a number are binarized")
        super().__init__(source, activation, binarizer, masks, rprelu=rprelu, shortcut=shortcut)
        self.kernel_size, self.stride = source.kernel_size, source.stride
        self.padding, self.dilation = source.padding, source.dilation
        if activation.window_scale and set(self.dilation) != {1}:
            raise ValueError("windows of a dilated convolution have no mean")

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        if not self.activation.window_scale:
            return super().forward(x)
        y = self.signed_product(self.activation(x), None)
        return surrounded(x, windows_scaled(y, x, self), self)


def surrounded(x: Tensor, y: Tensor, layer: Any) -> Tensor:
    """The product ``y`` of the input ``x`` with the layer's RPReLU and shortcut, and then its branches."""
    passed = 0.0 if layer.shortcut == "none" else matched(x, y.shape[layer.channel_axis], layer.channel_axis)
    if layer.shortcut == "before":
        y = y + passed
    y = y if layer.rprelu is None else layer.rprelu(y)
    if layer.shortcut == "after":
        y = y + passed
    for branch in layer.branches:
        y = y + branch(x)
    return y


def windows_scaled(y: Tensor, x: Tensor, layer: Any) -> Tensor:
    """The product ``y`` of a convolution times the mean |x| of the pixels that each output sees, with the bias; beyond
    the border |x| is 0."""
    sizes = x.detach().abs().mean(1, keepdim=True)
    y = y * F.avg_pool2d(sizes, layer.kernel_size, layer.stride, layer.padding)
    return y if layer.bias is None else y + layer.bias.view(1, -1, 1, 1)


def matched(x: Tensor, channels: int, axis: int) -> Tensor:
    """``x`` with as many channels as asked: repeated, or averaged over neighbours (BHViT's shortcuts).

    Raises:
        ValueError: neither number divides the other.
    """
    width = x.shape[axis]
    if width == channels:
        return x
    if channels % width == 0:
        return torch.cat([x] * (channels // width), axis)
    if width % channels == 0:
        return x.unflatten(axis, (channels, width // channels)).mean(axis if axis < 0 else axis + 1)
    raise ValueError(f"no shortcut from {width} to {channels} channels")
