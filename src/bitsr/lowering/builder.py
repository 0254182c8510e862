"""Writes a program: each method appends a step and its tensors, and returns the name of the feature map it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError, UnsupportedLayer
from bitsr.lowering.registry import lower_module
from bitsr.lowering.weights import channels_last, codes_of, folded_bias, quantizer_of, to_numpy
from bitsr.parts.binarizers import RPReLU
from bitsr.parts.branches import Sparse
from bitsr.parts.frozen_binary import FrozenBinary, FrozenBinaryConv2d
from bitsr.parts.layers import QuantConv2d, QuantLayer, QuantLinear, QuantMatMul
from bitsr.parts.matmul import MatMul
from bitsr.program import steps
from bitsr.program.program import Program
from bitsr.program.sparse import MOST_PLACES, to_bytes

Precision = Literal["fp16", "fp32"]
S = TypeVar("S", bound=steps.Step)


class Builder:
    """Collects the steps and tensors of one network.

    Feature maps and tensors are named after the layers of ``root``.  Scales, mids and folded biases of quantized layers
    are float32; every other floating-point tensor is ``precision``.
    """

    def __init__(self, descriptor: Descriptor, precision: Precision = "fp16", root: nn.Module | None = None) -> None:
        if precision not in ("fp16", "fp32"):
            raise ConfigError(f"precision is 'fp16' or 'fp32', got {precision!r}")
        self.descriptor = descriptor
        self.input = "input"
        self._dtype = np.float16 if precision == "fp16" else np.float32
        self._steps: list[steps.Step] = []
        self._tensors: dict[str, NDArray[Any]] = {}
        self._maps = {self.input: 1}
        self._names: dict[nn.Module, str] = {}
        if root is not None:
            self._names = {module: name or type(root).__name__ for name, module in root.named_modules()}

    def name_of(self, module: nn.Module) -> str:
        """The qualified name of a layer of the network; a made-up one for a module from outside."""
        return self._names.setdefault(module, f"{type(module).__name__.lower()}@{len(self._names)}")

    def apply(self, x: str, module: nn.Module) -> str:
        """Append whatever ``module`` computes, by its kind.  Raises `UnsupportedLayer` where that is not known."""
        return lower_module(module, self, x)

    def program(self, output: str, meta: Mapping[str, Any] | None = None) -> Program:
        """The program that ends with the map ``output``."""
        return Program(
            steps=tuple(self._steps), tensors=dict(self._tensors), descriptor=self.descriptor, input=self.input,
            output=output, channels=self.descriptor.channels, meta=dict(meta or {}),
        )  # fmt: skip

    # ---- layers -------------------------------------------------------------------------------------------------

    def conv2d(self, x: str, module: nn.Conv2d | QuantConv2d) -> str:
        """A floating-point or quantized convolution: square stride and zero padding, no dilation."""
        name = self.name_of(module)
        stride, padding = _square(name, "stride", module.stride), _square(name, "padding", _padding(name, module))
        if _square(name, "dilation", module.dilation) != 1:
            raise UnsupportedLayer(f"{name}: a convolution with dilation {module.dilation} cannot be packed")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise UnsupportedLayer(f"{name}: padding mode {module.padding_mode!r} cannot be packed, only 'zeros'")
        return self._emit(
            steps.Conv2d, name, x=x, stride=stride, padding=padding, groups=module.groups,
            **self._operands(name, module, zero_padded=padding > 0),
        )  # fmt: skip

    def linear(self, x: str, module: nn.Linear | QuantLinear) -> str:
        """A floating-point or quantized linear layer on the last axis."""
        name = self.name_of(module)
        return self._emit(steps.Linear, name, x=x, **self._operands(name, module))

    def sparse(self, x: str, module: Sparse) -> str:
        """A linear layer of few weights."""
        name = self.name_of(module)
        if module.inputs * module.outputs > MOST_PLACES:
            raise UnsupportedLayer(
                f"{name}: {module.outputs}x{module.inputs} weights are too many for places of 3 bytes"
            )
        self._tensors.setdefault(f"{name}.places", to_bytes(module.places.cpu().numpy()))
        return self._emit(
            steps.SparseLinear, name, x=x, values=self.tensor(f"{name}.values", module.values),
            places=f"{name}.places", rows=module.outputs, columns=module.inputs,
        )  # fmt: skip

    def binary(self, x: str, module: FrozenBinary) -> str:
        """The product of a frozen linear or convolution of signs, without what is put around it."""
        name = self.name_of(module)
        self._tensors.setdefault(f"{name}.codes", module.codes.cpu().numpy())
        fields: dict[str, Any] = {
            "weight": steps.BinaryWeight(
                codes=f"{name}.codes", scale=self.tensor(f"{name}.scale", module.scale), groups=module.groups,
                keep=module.keep, block=module.block,
            ),
            "threshold": self.tensor(f"{name}.threshold", module.threshold),
        }  # fmt: skip
        if module.bias is not None and not getattr(module, "window_scale", False):  # there it comes after the scale
            fields["bias"] = self.tensor(f"{name}.bias", module.bias)
        if not isinstance(module, FrozenBinaryConv2d):
            return self._emit(steps.BinaryLinear, name, x=x, token_scale=module.token_scale, **fields)
        if _square(name, "dilation", module.dilation) != 1:
            raise UnsupportedLayer(f"{name}: a convolution with dilation {module.dilation} cannot be packed")
        stride, padding = _square(name, "stride", module.stride), _square(name, "padding", _padding(name, module))
        return self._emit(steps.BinaryConv2d, name, x=x, stride=stride, padding=padding, **fields)

    def window_mean(self, x: str, module: FrozenBinaryConv2d) -> str:
        """The mean |x| of all channels and pixels that each output of the convolution sees, as a map of one channel."""
        name, (height, width) = self.name_of(module), module.kernel_size
        inputs = sum(module.groups)
        mean = np.full((1, height, width, inputs), 1 / (height * width * inputs))
        weight = self.tensor(f"mean.{height}.{width}.{inputs}", mean, exact=True)
        stride, padding = _square(name, "stride", module.stride), _square(name, "padding", _padding(name, module))
        sizes = self.activation(x, "leaky_relu", -1.0)
        return self._emit(steps.Conv2d, f"{name}.mean", x=sizes, weight=weight, stride=stride, padding=padding)

    def layer_norm(self, x: str, module: nn.LayerNorm) -> str:
        name = self.name_of(module)
        if len(module.normalized_shape) != 1:
            raise UnsupportedLayer(f"{name}: a layer norm over {module.normalized_shape} cannot be packed")
        channels = module.normalized_shape[0]
        weight = np.ones(channels) if module.weight is None else module.weight
        bias = np.zeros(channels) if module.bias is None else module.bias
        return self._emit(
            steps.LayerNorm, name, x=x, weight=self.tensor(f"{name}.weight", weight),
            bias=self.tensor(f"{name}.bias", bias), eps=module.eps,
        )  # fmt: skip

    def window_attention(
        self, qkv: str, name: str, bias_table: ArrayLike | Tensor, scores: MatMul | QuantMatMul,
        values: MatMul | QuantMatMul, *, heads: int, window: int, shift: int, scale: float,
    ) -> str:  # fmt: skip
        """Attention in windows; ``scores`` is the module that multiplied (scale q) and k^T, ``values`` attention and v.

        ``bias_table``: (2 window - 1)**2 x heads.
        """
        return self._emit(
            steps.WindowAttention, name, qkv=qkv, bias_table=self.tensor(f"{name}.bias_table", bias_table),
            heads=heads, window=window, shift=shift, scale=scale, **_quantizers_of(name, scores, values),
        )  # fmt: skip

    def overlapping_attention(
        self, qkv: str, name: str, bias_table: ArrayLike | Tensor, scores: MatMul | QuantMatMul,
        values: MatMul | QuantMatMul, *, heads: int, window: int, margin: int, scale: float,
    ) -> str:  # fmt: skip
        """As :meth:`window_attention`, to keys and values of windows that are wider by ``margin`` on each side.

        ``bias_table``: (2 (window + margin) - 1)**2 x heads.
        """
        return self._emit(
            steps.OverlappingAttention, name, qkv=qkv, bias_table=self.tensor(f"{name}.bias_table", bias_table),
            heads=heads, window=window, margin=margin, scale=scale, **_quantizers_of(name, scores, values),
        )  # fmt: skip

    def matrix(self, x: str, name: str, weight: ArrayLike | Tensor, bias: ArrayLike | Tensor | None = None) -> str:
        """A floating-point linear layer that no module of its own holds; ``weight`` is out x in."""
        kept = None if bias is None else self.tensor(f"{name}.bias", bias)
        return self._emit(steps.Linear, name, x=x, weight=self.tensor(f"{name}.weight", weight), bias=kept)

    def lookup(self, x: str, name: str, table: ArrayLike | Tensor) -> str:
        """Row ``x`` of ``table`` (rows x channels)."""
        return self._emit(steps.Lookup, name, x=x, table=self.tensor(f"{name}.table", table))

    def selective_scan(
        self, x: str, delta: str, b: str, c: str, name: str, decay: ArrayLike | Tensor, skip: ArrayLike | Tensor
    ) -> str:
        """Over all pixels in reading order; ``decay`` is channels x states, ``skip`` channels."""
        return self._emit(
            steps.SelectiveScan, name, x=x, delta=delta, b=b, c=c, decay=self.tensor(f"{name}.decay", decay),
            skip=self.tensor(f"{name}.skip", skip),
        )  # fmt: skip

    def prelu(self, x: str, module: nn.PReLU | RPReLU) -> str:
        """One slope for all channels is a leaky ReLU; of an RPReLU only its PReLU."""
        name, slopes = self.name_of(module), module.slope if isinstance(module, RPReLU) else module.weight
        if slopes.numel() == 1:
            return self.activation(x, "leaky_relu", slopes.item())
        return self._emit(steps.PReLU, name, x=x, slopes=self.tensor(f"{name}.slopes", slopes))

    def scale_and_shift(
        self, x: str, name: str, scale: float | Tensor = 1.0, shift: float | Tensor = 0.0, *, exact: bool = False
    ) -> str:
        """x * scale + shift, numbers or one per channel, which are kept as tensors that begin with ``name``."""
        numbers = {
            field: self.tensor(f"{name}.{field}", value, exact=exact) if isinstance(value, Tensor) else value
            for field, value in (("scale", scale), ("shift", shift))
        }
        return self._emit(steps.Affine, "affine", x=x, **numbers)

    # ---- steps without tensors ----------------------------------------------------------------------------------

    def activation(
        self,
        x: str,
        function: Literal["relu", "leaky_relu", "gelu", "sigmoid", "tanh", "clip", "softplus"],
        slope: float = 0.0,
    ) -> str:
        return self._emit(steps.Activation, function, x=x, function=function, slope=slope)

    def add(self, a: str, b: str) -> str:
        return self._emit(steps.Add, "add", a=a, b=b)

    def mul(self, a: str, b: str) -> str:
        """Elementwise; a 1x1xC or HxWx1 map broadcasts."""
        return self._emit(steps.Mul, "mul", a=a, b=b)

    def affine(self, x: str, scale: float = 1.0, shift: float = 0.0) -> str:
        """x * scale + shift; nothing is appended where that is x."""
        return x if (scale, shift) == (1.0, 0.0) else self._emit(steps.Affine, "affine", x=x, scale=scale, shift=shift)

    def concat(self, *inputs: str) -> str:
        return self._emit(steps.Concat, "concat", inputs=inputs)

    def slice(self, x: str, start: int, stop: int) -> str:
        """Channels start..stop-1."""
        return self._emit(steps.Slice, "slice", x=x, start=start, stop=stop)

    def split(self, x: str, *sizes: int) -> tuple[str, ...]:
        """Consecutive groups of channels."""
        ends = np.cumsum(sizes).tolist()
        return tuple(self.slice(x, end - size, end) for end, size in zip(ends, sizes, strict=True))

    def pixel_shuffle(self, x: str, factor: int) -> str:
        return self._emit(steps.PixelShuffle, "pixel_shuffle", x=x, factor=factor)

    def pixel_unshuffle(self, x: str, factor: int) -> str:
        return x if factor == 1 else self._emit(steps.PixelUnshuffle, "pixel_unshuffle", x=x, factor=factor)

    def resize(
        self, x: str, mode: Literal["nearest", "bilinear", "bicubic"], factor: int = 1, like: str | None = None,
        a: float = -0.75,
    ) -> str:  # fmt: skip
        """To ``factor`` times the size, or to the size of the map ``like``; ``a`` is the bicubic kernel's slope."""
        return self._emit(steps.Resize, mode, x=x, mode=mode, factor=factor, like=like, a=a)

    def max_pool(self, x: str, kernel: int, stride: int) -> str:
        return self._emit(steps.MaxPool, "max_pool", x=x, kernel=kernel, stride=stride)

    def global_pool(self, x: str, statistic: Literal["mean", "std"]) -> str:
        return self._emit(steps.GlobalPool, statistic, x=x, statistic=statistic)

    def argmax(self, x: str) -> str:
        """The number of the largest channel."""
        return self._emit(steps.ArgMax, "argmax", x=x)

    def reorder(self, x: str, classes: str, count: int, *, back: bool = False) -> str:
        """Pixels sorted by class (0..count - 1), or put back."""
        return self._emit(steps.Reorder, "reorder", x=x, classes=classes, count=count, back=back)

    def pad(self, x: str, multiple: int, mode: Literal["reflect", "symmetric"] = "reflect") -> str:
        """Mirror bottom and right, to sides that are multiples of ``multiple``."""
        return x if multiple == 1 else self._emit(steps.Pad, "pad", x=x, multiple=multiple, mode=mode)

    def crop(self, x: str, like: str, factor: int = 1) -> str:
        """The top left corner, ``factor`` times the size of the map ``like``."""
        return self._emit(steps.Crop, "crop", x=x, like=like, factor=factor)

    # ---- tensors ------------------------------------------------------------------------------------------------

    def tensor(self, name: str, value: ArrayLike | Tensor, *, exact: bool = False) -> str:
        """Keep a floating-point tensor: float32 where ``exact`` or where half precision would overflow.

        A name that is known already, because a layer is used twice, keeps its tensor.
        """
        value = to_numpy(value) if isinstance(value, Tensor) else np.asarray(value, dtype=np.float64)
        if not np.isfinite(value).all():
            raise UnsupportedLayer(f"{name} holds NaN or infinity and cannot be packed; repair the checkpoint")
        fits = np.abs(value).max(initial=0.0) <= np.finfo(self._dtype).max
        self._tensors.setdefault(name, value.astype(self._dtype if fits and not exact else np.float32))
        return name

    def _operands(self, name: str, module: nn.Module, *, zero_padded: bool = False) -> dict[str, Any]:
        """Weight, bias and quantizer of a linear or a convolution, floating-point or quantized."""
        assert isinstance(module, nn.Linear | nn.Conv2d | QuantLayer)
        bias = None if module.bias is None else to_numpy(module.bias)
        if not isinstance(module, QuantLayer):
            return self._floating(name, module.weight, bias)
        quantizer, scale = quantizer_of(module.quantizer, name, zero_padded=zero_padded), module.input_scale
        kept_scale = None if scale is None else self.tensor(f"{name}.input_scale", scale, exact=True)
        extra = {"quantizer": quantizer, "input_scale": kept_scale}
        if module.decided is None:
            return self._floating(name, module.weight, bias) | extra
        codes = codes_of(module.decided)
        self._tensors.setdefault(f"{name}.codes", codes.codes)
        weight = steps.PackedWeight(
            codes=f"{name}.codes", bits=codes.bits, scale=self.tensor(f"{name}.scale", codes.scale, exact=True),
            mid=None if codes.mid is None else self.tensor(f"{name}.mid", codes.mid, exact=True),
        )  # fmt: skip
        if quantizer is not None and (bias is not None or quantizer.lower != 0):
            bias = folded_bias(module, codes, quantizer.lower)
        kept = None if bias is None else self.tensor(f"{name}.bias", bias, exact=quantizer is not None)
        return {"weight": weight, "bias": kept} | extra

    def _floating(self, name: str, weight: Tensor, bias: NDArray[Any] | None) -> dict[str, Any]:
        kept = self.tensor(f"{name}.weight", channels_last(to_numpy(weight)))
        return {"weight": kept, "bias": None if bias is None else self.tensor(f"{name}.bias", bias)}

    def _emit(self, step: type[S], stem: str, **fields: Any) -> str:
        """Append ``step``, writing the map ``stem``, or stem#2, stem#3, ... where that is taken."""
        count = self._maps[stem] = self._maps.get(stem, 0) + 1
        output = stem if count == 1 else f"{stem}#{count}"
        self._steps.append(step(output=output, **fields))
        return output


