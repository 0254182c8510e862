"""Each step of a program as ONNX nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bitsr.errors import ConfigError
from bitsr.export.binary import binary_conv2d, binary_linear
from bitsr.export.graph import PIXELS, PLANES, Graph, Layout
from bitsr.export.layers import conv2d, linear, overlapping_attention, sparse_linear, window_attention
from bitsr.program import steps
from bitsr.program.steps import Step


def write_step(step: Step, graph: Graph) -> None:
    """Append the nodes of ``step`` and put the map that it makes; raises `ConfigError` for one that has no writer."""
    if type(step) not in WRITERS:
        raise ConfigError(f"step {step.output!r}: bitsr cannot write {type(step).__name__} as ONNX")
    graph.scope = step.output
    WRITERS[type(step)](step, graph)


def layer_norm(step: steps.LayerNorm, graph: Graph) -> None:
    layout = graph.token_layout(step.x, step.output)
    weight, bias = (graph.constant(graph.program.tensor(name)) for name in (step.weight, step.bias))
    y = graph.add("LayerNormalization", graph.get(step.x, layout), weight, bias, axis=-1, epsilon=step.eps)
    graph.put(step.output, layout, y, step.x)


def activation(step: steps.Activation, graph: Graph) -> None:
    layout = graph.layout(step.x)
    x = graph.get(step.x, layout)
    match step.function:
        case "leaky_relu":
            y = graph.add("LeakyRelu", x, alpha=step.slope)
        case "gelu":  # in the form that runtimes know to fuse
            erf = graph.add("Erf", graph.add("Div", x, graph.number(math.sqrt(2))))
            y = graph.add("Mul", x, graph.add("Add", erf, graph.number(1)))
            y = graph.add("Mul", y, graph.number(0.5))
        case "clip":
            y = graph.add("Clip", x, graph.number(0), graph.number(1))
        case _:
            kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus"}
            y = graph.add(kinds[step.function], x)
    graph.put(step.output, layout, y, step.x)


def prelu(step: steps.PReLU, graph: Graph) -> None:
    layout = graph.layout(step.x)
    slopes = graph.vector(graph.program.tensor(step.slopes), layout)
    graph.put(step.output, layout, graph.add("PRelu", graph.get(step.x, layout), slopes), step.x)


def add(step: steps.Add, graph: Graph) -> None:
    layout = graph.layout(step.a, step.b)
    graph.put(step.output, layout, graph.add("Add", graph.get(step.a, layout), graph.get(step.b, layout)), step.a)


def mul(step: steps.Mul, graph: Graph) -> None:
    """Maps of one pixel or one channel broadcast in planes and pixels, but not in windows."""
    layout = graph.layout(step.a, step.b)
    layout = layout if layout == PLANES else PIXELS
    graph.put(step.output, layout, graph.add("Mul", graph.get(step.a, layout), graph.get(step.b, layout)))


def affine(step: steps.Affine, graph: Graph) -> None:
    layout = graph.layout(step.x)
    y = graph.get(step.x, layout)
    for kind, value, neutral in (("Mul", step.scale, 1), ("Add", step.shift, 0)):
        numbers = graph.program.numbers(value)
        if np.any(numbers != neutral):
            y = graph.add(kind, y, graph.vector(numbers, layout) if numbers.ndim else graph.constant(numbers))
    graph.put(step.output, layout, y, step.x)


def concat(step: steps.Concat, graph: Graph) -> None:
    layout = graph.layout(*step.inputs)
    parts = [graph.get(name, layout) for name in step.inputs]
    graph.put(step.output, layout, graph.add("Concat", *parts, axis=_channel_axis(layout)), step.inputs[0])


def slice_channels(step: steps.Slice, graph: Graph) -> None:
    layout = graph.layout(step.x)
    y = graph.slice(graph.get(step.x, layout), step.start, step.stop, _channel_axis(layout))
    graph.put(step.output, layout, y, step.x)


def pixel_shuffle(step: steps.PixelShuffle, graph: Graph) -> None:
    y = graph.add("DepthToSpace", graph.get(step.x, PLANES), blocksize=step.factor, mode="CRD")
    graph.put(step.output, PLANES, y)


def pixel_unshuffle(step: steps.PixelUnshuffle, graph: Graph) -> None:
    """SpaceToDepth orders channels otherwise."""
    f, channels = step.factor, graph.channels[step.x]
    rows, columns = (graph.add("Div", graph.side(step.x, axis), graph.integers(f)) for axis in (0, 1))
    x = graph.add("Reshape", graph.get(step.x, PLANES), graph.shape(1, channels, rows, f, columns, f))
    x = graph.add("Transpose", x, perm=[0, 1, 3, 5, 2, 4])
    graph.put(step.output, PLANES, graph.add("Reshape", x, graph.shape(1, channels * f**2, rows, columns)))


def resize(step: steps.Resize, graph: Graph) -> None:
    """Nearest by indices: float32 coordinates of other runtimes may miss a pixel."""
    x = graph.get(step.x, PLANES)
    size_of = step.like
    if step.mode == "nearest":
        for axis in (0, 1):
            old = graph.side(step.x, axis)
            new = graph.side(step.like, axis) if step.like else graph.add("Mul", old, graph.integers(step.factor))
            i = graph.add("Range", graph.integer(0), graph.add("Squeeze", new), graph.integer(1))
            i = graph.add("Div", graph.add("Mul", i, old), new)
            x = graph.add("Gather", x, i, axis=axis + 2)
        graph.put(step.output, PLANES, x, size_of)
        return
    if step.like:  # all four sides: attribute "axes" meets a bug in ONNX Runtime 1.31
        sides = graph.side(step.like, 0), graph.side(step.like, 1)
        target = ["", graph.shape(1, graph.channels[step.x], *sides)]
    else:
        target = [graph.constant(np.array([1, 1, step.factor, step.factor], np.float32))]
    y = graph.add(
        "Resize", x, "", *target, mode={"bilinear": "linear", "bicubic": "cubic"}[step.mode], cubic_coeff_a=step.a,
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    graph.put(step.output, PLANES, y, size_of)


def max_pool(step: steps.MaxPool, graph: Graph) -> None:
    x = graph.get(step.x, PLANES)
    graph.put(step.output, PLANES, graph.add("MaxPool", x, kernel_shape=[step.kernel] * 2, strides=[step.stride] * 2))


def global_pool(step: steps.GlobalPool, graph: Graph) -> None:
    x = graph.get(step.x, PLANES)
    y = graph.shared(("mean", x), lambda: _mean(x, graph))
    if step.statistic == "std":
        centred = graph.add("Sub", x, y)
        y = graph.add("Sqrt", _mean(graph.add("Mul", centred, centred), graph))
    graph.put(step.output, PLANES, y)


def _mean(x: str, graph: Graph) -> str:
    return graph.add("ReduceMean", x, graph.integers(2, 3), keepdims=1)


def pad(step: steps.Pad, graph: Graph) -> None:
    """By mirrored indices, since ONNX's own reflection goes no further than the picture is large."""
    layout = graph.layout(step.x)
    layout = layout if layout == PLANES else PIXELS
    x = graph.get(step.x, layout)
    for axis in (0, 1):
        side = graph.add("Squeeze", graph.side(step.x, axis))
        above = graph.add("Div", graph.add("Add", side, graph.integer(step.multiple - 1)), graph.integer(step.multiple))
        i = graph.add(
            "Range", graph.integer(0), graph.add("Mul", above, graph.integer(step.multiple)), graph.integer(1)
        )
        repeated = int(step.mode == "symmetric")
        last = graph.add("Mul", graph.add("Sub", side, graph.integer(1)), graph.integer(2))
        if repeated:  # the last pixel stands twice, and so does the first
            last = graph.add("Add", last, graph.integer(1))
        period = graph.add("Max", graph.add("Add", last, graph.integer(repeated)), graph.integer(1))
        i = graph.add("Mod", i, period)
        x = graph.add("Gather", x, graph.add("Min", i, graph.add("Sub", last, i)), axis=axis + _first_side(layout))
    graph.put(step.output, layout, x)


