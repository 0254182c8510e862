"""Layers of signs as ONNX nodes: ONNX has no products of bits, so signs and weights are numbers there."""

from __future__ import annotations

import numpy as np

from bitsr.export.graph import PLANES, Graph, Layout
from bitsr.program import steps
from bitsr.program.binary import decode


def binary_linear(step: steps.BinaryLinear, graph: Graph) -> None:
    layout = graph.token_layout(step.x, step.output)
    weight = graph.constant(np.ascontiguousarray(_weight(step, graph).T))
    y = graph.add("MatMul", _signs(step, graph, layout), weight)
    if step.token_scale:
        magnitude = graph.add("Abs", graph.get(step.x, layout))
        y = graph.add("Mul", y, graph.add("ReduceMean", magnitude, graph.integers(-1), keepdims=1))
    if step.bias is not None:
        y = graph.add("Add", y, graph.constant(graph.program.tensor(step.bias)))
    graph.put(step.output, layout, y, step.x)


def binary_conv2d(step: steps.BinaryConv2d, graph: Graph) -> None:
    weight = _weight(step, graph)
    operands = [_signs(step, graph, PLANES), graph.constant(np.ascontiguousarray(np.moveaxis(weight, -1, 1)))]
    if step.bias is not None:
        operands.append(graph.constant(graph.program.tensor(step.bias)))
    y = graph.add("Conv", *operands, strides=[step.stride] * 2, pads=[step.padding] * 4)
    keeps_size = step.stride == 1 and all(side == 2 * step.padding + 1 for side in weight.shape[1:3])
    graph.put(step.output, PLANES, y, step.x if keeps_size else None)


def _signs(step: steps.BinaryLinear | steps.BinaryConv2d, graph: Graph, layout: Layout) -> str:
    threshold = graph.vector(graph.program.tensor(step.threshold), layout)
    reached = graph.add("GreaterOrEqual", graph.get(step.x, layout), threshold)
    return graph.add("Where", reached, graph.number(1), graph.number(-1))


def _weight(step: steps.BinaryLinear | steps.BinaryConv2d, graph: Graph) -> np.ndarray:
    """-s, 0 or +s as float32, channels last."""
    weight, tensors = step.weight, graph.program.tensors
    signs = decode(tensors[weight.codes], weight.keep, weight.block)
    scale = np.repeat(graph.program.tensor(weight.scale), weight.groups, axis=1)
    return signs * scale.reshape(len(scale), *[1] * (signs.ndim - 2), -1)
