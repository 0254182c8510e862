"""Steps of a program become ops of the engine: every quantizer and every change of format is an op of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.engine.crossings import crossings_of
from bitsr.engine.matrices import product_format
from bitsr.engine.ops import ADDING, Format, Graph, Op, Value
from bitsr.program import steps
from bitsr.program.maps import reflection, resize_taps
from bitsr.program.program import Program
from bitsr.program.shapes import Shape
from bitsr.program.sparse import places_of
from bitsr.program.steps import PackedWeight, Quantizer, Step

CODES = 0x01010101  # times a code: a word of four


def rewrite(
    program: Program, shapes: Mapping[str, Shape], matrices: Mapping[str, Any], floating: Format, tile: int
) -> Graph:
    """The ops of ``program`` for maps of ``shapes``.

    ``matrices`` holds the native matrix of each layer by the name of its output; ``floating`` is the format in which
    what is not integer is multiplied; ``tile`` is the number of pixels of a row that are worked on at a time.
    """
    rewriter = Rewriter(program, shapes, matrices, floating, tile)
    for step in program.steps:
        REWRITES[type(step)](rewriter, step)
    rewriter.ops.append(Op("output", (rewriter.maps[program.output],), None))
    ops = _with_additions(_used(rewriter.ops))
    for op in ops:
        if op.kind in ("conv2d", "binary_conv2d"):
            *_, padding = op.parameters
            op.inputs[0].border = max(op.inputs[0].border, padding)
    return Graph(ops)


class Rewriter:
    """Ops so far, and the value of each map of the program; steps that change nothing only give it another name."""

    def __init__(
        self, program: Program, shapes: Mapping[str, Shape], matrices: Mapping[str, Any], floating: Format, tile: int
    ) -> None:
        self.program, self.shapes, self.matrices, self.floating, self.tile = program, shapes, matrices, floating, tile
        self.ops: list[Op] = []
        self.maps: dict[str, Value] = {}
        self.crossings = crossings_of(program)
        self._shared: dict[tuple[Any, ...], Value] = {}
        self.emit("input", program.input)

    def emit(self, kind: str, name: str, *inputs: Value, parameters: tuple[Any, ...] = (), elsewhere: bool = False):  # noqa: ANN201
        """Append the op that makes the map ``name``."""
        height, width, channels = self.shapes[name]
        self.maps[name] = value = Value(name, "f32", channels, height, width)
        self.ops.append(Op(kind, inputs, value, parameters, inputs if elsewhere else ()))

    def rename(self, step: Any) -> None:
        """The step gives what it reads."""
        self.maps[step.output] = self.maps[step.x]

    def derived(
        self, kind: str, x: Value, format: Format, *parameters: Any, key: Any = None, elsewhere: bool = False
    ) -> Value:
        """``x`` after an op, which steps that need the same share; ``key`` stands for arrays among what they need."""
        shared = (kind, x, key if key is not None else parameters)
        if shared not in self._shared:
            value = Value(f"{kind} {x.name}", format, x.channels, x.height, x.width)
            self.ops.append(Op(kind, (x,), value, parameters, (x,) if elsewhere else ()))
            self._shared[shared] = value
        return self._shared[shared]

    def moments(self, x: Value) -> Value:
        """Means and sums of squares of each tile of ``x``, which statistics share."""
        if ("moments", x) not in self._shared:
            value = Value(f"moments {x.name}", "f32", 2 * x.channels, -(-x.width // self.tile), x.height)
            self.ops.append(Op("moments", (x,), value))
            self._shared["moments", x] = value
        return self._shared["moments", x]

    def magnitude(self, x: Value) -> Value:
        """The mean of |x| over the channels of each pixel, which layers of signs share."""
        if ("magnitude", x) not in self._shared:
            value = Value(f"magnitude {x.name}", "f32", 1, *x.size)
            self.ops.append(Op("magnitude", (x,), value))
            self._shared["magnitude", x] = value
        return self._shared["magnitude", x]

    def operand(self, step: steps.Linear | steps.Conv2d) -> Value:
        """What the layer's matrix is multiplied with."""
        x, quantizer = self.maps[step.x], step.quantizer
        scale = None if step.input_scale is None else self.program.tensor(step.input_scale)
        format = product_format(step, self.floating)
        if format == "u8":
            assert quantizer is not None
            numbers = _numbers(quantizer)
            return self.derived("quantize", x, "u8", *numbers, scale, key=(*numbers, step.input_scale))
        if scale is not None:
            x = self.derived("affine", x, "f32", scale, np.zeros(1, np.float32), key=step.input_scale)
        if quantizer is not None:
            x = self.derived("round", x, "f32", *_numbers(quantizer))
        return self.derived("to_bf16", x, "bf16") if format == "bf16" else x