def _quantizers_of(name: str, scores: MatMul | QuantMatMul, values: MatMul | QuantMatMul) -> dict[str, Any]:
    """Of the four operands of an attention, where its products are quantized."""
    found: dict[str, Any] = {}
    for module, first, second in ((scores, "q", "k"), (values, "attention", "v")):
        if isinstance(module, QuantMatMul):
            found[first] = quantizer_of(module.quantizer_a, f"{name} ({first})")
            found[second] = quantizer_of(module.quantizer_b, f"{name} ({second})")
    if isinstance(values, QuantMatMul) and values.row_scale:
        found["row_scale"] = True
    return found


def _square(name: str, what: str, value: int | Sequence[int]) -> int:
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise UnsupportedLayer(f"{name}: a convolution with {what} {value} cannot be packed, only a square one")
    return int(sides.pop())


def _padding(name: str, module: nn.Conv2d | QuantConv2d | FrozenBinaryConv2d) -> int | tuple[int, ...]:
    """Padding in numbers: 'same' is half an odd kernel at stride 1, 'valid' none."""
    if not isinstance(module.padding, str):
        return module.padding
    if module.padding == "valid":
        return 0
    if any(side % 2 == 0 for side in module.kernel_size):
        raise UnsupportedLayer(f"{name}: padding 'same' around an even kernel {module.kernel_size} cannot be packed")
    return tuple(side // 2 for side in module.kernel_size)
