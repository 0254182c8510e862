"""What the engine puts together and where it keeps it; needs no native engine."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitsr.engine.groups import Group, partition, with_borders
from bitsr.engine.memory import Memory, place
from bitsr.engine.ops import CHANNELS_PER_WORD, Value
from bitsr.engine.parts import share_planes
from bitsr.engine.rewrite import rewrite
from bitsr.program import steps
from bitsr.program.program import Program
from bitsr.program.shapes import map_shapes
from bitsr.program.steps import PackedWeight, Quantizer
from engine_programs import program_of
from random_programs import random_program

GRID, FINE = Quantizer(4, -1.0, 0.125), Quantizer(8, -1.0, 1 / 128)


def words(channels: int, height: int, width: int, format: Any, border: int) -> int:
    return -(-channels // CHANNELS_PER_WORD[format]) * (height + 2 * border) * (width + 2 * border)


SIZES = SimpleNamespace(TILE=64, SCAN_CHANNELS=16, map_words=words, tile_words=lambda c, w, f: words(c, 1, w, f, 0))


def groups_of(program: Program, height: int, width: int, fuse: bool = True, floating: Any = "f32") -> list[Group]:
    layers = {step.output: None for step in program.steps}
    graph = rewrite(program, map_shapes(program, height, width), layers, floating, SIZES.TILE)
    groups = partition(graph, SIZES.SCAN_CHANNELS, fuse)
    return with_borders(share_planes(groups) if fuse else groups)


def kinds(groups: list[Group]) -> list[list[str]]:
    return [[op.kind for op in group.ops] for group in groups]


def layer(kind: Any, output: str, x: str, shape: tuple[int, ...], **fields: Any) -> tuple[Any, dict[str, Any]]:
    """A quantized layer and its tensors."""
    tensors = {f"{output}.c": np.zeros(shape, np.uint8), f"{output}.s": np.ones(shape[0], np.float32)}
    weight = PackedWeight(f"{output}.c", f"{output}.s", 4)
    return kind(output, x, weight, quantizer=GRID, **fields), tensors


def block(x: str, name: str, shift: int) -> tuple[list[Any], dict[str, Any]]:
    """A transformer block of 12 channels and 2 heads in windows of 4 that reads the map ``x``; it makes ``name``."""
    n = [f"{name}.{i}" for i in range(9)]
    tensors: dict[str, Any] = {"one": np.ones(12, np.float32), "table": np.zeros((49, 2), np.float32)}
    made = []
    for step in (
        steps.LayerNorm(n[0], x, "one", "one"),
        layer(steps.Linear, n[1], n[0], (36, 12)),
        steps.WindowAttention(n[2], n[1], "table", 2, 4, shift, 0.4, GRID, GRID, GRID, GRID),
        layer(steps.Linear, n[3], n[2], (12, 12)),
        steps.Add(n[4], x, n[3]),
        steps.LayerNorm(n[5], n[4], "one", "one"),
        layer(steps.Linear, n[6], n[5], (24, 12)),
        steps.Activation(n[7], n[6], "gelu"),
        layer(steps.Linear, n[8], n[7], (12, 24)),
        steps.Add(name, n[4], n[8]),
    ):
        step, more = step if isinstance(step, tuple) else (step, {})
        made.append(step)
        tensors |= more
    return made, tensors


FUSED_BLOCK = [
    "gather", "layer_norm", "quantize", "gemm", "attention", "quantize", "gemm", "layer_norm", "quantize", "gemm",
    "activation", "quantize", "gemm",
]  # fmt: skip


def two_blocks() -> Program:
    first, tensors = block("input", "a", 0)
    second, more = block("a", "b", 2)
    conv, most = layer(steps.Conv2d, "y", "b", (12, 3, 3, 12), padding=1)
    end = steps.Add("z", "y", "input")
    return program_of(12, *first, *second, conv, end, **(tensors | more | most))


def test_a_transformer_block_is_one_group() -> None:
    assert kinds(groups_of(two_blocks(), 8, 12)) == [
        ["input"],
        [*FUSED_BLOCK, "scatter"],
        [*FUSED_BLOCK, "quantize", "scatter"],  # only the codes for the convolution leave it
        ["fill_border"],
        ["conv2d", "add", "output"],  # what is added would be read from far in the midst of a convolution
    ]


def gated_block(x: str, name: str, shift: int) -> tuple[list[Any], dict[str, Any]]:
    """As HAT's: a gated convolution works on the same norm as the attention, which has codes of its own."""
    made, tensors = block(x, name, shift)
    norm, qkv, *rest = made
    conv, more = layer(steps.Conv2d, f"{name}.conv", norm.output, (12, 3, 3, 12), padding=1)
    made = [
        norm, conv, steps.GlobalPool(f"{name}.mean", f"{name}.conv", "mean"),
        steps.Mul(f"{name}.gated", f"{name}.conv", f"{name}.mean"), steps.Affine(f"{name}.less", f"{name}.gated", 0.01),
        replace(qkv, quantizer=FINE), *rest[:2], steps.Add(f"{name}.sum", rest[1].output, f"{name}.less"),
        replace(rest[2], b=f"{name}.sum"), *rest[3:],
    ]  # fmt: skip
    return made, tensors | more