# ---- layers and attention -------------------------------------------------------------------------------------------


def _signs(to: Rewriter, step: steps.BinaryLinear | steps.BinaryConv2d) -> Value:
    """Of a GELU the signs alone are worked out, by comparisons of what it would be taken of."""
    if step.output in to.crossings:
        x, above, below = to.crossings[step.output]
        return to.derived("signs", to.maps[x], "bits", above, below, key=("gelu", step.threshold))
    return to.derived("signs", to.maps[step.x], "bits", to.program.tensor(step.threshold), None, key=step.threshold)


def _binary_linear(to: Rewriter, step: steps.BinaryLinear) -> None:
    to.emit("binary", step.output, _signs(to, step), parameters=(to.matrices[step.output],))
    if not step.token_scale:
        return
    to.emit("multiply", step.output, to.maps[step.output], to.magnitude(to.maps[step.x]))
    if step.bias is not None:
        parameters = (np.ones(1, np.float32), to.program.tensor(step.bias))
        to.emit("affine", step.output, to.maps[step.output], parameters=parameters)


def _binary_conv2d(to: Rewriter, step: steps.BinaryConv2d) -> None:
    kernel, matrix = to.program.tensors[step.weight.codes].shape[1:3], to.matrices[step.output]
    if kernel == (1, 1) and step.stride == 1 and step.padding == 0:
        to.emit("binary", step.output, _signs(to, step), parameters=(matrix,))
        return
    parameters = (matrix, *kernel, step.stride, step.padding)
    to.emit("binary_conv2d", step.output, _signs(to, step), parameters=parameters, elsewhere=True)


def _linear(to: Rewriter, step: steps.Linear) -> None:
    to.emit("gemm", step.output, to.operand(step), parameters=(to.matrices[step.output],))


def _sparse_linear(to: Rewriter, step: steps.SparseLinear) -> None:
    rows, columns = np.divmod(places_of(step, to.program), step.columns)
    starts = np.searchsorted(rows, np.arange(step.rows + 1)).astype(np.int32)
    parameters = (starts, columns.astype(np.int32), to.program.tensor(step.values))
    to.emit("sparse", step.output, to.maps[step.x], parameters=parameters)


def _conv2d(to: Rewriter, step: steps.Conv2d) -> None:
    weight = step.weight.codes if isinstance(step.weight, PackedWeight) else step.weight
    kernel = to.program.tensors[weight].shape[1:3]
    x, matrix = to.operand(step), to.matrices[step.output]
    if kernel == (1, 1) and step.stride == 1 and step.padding == 0:
        to.emit("gemm", step.output, x, parameters=(matrix,))
        return
    if step.padding and step.quantizer is not None and x.format == "u8":
        x.fill = step.quantizer.zero * CODES
    parameters = (matrix, *kernel, step.stride, step.padding)
    to.emit("conv2d", step.output, x, parameters=parameters, elsewhere=True)


def _window_attention(to: Rewriter, step: steps.WindowAttention) -> None:
    parameters = (step.heads, step.window, step.shift, *_attention(to, step, step.window))
    to.emit("attention", step.output, to.maps[step.qkv], parameters=parameters)


def _overlapping_attention(to: Rewriter, step: steps.OverlappingAttention) -> None:
    parameters = (step.heads, step.window, step.margin, *_attention(to, step, step.window + step.margin))
    to.emit("overlapping_attention", step.output, to.maps[step.qkv], parameters=parameters, elsewhere=True)