def crop(step: steps.Crop, graph: Graph) -> None:
    layout = graph.layout(step.x)
    layout = layout if layout == PLANES else PIXELS
    ends = graph.shape(graph.side(step.like, 0), graph.side(step.like, 1))
    if step.factor != 1:
        ends = graph.add("Mul", ends, graph.integers(step.factor))
    first = _first_side(layout)
    y = graph.add("Slice", graph.get(step.x, layout), graph.integers(0, 0), ends, graph.integers(first, first + 1))
    graph.put(step.output, layout, y, step.like if step.factor == 1 else None)


def _channel_axis(layout: Layout) -> int:
    return 1 if layout == PLANES else -1


def _first_side(layout: Layout) -> int:
    """The axis of the height."""
    return 2 if layout == PLANES else 1


WRITERS: dict[type[Step], Callable[[Any, Graph], None]] = {
    steps.BinaryLinear: binary_linear,
    steps.BinaryConv2d: binary_conv2d,
    steps.Linear: linear,
    steps.SparseLinear: sparse_linear,
    steps.Conv2d: conv2d,
    steps.WindowAttention: window_attention,
    steps.OverlappingAttention: overlapping_attention,
    steps.LayerNorm: layer_norm,
    steps.Activation: activation,
    steps.PReLU: prelu,
    steps.Add: add,
    steps.Mul: mul,
    steps.Affine: affine,
    steps.Concat: concat,
    steps.Slice: slice_channels,
    steps.PixelShuffle: pixel_shuffle,
    steps.PixelUnshuffle: pixel_unshuffle,
    steps.Resize: resize,
    steps.MaxPool: max_pool,
    steps.GlobalPool: global_pool,
    steps.Pad: pad,
    steps.Crop: crop,
}
