"""The floating-point twin of a program: its weights at the values that their codes stand for, nothing else rounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.program import steps
from bitsr.program.arrays import NumpyArrays
from bitsr.program.dataflow import tensors_of
from bitsr.program.frame import Frame
from bitsr.program.program import Program
from bitsr.program.steps import PackedWeight, Step


def floating(program: Program) -> Program:
    """The program without quantizers, codes and input scales; every tensor is float32.  Layers of signs stay: without
    their signs they would be another network.

    Layers keep their names: the weight of a layer that was packed as ``NAME.codes`` is ``NAME.weight``.
    """
    tensors: dict[str, NDArray[Any]] = {}
    made = tuple(_floating_step(step, program, tensors) for step in program.steps)
    return replace(program, steps=made, tensors=tensors)


def plain_bias(step: steps.Linear | steps.Conv2d, program: Program) -> NDArray[np.float32] | None:
    """The layer's bias without the offset of its quantized input, which belongs to the bias of a packed layer: one
    without a bias has subtracted it."""
    bias = None if step.bias is None else program.tensor(step.bias)
    if step.quantizer is None or step.quantizer.lower == 0 or not isinstance(step.weight, PackedWeight):
        return bias
    weight = weight_of(step, program)
    offset = step.quantizer.lower * weight.reshape(len(weight), -1).sum(1, dtype=np.float64)
    return ((0 if bias is None else bias) - offset).astype(np.float32)


def weight_of(step: steps.Linear | steps.Conv2d, program: Program) -> NDArray[np.float32]:
    """The layer's weight as float32, dequantized where it is packed."""
    return np.asarray(Frame(program, NumpyArrays(), {}).dequantized(step.weight), np.float32)


def _floating_step(step: Step, program: Program, tensors: dict[str, NDArray[Any]]) -> Step:
    """``step`` in floating point; the tensors that it then needs are added to ``tensors``."""
    if isinstance(step, steps.Linear | steps.Conv2d):
        return _floating_layer(step, program, tensors)
    tensors |= {name: program.tensor(name) for name in tensors_of(step)}
    if isinstance(step, steps.BinaryLinear | steps.BinaryConv2d):
        tensors[step.weight.codes] = program.tensors[step.weight.codes]
    if isinstance(step, steps.SparseLinear):
        tensors[step.places] = program.tensors[step.places]
    if isinstance(step, steps.WindowAttention | steps.OverlappingAttention):
        return replace(step, q=None, k=None, attention=None, v=None, row_scale=False)
    return step


def _floating_layer(
    step: steps.Linear | steps.Conv2d, program: Program, tensors: dict[str, NDArray[Any]]
) -> steps.Linear | steps.Conv2d:
    weight, bias = weight_of(step, program), plain_bias(step, program)
    if step.input_scale is not None:
        weight = weight * _columns(program.tensor(step.input_scale), step, weight)
    if isinstance(step.weight, PackedWeight):
        name = step.weight.codes.removesuffix(".codes") + ".weight"
    else:
        name = step.weight
    tensors[name] = weight
    kept = None
    if bias is not None:
        kept = step.bias or name.removesuffix(".weight") + ".bias"
        tensors[kept] = bias
    return replace(step, weight=name, bias=kept, quantizer=None, input_scale=None)


def _columns(
    scale: NDArray[np.float32], step: steps.Linear | steps.Conv2d, weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The factor of each input channel in the shape of the weight, whose rows see the channels of their group alone."""
    if isinstance(step, steps.Linear):
        return scale
    groups = np.repeat(scale.reshape(step.groups, -1), len(weight) // step.groups, axis=0)
    return groups[:, None, None, :]