def _attention(to: Rewriter, step: steps.Attention, reach: int) -> tuple[Any, ...]:
    """Scale, bias, formats of both products, quantizers of the four operands, whether the third has a scale per query;
    a query sees keys less than ``reach`` pixels away, in both directions."""
    table = to.program.tensor(step.bias_table)
    bias = np.ascontiguousarray(table.T).reshape(step.heads, 2 * reach - 1, 2 * reach - 1)
    scores: Format = "u8" if step.q is not None and step.k is not None else to.floating
    values: Format = "u8" if step.attention is not None and step.v is not None else to.floating
    quantizers = (None if q is None else _numbers(q) for q in (step.q, step.k, step.attention, step.v))
    return step.scale, bias, scores, values, *quantizers, step.row_scale


# ---- steps of single pixels -----------------------------------------------------------------------------------------


def _layer_norm(to: Rewriter, step: steps.LayerNorm) -> None:
    parameters = (to.program.tensor(step.weight), to.program.tensor(step.bias), step.eps)
    to.emit("layer_norm", step.output, to.maps[step.x], parameters=parameters)


def _activation(to: Rewriter, step: steps.Activation) -> None:
    to.emit("activation", step.output, to.maps[step.x], parameters=(step.function, step.slope))


def _prelu(to: Rewriter, step: steps.PReLU) -> None:
    to.emit("prelu", step.output, to.maps[step.x], parameters=(to.program.tensor(step.slopes),))


def _add(to: Rewriter, step: steps.Add) -> None:
    to.emit("add", step.output, to.maps[step.a], to.maps[step.b])


def _mul(to: Rewriter, step: steps.Mul) -> None:
    whole, part = to.maps[step.a], to.maps[step.b]
    if to.shapes[step.a] != to.shapes[step.output]:
        whole, part = part, whole
    to.emit("multiply", step.output, whole, part)
    if part.size != whole.size:
        to.ops[-1].elsewhere = (part,)


def _affine(to: Rewriter, step: steps.Affine) -> None:
    parameters = tuple(to.program.numbers(value).reshape(-1) for value in (step.scale, step.shift))
    to.emit("affine", step.output, to.maps[step.x], parameters=parameters)


def _concat(to: Rewriter, step: steps.Concat) -> None:
    if len(step.inputs) == 1:
        to.maps[step.output] = to.maps[step.inputs[0]]
    else:
        to.emit("concat", step.output, *(to.maps[name] for name in step.inputs))


def _slice(to: Rewriter, step: steps.Slice) -> None:
    if step.stop - step.start == to.maps[step.x].channels:
        to.rename(step)
    else:
        parameters = (step.start, 0, step.stop - step.start)
        to.emit("copy", step.output, to.maps[step.x], parameters=parameters)


# ---- steps that move pixels -----------------------------------------------------------------------------------------


def _pixel_shuffle(to: Rewriter, step: steps.PixelShuffle) -> None:
    to.emit("pixel_shuffle", step.output, to.maps[step.x], parameters=(step.factor,), elsewhere=True)


def _pixel_unshuffle(to: Rewriter, step: steps.PixelUnshuffle) -> None:
    to.emit("pixel_unshuffle", step.output, to.maps[step.x], parameters=(step.factor,), elsewhere=True)


def _resize(to: Rewriter, step: steps.Resize) -> None:
    old, new = to.maps[step.x].size, to.shapes[step.output][:2]
    taps = [resize_taps(*sizes, step.mode, step.a) for sizes in zip(old, new, strict=True)]
    _resample(to, step, *(_axis(*zip(*axis, strict=True)) for axis in taps))


def _pad(to: Rewriter, step: steps.Pad) -> None:
    old, new = to.maps[step.x].size, to.shapes[step.output][:2]
    mirrors = [(reflection(*sizes, step.mode), np.ones(sizes[1])) for sizes in zip(old, new, strict=True)]
    _resample(to, step, *(_axis([indices], [weights]) for indices, weights in mirrors))


def _resample(to: Rewriter, step: steps.Pad | steps.Resize, *axes: tuple[NDArray[Any], ...]) -> None:
    if to.shapes[step.output] == to.shapes[step.x]:  # each pixel has its own weight alone: 1
        to.rename(step)
    else:
        to.emit("resample", step.output, to.maps[step.x], parameters=(*axes[0], *axes[1]), elsewhere=True)


def _axis(indices: Any, weights: Any) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """taps x size"""
    return np.array(indices, np.int32), np.array(weights, np.float32)


