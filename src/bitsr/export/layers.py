"""Layers and attention as ONNX nodes: integer operands between Q/DQ pairs, so that a runtime may multiply integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitsr.export.floating import plain_bias
from bitsr.export.graph import PIXELS, PLANES, Graph, Layout, Windows
from bitsr.program import steps
from bitsr.program.attention import MASKED, relative_positions
from bitsr.program.sparse import dense
from bitsr.program.steps import Quantizer


def linear(step: steps.Linear, graph: Graph) -> None:
    layout = graph.token_layout(step.x, step.output)
    graph.put(step.output, layout, _layer(step, graph, layout), step.x)


def conv2d(step: steps.Conv2d, graph: Graph) -> None:
    kernel = graph.program.tensors[_weight_name(step)].shape[1:3]
    keeps_size = step.stride == 1 and all(side == 2 * step.padding + 1 for side in kernel)
    graph.put(step.output, PLANES, _layer(step, graph, PLANES), step.x if keeps_size else None)


def _layer(step: steps.Linear | steps.Conv2d, graph: Graph, layout: Layout) -> str:
    """W x + b.  The input is ``value + rest``, see `_operand`; what ``rest`` adds to the product is the same for every
    pixel, so it belongs to the bias, where the program has it already unless ``rest`` is 0."""
    program, x = graph.program, graph.get(step.x, layout)
    packed = isinstance(step.weight, steps.PackedWeight)
    if step.input_scale is not None:
        x = graph.add("Mul", x, graph.vector(program.tensor(step.input_scale), layout))
    bias = None if step.bias is None else program.tensor(step.bias)
    if step.quantizer is not None:
        x, rest = _operand(graph, x, step.quantizer)
        if packed and rest == 0:
            bias = plain_bias(step, program)
        elif not packed and rest:
            x = graph.add("Add", x, graph.number(rest))
    y = _multiply(step, graph, x, _weight(step, graph), bias)
    if isinstance(step.weight, steps.PackedWeight) and step.weight.mid is not None:
        mid = graph.vector(program.tensor(step.weight.mid), layout)
        y = graph.add("Add", y, graph.add("Mul", _sums(step, graph, x), mid))
    return y


def _multiply(
    step: steps.Linear | steps.Conv2d, graph: Graph, x: str, weight: str, bias: NDArray[np.float32] | None = None
) -> str:
    if isinstance(step, steps.Conv2d):
        operands = [x, weight] if bias is None else [x, weight, graph.constant(bias)]
        return graph.add("Conv", *operands, strides=[step.stride] * 2, pads=[step.padding] * 4, group=step.groups)
    y = graph.add("MatMul", x, weight)
    return y if bias is None else graph.add("Add", y, graph.constant(bias))


def sparse_linear(step: steps.SparseLinear, graph: Graph) -> None:
    layout = graph.token_layout(step.x, step.output)
    weight = graph.constant(np.ascontiguousarray(dense(step, graph.program).T))
    graph.put(step.output, layout, graph.add("MatMul", graph.get(step.x, layout), weight), step.x)


def _weight_name(step: steps.Linear | steps.Conv2d) -> str:
    return step.weight.codes if isinstance(step.weight, steps.PackedWeight) else step.weight


def _outer_first(step: steps.Linear | steps.Conv2d, weight: NDArray) -> NDArray:
    """(out, in) -> (in, out), which MatMul takes; (out, kh, kw, in) -> (out, in, kh, kw), which Conv takes."""
    return weight.T if isinstance(step, steps.Linear) else np.moveaxis(weight, -1, 1)


def _weight(step: steps.Linear | steps.Conv2d, graph: Graph) -> str:
    """The weight without its mids: float32, or int8 and dequantized per output channel."""
    program = graph.program
    if not isinstance(step.weight, steps.PackedWeight):
        return graph.constant(_outer_first(step, program.tensor(step.weight)))
    signed = (program.tensors[step.weight.codes].astype(np.int16) - 2 ** (step.weight.bits - 1)).astype(np.int8)
    return _dequantized(step, graph, signed, program.tensor(step.weight.scale))


def _dequantized(
    step: steps.Linear | steps.Conv2d, graph: Graph, codes: NDArray[np.int8], scale: NDArray[np.float32]
) -> str:
    zeros = graph.constant(np.zeros(len(scale), np.int8))
    axis = 1 if isinstance(step, steps.Linear) else 0
    codes_name = graph.constant(_outer_first(step, codes))
    return graph.add("DequantizeLinear", codes_name, graph.constant(scale), zeros, axis=axis)


def _sums(step: steps.Linear | steps.Conv2d, graph: Graph, x: str) -> str:
    """The sum of the inputs that each output sees, which its mid multiplies."""
    if isinstance(step, steps.Linear):
        return graph.add("ReduceSum", x, graph.integers(-1), keepdims=1)
    shape = graph.program.tensors[_weight_name(step)].shape
    rows = shape[0] if step.groups > 1 else 1  # without groups, all outputs see the same
    ones = _dequantized(step, graph, np.ones((rows, *shape[1:]), np.int8), np.ones(rows, np.float32))
    return _multiply(step, graph, x, ones)


def _operand(graph: Graph, x: str, quantizer: Quantizer) -> tuple[str, float]:
    """(value, rest): the quantized ``x`` is value + rest, and value is the dequantization of uint8 codes.

    Where real zero is a code, it is the zero point and rest is 0.  Elsewhere the zero point would be no integer: the
    codes then belong to x - lower, and rest is ``lower``.
    """
    lower, step = np.float32(quantizer.lower), np.float32(quantizer.step)
    on_grid = 0 <= quantizer.zero <= quantizer.levels and np.float32(-quantizer.zero) * step == lower
    low = lower if on_grid else np.float32(0)
    if not on_grid:
        x = graph.add("Sub", x, graph.number(float(lower)))
    if quantizer.levels < 255:  # the codes of more bits saturate by themselves
        high = low + step * np.float32(quantizer.levels)
        x = graph.add("Clip", x, graph.number(float(low)), graph.number(float(high)))
    zero = graph.constant(np.array(quantizer.zero if on_grid else 0, np.uint8))
    codes = graph.add("QuantizeLinear", x, graph.number(float(step)), zero)
    return graph.add("DequantizeLinear", codes, graph.number(float(step)), zero), 0.0 if on_grid else float(lower)


# ---- attention ------------------------------------------------------------------------------------------------------


def window_attention(step: steps.WindowAttention, graph: Graph) -> None:
    windows = Windows(step.window, step.shift)
    channels = graph.channels[step.output]
    q, k, v = graph.add_many(
        "Split", 3, graph.get(step.qkv, windows), graph.integers(channels, channels, channels), axis=2
    )
    mask = None
    if step.shift:
        key = ("mask", graph.size(step.qkv), windows)
        mask = graph.shared(key, lambda: _mask(step.qkv, windows, graph))
    graph.put(step.output, windows, _attend(q, k, v, mask, step, graph), step.qkv)


def overlapping_attention(step: steps.OverlappingAttention, graph: Graph) -> None:
    windows = Windows(step.window, 0)
    channels = graph.channels[step.output]
    q = graph.slice(graph.get(step.qkv, windows), 0, channels, 2)
    wide = graph.slice(graph.get(step.qkv, PIXELS), channels, 3 * channels, 3)
    wide = graph.add("Pad", wide, graph.integers(*[0, step.margin, step.margin, 0] * 2))
    side = step.window + 2 * step.margin
    within = graph.constant(np.arange(side))
    for axis in (0, 1):  # to 1 x rows of windows x side x columns of windows x side x 2C
        firsts = graph.add("Squeeze", graph.side(step.qkv, axis))
        firsts = graph.add("Range", graph.integer(0), firsts, graph.integer(step.window))
        rows = graph.add("Add", graph.add("Unsqueeze", firsts, graph.integers(1)), within)
        wide = graph.add("Gather", wide, rows, axis=1 + 2 * axis)
    wide = graph.add("Transpose", wide, perm=[0, 1, 3, 2, 4, 5])
    wide = graph.add("Reshape", wide, graph.integers(-1, side**2, 2 * channels))
    k, v = graph.add_many("Split", 2, wide, graph.integers(channels, channels), axis=2)
    graph.put(step.output, windows, _attend(q, k, v, None, step, graph), step.qkv)


def _attend(q: str, k: str, v: str, mask: str | None, step: steps.Attention, graph: Graph) -> str:
    """What the queries see, windows x tokens x C as the operands are; ``mask`` is added to the scores."""
    channels = graph.channels[step.output]
    split = graph.integers(0, 0, step.heads, channels // step.heads)
    q, k, v = (
        graph.add("Transpose", graph.add("Reshape", part, split), perm=order)
        for part, order in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3]))
    )
    scores = _product(graph, graph.add("Mul", q, graph.number(step.scale)), k, step.q, step.k)
    margin = step.margin if isinstance(step, steps.OverlappingAttention) else 0
    table = graph.program.tensor(step.bias_table)[relative_positions(step.window, margin)]
    scores = graph.add("Add", scores, graph.constant(table.transpose(2, 0, 1)))
    if mask is not None:
        scores = graph.add("Add", scores, mask)
    attention = graph.add("Softmax", scores, axis=-1)
    if step.row_scale:
        top = graph.add("ReduceMax", attention, graph.integers(-1), keepdims=1)
        y = _product(graph, graph.add("Div", attention, top), v, step.attention, step.v)
        y = graph.add("Mul", y, top)
    else:
        y = _product(graph, attention, v, step.attention, step.v)
    return graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1, 3]), graph.integers(0, 0, channels))


def _product(graph: Graph, a: str, b: str, by_a: Quantizer | None, by_b: Quantizer | None) -> str:
    """(a + rest_a) (b + rest_b), with the rests multiplied out where both operands are codes."""
    a, rest_a = (a, 0.0) if by_a is None else _operand(graph, a, by_a)
    b, rest_b = (b, 0.0) if by_b is None else _operand(graph, b, by_b)
    y = graph.add("MatMul", a, b)
    if rest_a:  # with all of b, so that the product of the rests is in it
        whole = graph.add("Add", b, graph.number(rest_b)) if rest_b else b
        sums = graph.add("ReduceSum", whole, graph.integers(-2), keepdims=1)
        y = graph.add("Add", y, graph.add("Mul", sums, graph.number(rest_a)))
    if rest_b:
        sums = graph.add("ReduceSum", a, graph.integers(-1), keepdims=1)
        y = graph.add("Add", y, graph.add("Mul", sums, graph.number(rest_b)))
    return y


def _mask(name: str, windows: Windows, graph: Graph) -> str:
    """(windows) x 1 x tokens x tokens: what is added to scores of tokens that were no neighbours before the shift."""
    n = windows.window
    rows, columns = (_bands(name, axis, windows, graph) for axis in (0, 1))
    rows = graph.add("Mul", graph.add("Unsqueeze", rows, graph.integers(1)), graph.integer(3))
    regions = graph.add("Add", rows, columns)
    regions = graph.add("Reshape", regions, graph.shape(-1, n, graph.windows_along(name, 1, n), n))
    regions = graph.add("Reshape", graph.add("Transpose", regions, perm=[0, 2, 1, 3]), graph.integers(-1, 1, n * n, 1))
    other = graph.add("Transpose", regions, perm=[0, 1, 3, 2])
    return graph.add("Where", graph.add("Equal", regions, other), graph.number(0), graph.number(MASKED))


def _bands(name: str, axis: int, windows: Windows, graph: Graph) -> str:
    """0 for each row (or column) before the last window, 1 in it, 2 in what came round from the other side."""
    side = graph.add("Squeeze", graph.side(name, axis))
    i = graph.add("Range", graph.integer(0), side, graph.integer(1))
    edges = [graph.add("Sub", side, graph.integer(n)) for n in (windows.window, windows.shift)]
    steps_up = [graph.add("Cast", graph.add("GreaterOrEqual", i, edge), to=7) for edge in edges]  # int64
    return graph.add("Add", *steps_up)
