"""What a step reads: feature maps and tensors, and from which step on a map is no longer needed."""

from __future__ import annotations

from collections.abc import Iterator

from bitsr.program import steps
from bitsr.program.program import Program
from bitsr.program.steps import PackedWeight, Step


def maps_of(step: Step) -> tuple[str, ...]:
    """Names of the feature maps that ``step`` reads."""
    match step:
        case steps.Add() | steps.Mul():
            return step.a, step.b
        case steps.Concat():
            return step.inputs
        case steps.WindowAttention() | steps.OverlappingAttention():
            return (step.qkv,)
        case steps.Reorder():
            return step.x, step.classes
        case steps.SelectiveScan():
            return step.x, step.delta, step.b, step.c
        case steps.Crop() | steps.Resize():
            return (step.x,) if step.like is None else (step.x, step.like)
    return (step.x,)  # type: ignore[attr-defined]


def tensors_of(step: Step) -> tuple[str, ...]:
    """Names of the tensors that ``step`` uses."""
    match step:
        case steps.Linear() | steps.Conv2d():
            weight = step.weight
            packed = (weight.codes, weight.scale, weight.mid) if isinstance(weight, PackedWeight) else (weight,)
            return tuple(name for name in (*packed, step.bias, step.input_scale) if name is not None)
        case steps.BinaryLinear() | steps.BinaryConv2d():
            binary = (step.weight.codes, step.weight.scale, step.threshold)
            return binary if step.bias is None else (*binary, step.bias)
        case steps.SparseLinear():
            return step.values, step.places
        case steps.LayerNorm():
            return step.weight, step.bias
        case steps.WindowAttention() | steps.OverlappingAttention():
            return (step.bias_table,)
        case steps.Lookup():
            return (step.table,)
        case steps.SelectiveScan():
            return step.decay, step.skip
        case steps.PReLU():
            return (step.slopes,)
        case steps.Affine():
            return tuple(value for value in (step.scale, step.shift) if isinstance(value, str))
    return ()


def packed_weights(program: Program) -> Iterator[PackedWeight]:
    """Every packed weight of the program."""
    for step in program.steps:
        if isinstance(step, steps.Linear | steps.Conv2d) and isinstance(step.weight, PackedWeight):
            yield step.weight


def binary_layers(program: Program) -> Iterator[steps.BinaryLinear | steps.BinaryConv2d]:
    """Every step that multiplies signs."""
    for step in program.steps:
        if isinstance(step, steps.BinaryLinear | steps.BinaryConv2d):
            yield step


def releases(program: Program) -> list[tuple[str, ...]]:
    """For each step, the maps that nothing reads after it (its own output included, where nothing ever does)."""
    last = {program.input: 0} | {step.output: i for i, step in enumerate(program.steps)}
    for i, step in enumerate(program.steps):
        last |= dict.fromkeys(maps_of(step), i)
    last.pop(program.output, None)
    freed: list[list[str]] = [[] for _ in program.steps]
    for name, i in last.items():
        freed[i].append(name)
    return [tuple(names) for names in freed]