def _crop(to: Rewriter, step: steps.Crop) -> None:
    if to.shapes[step.output] == to.shapes[step.x]:
        to.rename(step)
    else:
        x = to.maps[step.x]
        to.emit("copy", step.output, x, parameters=(0, 0, x.channels), elsewhere=True)


def _max_pool(to: Rewriter, step: steps.MaxPool) -> None:
    to.emit("max_pool", step.output, to.maps[step.x], parameters=(step.kernel, step.stride), elsewhere=True)


def _global_pool(to: Rewriter, step: steps.GlobalPool) -> None:
    x = to.maps[step.x]
    moments = to.moments(x)
    to.emit("global_pool", step.output, moments, parameters=(x.width, step.statistic), elsewhere=True)


# ---- classes of pixels, and the scan ---------------------------------------------------------------------------------


def _argmax(to: Rewriter, step: steps.ArgMax) -> None:
    to.emit("argmax", step.output, to.maps[step.x])


def _lookup(to: Rewriter, step: steps.Lookup) -> None:
    to.emit("lookup", step.output, to.maps[step.x], parameters=(to.program.tensor(step.table),))


def _reorder(to: Rewriter, step: steps.Reorder) -> None:
    order = to.derived("sort_pixels", to.maps[step.classes], "f32", step.count, step.back, elsewhere=True)
    to.emit("gather_pixels", step.output, to.maps[step.x], order)
    to.ops[-1].elsewhere = (to.maps[step.x],)


def _scan(to: Rewriter, step: steps.SelectiveScan) -> None:
    inputs = (to.maps[name] for name in (step.x, step.delta, step.b, step.c))
    parameters = (to.program.tensor(step.decay), to.program.tensor(step.skip))
    to.emit("scan", step.output, *inputs, parameters=parameters, elsewhere=True)


REWRITES: dict[type[Step], Callable[[Rewriter, Any], None]] = {
    steps.BinaryLinear: _binary_linear,
    steps.BinaryConv2d: _binary_conv2d,
    steps.Linear: _linear,
    steps.SparseLinear: _sparse_linear,
    steps.Conv2d: _conv2d,
    steps.WindowAttention: _window_attention,
    steps.OverlappingAttention: _overlapping_attention,
    steps.LayerNorm: _layer_norm,
    steps.Activation: _activation,
    steps.PReLU: _prelu,
    steps.Add: _add,
    steps.Mul: _mul,
    steps.Affine: _affine,
    steps.Concat: _concat,
    steps.Slice: _slice,
    steps.PixelShuffle: _pixel_shuffle,
    steps.PixelUnshuffle: _pixel_unshuffle,
    steps.Resize: _resize,
    steps.MaxPool: _max_pool,
    steps.GlobalPool: _global_pool,
    steps.ArgMax: _argmax,
    steps.Lookup: _lookup,
    steps.Reorder: _reorder,
    steps.SelectiveScan: _scan,
    steps.Pad: _pad,
    steps.Crop: _crop,
}


def _numbers(quantizer: Quantizer) -> tuple[float, float, int]:
    return quantizer.lower, quantizer.step, quantizer.levels


def _used(ops: list[Op]) -> list[Op]:
    """Without those whose values nothing reads."""
    needed: set[Value] = set()
    kept = []
    for op in reversed(ops):
        if op.output is None or op.output in needed:
            needed |= set(op.inputs)
            kept.append(op)
    return kept[::-1]


def _with_additions(ops: list[Op]) -> tuple[Op, ...]:
    """Sums of a product that nothing else reads and of another value become part of the product."""
    uses = Counter(x for op in ops for x in op.inputs)
    products = {op.output: op for op in ops if op.output and op.kind in ADDING and uses[op.output] == 1}
    replaced: dict[Op, Op | None] = {}
    for op in ops:
        product = next((products[x] for x in reversed(op.inputs) if x in products), None)
        if op.kind == "add" and product is not None:
            (other,) = (x for x in op.inputs if x is not product.output)
            replaced[op] = Op(product.kind, (*product.inputs, other), op.output, product.parameters)
            replaced[product] = None
    after = (replaced.get(op, op) for op in ops)
    return tuple(op for op in after if op is not None)