def test_what_is_moved_between_maps_and_windows_is_narrow() -> None:
    first, tensors = gated_block("input", "a", 0)
    second, more = gated_block("a", "b", 2)
    groups = groups_of(program_of(12, *first, *second, **(tensors | more)), 8, 12)
    windows = [group for group in groups if group.domain.kind == "windows"]
    assert kinds(windows)[0] == [
        "gather", "gemm", "attention", "quantize", "gather", "multiply", "affine", "gemm", "gather", "add",
        *FUSED_BLOCK[7:], "scatter", "layer_norm", "quantize", "scatter", "quantize", "scatter",
    ]  # fmt: skip
    for group in windows:
        read = [op.inputs[0] for op in group.ops if op.kind == "gather"]
        assert [(x.format, x.channels) for x in read] == [("u8", 12), ("f32", 12), ("f32", 12)]
    made = [op.output for op in windows[0].ops if op.kind == "scatter"]
    assert [x.format for x in made if x is not None] == ["f32", "u8", "u8"]


def test_a_block_writes_over_the_map_that_it_was_the_last_to_read() -> None:
    first, tensors = block("start", "a", 0)
    second, more = block("a", "b", 2)
    program = program_of(12, steps.Affine("start", "input", 2.0), *first, *second, **(tensors | more))
    memory = place(groups_of(program, 64, 64), SIZES)
    residual = {value.name: offset for value, offset in memory.maps.items()}
    assert residual == dict.fromkeys(("start", "a", "b"), 0)
    assert memory.arena_words == words(12, 64, 64, "f32", 0)


def test_without_fusion_every_op_is_alone() -> None:
    program = two_blocks()
    moving = {"gather", "scatter", "fill_border"}
    groups = groups_of(program, 8, 12, fuse=False)
    assert all(len([kind for kind in group if kind not in moving]) <= 1 for group in kinds(groups))
    assert [k for k in kinds(groups) if "attention" in k] == [["gather", "attention", "scatter"]] * 2


def test_convolutions_take_along_what_follows_them() -> None:
    conv, tensors = layer(steps.Conv2d, "a", "input", (8, 3, 3, 4), padding=1)
    last, more = layer(steps.Conv2d, "y", "rest", (4, 3, 3, 6), padding=1)
    program = program_of(
        4, conv, steps.Activation("b", "a", "relu"), steps.Slice("kept", "b", 0, 2), steps.Slice("rest", "b", 2, 8),
        last, steps.Concat("both", ("kept", "y")), steps.GlobalPool("mean", "both", "mean"),
        steps.Mul("gated", "both", "mean"), **tensors, **more,
    )  # fmt: skip
    assert kinds(groups_of(program, 5, 7)) == [
        ["input", "quantize", "fill_border"],
        ["conv2d", "activation", "copy", "quantize", "fill_border"],  # "rest" is read where it lies
        ["conv2d", "moments"],  # and both are written where they are joined
        ["global_pool"],
        ["multiply", "output"],
    ]


