"""The steps of a program: a small, closed vocabulary over HxWxC float32 feature maps of one picture.

A step names the feature maps it reads and the one it writes, and the tensors it uses.  Everything else about it is a
plain number or word, so that a program is data: it can be stored, checked and counted without being run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quantizer:
    """Affine quantizer of a feature map: code = clip(rint((x - lower) / step), 0, 2**bits - 1), its value
    lower + step * code.

    ``lower`` and ``step`` are exact float32 numbers; the division is a float32 division (a multiplication by 1/step
    would move ties).  rint rounds half to even.  Where a convolution pads with zeros, ``lower`` is an integer multiple
    of ``step`` with -2**bits < lower / step <= 0, so that real zero is the code ``zero``.
    """

    bits: int
    lower: float
    step: float

    @property
    def levels(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    @property
    def zero(self) -> int:
        """The code of real zero (exact only where ``lower`` is a multiple of ``step``)."""
        return round(-self.lower / self.step)


@dataclass(frozen=True)
class PackedWeight:
    """Weights as unsigned codes p in 0..2**bits - 1: value = scale[row] * (p - 2**(bits - 1)) + mid[row].

    ``codes``, ``scale`` and ``mid`` are tensor names; a row is an output channel.  Without ``mid`` the grid is
    symmetric (mid = 0).
    """

    codes: str
    scale: str
    bits: int
    mid: str | None = None


@dataclass(frozen=True)
class BinaryWeight:
    """Weights of -s, 0 or +s: of every ``block`` neighbouring inputs ``keep`` are kept, with a sign each.

    ``codes`` (out x [kh x kw x] in / block) are those of `bitsr.program.binary`; keep = block = 1 is dense, one bit per
    weight.  ``groups`` are the numbers of neighbouring inputs that share a scale s, whole blocks; ``scale`` is (out,
    number of groups), the same for every tap of a convolution.
    """

    codes: str
    scale: str
    groups: tuple[int, ...]
    keep: int = 1
    block: int = 1


Weight = str | PackedWeight  # the name of a floating-point tensor, or packed codes


@dataclass(frozen=True)
class Step:
    """``output`` is the name of the feature map that the step writes."""

    output: str


@dataclass(frozen=True)
class BinaryLinear(Step):
    """y_i = sum_k s_ik acc_ik + bias_i, acc_ik = sum over the inputs j of group k of w_ij a_j, on the last axis.

    a_j is +1 where x_j >= ``threshold``_j (a tensor, one per input) and -1 elsewhere; w_ij is -1, 0 or +1.  With
    ``token_scale`` the sum over k is multiplied by the mean of |x_j| over the inputs j (XNOR-Net) before the bias.
    """

    x: str
    weight: BinaryWeight
    threshold: str
    bias: str | None = None
    token_scale: bool = False


@dataclass(frozen=True)
class BinaryConv2d(Step):
    """The same as a 2-D convolution.  Beyond the border there is no sign: those products are 0."""

    x: str
    weight: BinaryWeight
    threshold: str
    bias: str | None = None
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Linear(Step):
    """y = x W^T + b on the last axis; W is (out, in).

    Where given, ``input_scale`` (in) multiplies the input first, whatever follows.  With ``quantizer`` and a
    PackedWeight the input is then quantized to codes q; with p' = p - 2**(w_bits - 1), acc = sum_j p'_ij q_j and
    r = sum_j q_j are integers, and
        y_i = (step * scale_i) * acc_i + (step * mid_i) * r + bias_i .
    ``bias`` then already holds lower * sum_j w_ij (the folded offset of the input).  A PackedWeight without
    ``quantizer`` is weight-only: it is dequantized and multiplied in floating point.  A floating-point weight with
    ``quantizer`` is activation-only: the input is replaced by lower + step * q, multiplied in floating point, and
    ``bias`` is the plain one.
    """

    x: str
    weight: Weight
    bias: str | None = None
    quantizer: Quantizer | None = None
    input_scale: str | None = None


@dataclass(frozen=True)
class SparseLinear(Step):
    """y = x W^T on the last axis; W is ``rows`` x ``columns`` and nearly empty.

    ``values`` (n) are its entries, ``places`` (n x 3 bytes, the lowest first) say where each lies: row * columns +
    column, in ascending order.
    """

    x: str
    values: str
    places: str
    rows: int
    columns: int


@dataclass(frozen=True)
class Conv2d(Step):
    """2-D convolution with zero padding; W is (out, kh, kw, in / groups).

    Quantized as :class:`Linear` is; padding then is the code ``quantizer.zero``, so a folded bias needs no border
    correction.
    """

    x: str
    weight: Weight
    bias: str | None = None
    stride: int = 1
    padding: int = 0
    groups: int = 1
    quantizer: Quantizer | None = None
    input_scale: str | None = None


@dataclass(frozen=True)
class WindowAttention(Step):
    """Multi-head attention inside (shifted) windows of ``window`` x ``window`` tokens.

    ``qkv`` is HxWx3C: all queries, then keys, then values, each split into ``heads``.  H and W are multiples of the
    window.  With ``shift`` the windows are those of the map rolled by -shift in both axes, and tokens that were no
    neighbours do not see each other (the weight is 0).  score = (scale q) k^T + bias; the bias of head h for
    the tokens a, b is ``bias_table``[(dy + window - 1) * (2 window - 1) + dx + window - 1, h] with
    (dy, dx) = position(a) - position(b).
    With quantizers the four operands (scale q, k, softmax map, v) are codes and both products integer.  With
    ``row_scale`` the codes of the softmax map are those of each query's weights divided by the largest of them, which
    multiplies the product with v.
    """

    qkv: str
    bias_table: str
    heads: int
    window: int
    shift: int
    scale: float
    q: Quantizer | None = None
    k: Quantizer | None = None
    attention: Quantizer | None = None
    v: Quantizer | None = None
    row_scale: bool = False


@dataclass(frozen=True)
class OverlappingAttention(Step):
    """Multi-head attention of the tokens of a window to those of a wider one.

    As :class:`WindowAttention` without shift, but keys and values come from the window and ``margin`` tokens more on
    each side of it; those beyond the map are 0.  The bias of head h for the query a and the key b is
    ``bias_table``[(dy + window + margin - 1) * (2 (window + margin) - 1) + dx + window + margin - 1, h] with
    (dy, dx) = position(a) - position(b).
    """

    qkv: str
    bias_table: str
    heads: int
    window: int
    margin: int
    scale: float
    q: Quantizer | None = None
    k: Quantizer | None = None
    attention: Quantizer | None = None
    v: Quantizer | None = None
    row_scale: bool = False


Attention = WindowAttention | OverlappingAttention


@dataclass(frozen=True)
class LayerNorm(Step):
    """Over the last axis, biased variance."""

    x: str
    weight: str
    bias: str
    eps: float = 1e-5


@dataclass(frozen=True)
class Activation(Step):
    """relu, leaky_relu (``slope``), gelu (exact, erf), sigmoid, tanh, clip (to [0, 1]), softplus (log(1 + e^x))."""

    x: str
    function: Literal["relu", "leaky_relu", "gelu", "sigmoid", "tanh", "clip", "softplus"]
    slope: float = 0.0


@dataclass(frozen=True)
class PReLU(Step):
    """max(x, 0) + slope * min(x, 0), with a slope per channel (tensor ``slopes``)."""

    x: str
    slopes: str


@dataclass(frozen=True)
class Add(Step):
    a: str
    b: str


@dataclass(frozen=True)
class Mul(Step):
    """Elementwise; 1x1xC and HxWx1 maps broadcast."""

    a: str
    b: str


@dataclass(frozen=True)
class Affine(Step):
    """x * scale + shift: numbers, or tensors with one for each channel (tuples of those in files up to version 4)."""

    x: str
    scale: float | str | tuple[float, ...] = 1.0
    shift: float | str | tuple[float, ...] = 0.0


@dataclass(frozen=True)
class Concat(Step):
    """Along channels."""

    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Slice(Step):
    """Channels start..stop-1."""

    x: str
    start: int
    stop: int


@dataclass(frozen=True)
class PixelShuffle(Step):
    """HxWx(C f f) -> fHxfWxC; channel order c * f * f + i * f + j."""

    x: str
    factor: int


@dataclass(frozen=True)
class PixelUnshuffle(Step):
    """fHxfWxC -> HxWx(C f f), the inverse of :class:`PixelShuffle`."""

    x: str
    factor: int


@dataclass(frozen=True)
class Resize(Step):
    """To ``factor`` times the size, or to the size of the map ``like``; half-pixel centres (align_corners = False).

    ``a`` is the slope of the bicubic kernel (Keys 1981) at distance 1: -0.75 as in torch, -0.5 as in MATLAB and PIL.
    """

    x: str
    mode: Literal["nearest", "bilinear", "bicubic"]
    factor: int = 1
    like: str | None = None
    a: float = -0.75


@dataclass(frozen=True)
class MaxPool(Step):
    """Without padding, floor mode."""

    x: str
    kernel: int
    stride: int


@dataclass(frozen=True)
class GlobalPool(Step):
    """HxWxC -> 1x1xC: the mean, or the (biased) standard deviation over all positions."""

    x: str
    statistic: Literal["mean", "std"]


@dataclass(frozen=True)
class ArgMax(Step):
    """HxWxC -> HxWx1: the number of the largest channel, the first one of equals."""

    x: str


@dataclass(frozen=True)
class Lookup(Step):
    """HxWx1 -> HxWxC: row ``x`` of ``table`` (rows x C); the numbers are whole, and cut to those of the rows."""

    x: str
    table: str


@dataclass(frozen=True)
class Reorder(Step):
    """Pixels sorted by class: pixel k of the result, in reading order, is the k-th of ``x`` in the order of
    ``classes`` and, within a class, of reading.  ``back`` undoes that.

    ``classes`` is HxWx1, whole numbers that are cut to 0..``count`` - 1.
    """

    x: str
    classes: str
    count: int
    back: bool = False


@dataclass(frozen=True)
class SelectiveScan(Step):
    """The scan of Mamba over all pixels t in reading order; every channel has a state h of N numbers, 0 at first:

        h = exp(delta_t * decay) * h + delta_t * x_t * b_t,    y_t = sum over N of c_t * h, plus skip * x_t

    ``x`` and ``delta`` are HxWxC, ``b`` and ``c`` HxWxN; the tensors ``decay`` and ``skip`` are C x N, none of it
    above 0, and C.
    """

    x: str
    delta: str
    b: str
    c: str
    decay: str
    skip: str


@dataclass(frozen=True)
class Pad(Step):
    """Mirror bottom and right to multiples of ``multiple``, small maps as often as needed; "reflect" does not repeat
    the last pixel, "symmetric" does."""

    x: str
    multiple: int
    mode: Literal["reflect", "symmetric"] = "reflect"


@dataclass(frozen=True)
class Crop(Step):
    """The top left corner, ``factor`` times the size of the map ``like``."""

    x: str
    like: str
    factor: int = 1


STEPS: dict[str, type[Step]] = {
    cls.__name__: cls
    for cls in (
        Linear, SparseLinear, Conv2d, BinaryLinear, BinaryConv2d, WindowAttention, OverlappingAttention, LayerNorm,
        Activation, PReLU, Add, Mul, Affine, Concat, Slice, PixelShuffle, PixelUnshuffle, Resize, MaxPool, GlobalPool,
        ArgMax, Lookup, Reorder, SelectiveScan, Pad, Crop,
    )
}  # fmt: skip
