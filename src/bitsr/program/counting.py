"""What a program costs, counted and not measured: bytes of each layer, multiplications and bit operations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitsr.program import steps
from bitsr.program.dataflow import binary_layers, packed_weights, tensors_of
from bitsr.program.packing import packed_size
from bitsr.program.program import Program
from bitsr.program.shapes import Shape, map_shapes
from bitsr.program.steps import PackedWeight, Quantizer, Step
from bitsr.program.validate import code_bits, packed_bits

FLOAT_BITS = 32  # what floating point is computed in, whatever it is stored in


@dataclass(frozen=True)
class LayerCount:
    """One step that multiplies, for a picture of the counted size.

    Attributes:
        name: the map that the step writes, named after the network's layer.
        kind: "linear", "conv2d", "binarylinear", "binaryconv2d", "sparselinear", "attention" or "selectivescan".
        w_bits: stored bits per weight, without scales; 16 and 32 are floating point.  Of an attention, those of its
            bias table, of a scan those of its decays.
        a_bits: bits of the input, 32 without quantizer; of an attention, the fewest bits of its four operands.
        bytes: of its tensors as they are packed; a tensor that several layers use counts with the first.
        macs: multiplications of one input with one weight that is not masked (of an attention, those of both products;
            of a scan, those of its states with decays and outputs, and of its inputs).
        bit_ops: macs times the bits of both operands, 32 where one of them is floating point; of signs, also the
            multiplications with scales, in floating point.
    """

    name: str
    kind: str
    w_bits: float
    a_bits: int
    bytes: int
    macs: int
    bit_ops: int


@dataclass(frozen=True)
class Cost:
    """Totals per LR pixel, for a picture of the counted size (which padding to windows makes a little larger)."""

    macs: float
    bit_ops: float


def count_layers(program: Program, height: int = 128, width: int = 128) -> list[LayerCount]:
    """All steps that multiply, for a picture of ``height`` x ``width`` LR pixels; raises `BadProgram`."""
    shapes, sizes = map_shapes(program, height, width), tensor_bytes(program)
    counts = []
    for step in program.steps:
        stored = sum(sizes.pop(name, 0) for name in tensors_of(step))
        match step:
            case steps.BinaryLinear() | steps.BinaryConv2d():
                counts.append(_binary(step, stored, shapes, program))
            case steps.Linear() | steps.Conv2d():
                counts.append(_layer(step, stored, shapes, program))
            case steps.SparseLinear():
                counts.append(_sparse(step, stored, shapes, program))
            case steps.WindowAttention() | steps.OverlappingAttention():
                counts.append(_attention(step, stored, shapes, program))
            case steps.SelectiveScan():
                counts.append(_scan(step, stored, shapes, program))
    return counts


def cost(program: Program, height: int = 128, width: int = 128) -> Cost:
    """Multiplications and bit operations per LR pixel of a picture of ``height`` x ``width`` pixels."""
    counts, pixels = count_layers(program, height, width), height * width
    return Cost(sum(layer.macs for layer in counts) / pixels, sum(layer.bit_ops for layer in counts) / pixels)


def parameters(program: Program) -> int:
    """Elements of all tensors except those that quantization added (scales, mids and thresholds)."""
    added = {name for weight in packed_weights(program) for name in (weight.scale, weight.mid)}
    added |= {name for step in binary_layers(program) for name in (step.weight.scale, step.threshold)}
    added |= {getattr(step, "input_scale", None) for step in program.steps}
    block = {step.weight.codes: step.weight.block for step in binary_layers(program)}
    return sum(tensor.size * block.get(name, 1) for name, tensor in program.tensors.items() if name not in added)


def tensor_bytes(program: Program) -> dict[str, int]:
    """Bytes of each tensor in the packed file."""
    bits = packed_bits(program)
    return {
        name: packed_size(tensor.size, bits.get(name, 8)) if tensor.dtype == np.uint8 else tensor.nbytes
        for name, tensor in program.tensors.items()
    }


def _binary(
    step: steps.BinaryLinear | steps.BinaryConv2d, stored: int, shapes: dict[str, Shape], program: Program
) -> LayerCount:
    height, width, rows = shapes[step.output]
    weight = step.weight
    macs = height * width * program.tensors[weight.codes].size * weight.keep
    token = isinstance(step, steps.BinaryLinear) and step.token_scale
    scales = height * width * rows * (len(weight.groups) + token)
    w_bits = 1 if weight.block == 1 else code_bits(weight) / weight.block
    return LayerCount(step.output, _kind(step), w_bits, 1, stored, macs, macs + scales * FLOAT_BITS**2)


def _layer(step: steps.Linear | steps.Conv2d, stored: int, shapes: dict[str, Shape], program: Program) -> LayerCount:
    packed = isinstance(step.weight, PackedWeight)
    tensor = program.tensors[step.weight.codes if isinstance(step.weight, PackedWeight) else step.weight]
    w_bits = step.weight.bits if isinstance(step.weight, PackedWeight) else 8 * tensor.itemsize
    a_bits = _bits(step.quantizer)
    height, width, _ = shapes[step.output]
    macs = height * width * tensor.size
    each = w_bits * a_bits if packed and step.quantizer else FLOAT_BITS**2
    return LayerCount(step.output, _kind(step), w_bits, a_bits, stored, macs, macs * each)


def _sparse(step: steps.SparseLinear, stored: int, shapes: dict[str, Shape], program: Program) -> LayerCount:
    height, width, _ = shapes[step.output]
    values = program.tensors[step.values]
    macs, w_bits = height * width * values.size, 8 * values.itemsize
    return LayerCount(step.output, _kind(step), w_bits, FLOAT_BITS, stored, macs, macs * FLOAT_BITS**2)


def _attention(step: steps.Attention, stored: int, shapes: dict[str, Shape], program: Program) -> LayerCount:
    """Every token meets the window's tokens in all channels, once for the scores and once for the values."""
    height, width, channels = shapes[step.output]
    side = step.window + (2 * step.margin if isinstance(step, steps.OverlappingAttention) else 0)
    macs = height * width * side**2 * channels
    pairs = [(step.q, step.k), (step.attention, step.v)]
    bit_ops = sum(macs * (_bits(a) * _bits(b) if a and b else FLOAT_BITS**2) for a, b in pairs)
    if step.row_scale:
        bit_ops += height * width * channels * FLOAT_BITS**2
    a_bits = min(_bits(quantizer) for pair in pairs for quantizer in pair)
    w_bits = 8 * program.tensors[step.bias_table].itemsize
    return LayerCount(step.output, _kind(step), w_bits, a_bits, stored, 2 * macs, bit_ops)


def _scan(step: steps.SelectiveScan, stored: int, shapes: dict[str, Shape], program: Program) -> LayerCount:
    height, width, _ = shapes[step.output]
    decay = program.tensors[step.decay]
    macs = 3 * height * width * decay.size
    return LayerCount(step.output, _kind(step), 8 * decay.itemsize, FLOAT_BITS, stored, macs, macs * FLOAT_BITS**2)


def _bits(quantizer: Quantizer | None) -> int:
    return quantizer.bits if quantizer else FLOAT_BITS


def _kind(step: Step) -> str:
    return "attention" if isinstance(step, steps.Attention) else type(step).__name__.lower()