def test_a_product_that_others_read_is_no_part_of_a_sum() -> None:
    linear, tensors = layer(steps.Linear, "a", "input", (4, 4))
    made = (linear, steps.Add("b", "input", "a"), steps.Mul("c", "a", "b"), steps.Add("d", "c", "c"))
    assert kinds(groups_of(program_of(4, *made, **tensors), 5, 7)) == [
        ["input", "quantize", "gemm", "add", "multiply", "add", "output"]
    ]


def test_a_sum_of_two_products_is_part_of_the_second() -> None:
    (first, tensors), (second, more) = (layer(steps.Linear, name, "input", (4, 4)) for name in ("a", "b"))
    groups = groups_of(program_of(4, first, second, steps.Add("c", "a", "b"), **tensors, **more), 5, 7)
    assert kinds(groups) == [["input", "quantize", "gemm", "gemm", "output"]]
    *_, last, _ = groups[0].ops
    assert [v.name for v in last.touched] == ["quantize input", "a", "c"]


def test_products_of_floats_are_bf16_where_that_is_asked_for() -> None:
    tensors = {"w": np.ones((4, 3, 3, 4), np.float32), "v": np.ones((4, 4), np.float32)}
    made = steps.Conv2d("a", "input", "w", padding=1), steps.Linear("y", "a", "v", quantizer=GRID)
    groups = groups_of(program_of(4, *made, **tensors), 5, 7, floating="bf16")
    assert kinds(groups) == [
        ["input", "to_bf16", "fill_border"],
        ["conv2d", "round", "to_bf16", "gemm", "output"],
    ]


def test_what_changes_nothing_and_what_nobody_reads_is_left_out() -> None:
    made = (
        steps.Pad("a", "input", 4), steps.Resize("b", "a", "bicubic", 1), steps.Slice("c", "b", 0, 4),
        steps.Concat("d", ("c",)), steps.Conv2d("unused", "d", "w", padding=1), steps.Crop("y", "d", "input"),
    )  # fmt: skip
    assert kinds(groups_of(program_of(4, *made, w=np.ones((4, 3, 3, 4), np.float32)), 8, 8)) == [["input", "output"]]


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_no_two_values_that_are_needed_at_once_share_memory(seed: int, fuse: bool) -> None:
    program, x = random_program(seed, quantized=True)
    groups = groups_of(program, *x.shape[:2], fuse=fuse)
    memory = place(groups, SIZES)
    for value in memory.maps:
        assert memory.maps[value] + map_size(value) <= memory.arena_words
    check_contents(groups, memory)


def map_size(v: Value) -> int:
    return words(v.channels, v.height, v.width, v.format, v.border)


def channels_of(v: Value) -> set[tuple[Value, int]]:
    """The channels of the value that has a place in memory, which ``v`` is or is a part of."""
    start, whole = 0, v
    while whole.part_of is not None:
        whole, first = whole.part_of
        start += first
    return {(whole, start + c) for c in range(v.channels)}


def check_contents(groups: list[Group], memory: Memory) -> None:
    """Run the ops in thought: whatever is read is still what was written there last."""
    arena: set[tuple[Value, int]] = set()

    def place_of(v: Value) -> tuple[bool, int, int]:
        if v in memory.maps:
            return True, memory.maps[v], memory.maps[v] + map_size(v)
        start = memory.locals[v]
        return False, start, start + words(v.channels, 1, memory.widths[v], v.format, 0)

    for group in groups:
        scratch: set[tuple[Value, int]] = set()
        before = set(arena)
        for op in group.ops:
            for x in op.inputs:
                assert channels_of(x) <= arena | scratch
                assert channels_of(x) <= before or x not in op.elsewhere
            if (made := op.output) is None:
                continue
            is_map, first, last = place_of(made.root)
            where = arena if is_map else scratch
            for other in {whole for whole, _ in where} - {made.root}:
                _, start, stop = place_of(other)
                if first < stop and start < last:
                    for x in (x for x in op.inputs if x.root is other):
                        assert x.layout == made.layout and x not in op.elsewhere
                    where -= {(other, c) for c in range(other.channels)}
            where |= channels_of(made)
        for op in group.ops:  # other tiles are not done yet when the first one writes
            assert all(channels_of(x) <= arena for x in op.elsewhere)
