"""Layers with quantized inputs and weights: simulated in floating point here, executed as integers once lowered."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, contiguous_format, nn

from bitsr.parts.matmul import MatMul
from bitsr.parts.quantizer import DecidedWeight
from bitsr.parts.undecided import UndecidedWeight


class QuantLayer(nn.Module):
    """What compressed linears and convolutions share.

    The input is multiplied by ``input_scale`` (one number per input channel, where present) and quantized by
    ``quantizer``; the weight is ``decided`` once a method has rounded it.  Before, it is the floating-point ``weight``,
    which ``weight_quantizer`` maps to a compressed one of the same shape at every pass while it is trained.  Each may
    be absent: an absent quantizer leaves its operand in floating point.  A ``branch`` takes the layer's input as it
    comes, and its output is added.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    input_scale: Tensor | None

    def __init__(self, source: nn.Linear | nn.Conv2d, w_bits: int, a_bits: int) -> None:
        super().__init__()
        self.w_bits, self.a_bits = w_bits, a_bits
        self.weight = nn.Parameter(source.weight.detach().clone(memory_format=contiguous_format))
        self.bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
        self.register_buffer("input_scale", None)
        self.quantizer: nn.Module | None = None  # an AffineQuantizer once the layer is to be lowered
        self.weight_quantizer: nn.Module | None = None
        self.decided: DecidedWeight | None = None
        self.branch: nn.Module | None = None

    channel_axis: int  # of the input feature map

    def scaled(self, x: Tensor) -> Tensor:
        """The input in the domain in which it is quantized."""
        if self.input_scale is None:
            return x
        shape = [1] * x.ndim
        shape[self.channel_axis] = -1
        return x * self.input_scale.view(shape)

    def effective_weight(self) -> Tensor:
        if self.decided is not None:
            return self.decided()
        return self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)

    def decide(self) -> None:
        """Fix the codes that were being learned."""
        if isinstance(self.weight_quantizer, UndecidedWeight):
            self.decided, self.weight_quantizer = self.weight_quantizer.decide(self.weight.detach()), None

    def with_branch(self, x: Tensor, y: Tensor) -> Tensor:
        return y if self.branch is None else y + self.branch(x)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.scaled(x)
        return (x if self.quantizer is None else self.quantizer(x)), self.effective_weight()

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, w_bits={self.w_bits}, a_bits={self.a_bits}"


class QuantLinear(QuantLayer):
    """x -> Q(x) Q(W)^T + b on the last axis."""

    channel_axis = -1

    def forward(self, x: Tensor) -> Tensor:
        quantized, weight = self.operands(x)
        return self.with_branch(x, F.linear(quantized, weight, self.bias))


class QuantConv2d(QuantLayer):
    """NCHW convolution with zero padding."""

    channel_axis = 1

    def __init__(self, source: nn.Conv2d, w_bits: int, a_bits: int) -> None:
        super().__init__(source, w_bits, a_bits)
        if source.padding_mode != "zeros" or isinstance(source.padding, str):
            given = f"{source.padding_mode} {source.padding}"
            raise ValueError(f"only zero padding given as a number is quantized, got {given}")
        self.in_channels, self.out_channels = source.in_channels, source.out_channels
        self.kernel_size = source.kernel_size
        self.stride, self.padding, self.dilation, self.groups = (
            source.stride, source.padding, source.dilation, source.groups,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        quantized, weight = self.operands(x)
        y = F.conv2d(quantized, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return self.with_branch(x, y)


class QuantMatMul(nn.Module):
    """Q(a) @ Q(b): attention scores, and attention times values.

    With ``row_scale``, for an a that is a ``softmax``, each row is divided by its largest weight before it is
    quantized, and its product multiplied by that: one step for all rows would round most of a flat row to zero.
    """

    def __init__(self, a_bits: int, softmax: bool = False) -> None:
        super().__init__()
        self.a_bits = a_bits
        self.softmax = softmax
        self.row_scale = False
        self.quantizer_a: nn.Module | None = None
        self.quantizer_b: nn.Module | None = None

    def operands(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """What the quantizers see."""
        return (a / largest(a) if self.row_scale else a), b

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if not self.row_scale:
            return self._product(a, b)
        top = largest(a)
        return self._product(a / top, b) * top

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        a = a if self.quantizer_a is None else self.quantizer_a(a)
        b = b if self.quantizer_b is None else self.quantizer_b(b)
        return a @ b


def largest(x: Tensor) -> Tensor:
    """The largest number of each row, of one column.

    A constant for gradients: dividing by it and multiplying with it cancel but for rounding, and the slope of a
    maximum is a fifth of the time of training.
    """
    return x.detach().amax(-1, keepdim=True)


def replaceable(module: nn.Module) -> bool:
    """Whether ``module`` is a plain layer that has a compressed twin."""
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) in (nn.Linear, MatMul)


def replace(root: nn.Module, name: str, w_bits: int, a_bits: int) -> QuantLayer | QuantMatMul:
    """Put the compressed twin in the place of layer ``name``; it computes the same until a method sets quantizers."""
    source = root.get_submodule(name)
    layer: QuantLayer | QuantMatMul
    if isinstance(source, nn.Linear):
        layer = QuantLinear(source, w_bits, a_bits)
    elif isinstance(source, nn.Conv2d):
        layer = QuantConv2d(source, w_bits, a_bits)
    elif isinstance(source, MatMul):
        layer = QuantMatMul(a_bits, source.softmax)
    else:
        raise TypeError(f"{name} is a {type(source).__name__}; linears, convolutions and MatMul have compressed twins")
    root.set_submodule(name, layer.train(source.training))
    return layer


def quantized_layers(root: nn.Module) -> dict[str, QuantLayer | QuantMatMul]:
    return {name: m for name, m in root.named_modules() if isinstance(m, QuantLayer | QuantMatMul)}
