"""Layers of signs on the native engine against the interpreter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bitsr._native", reason="the native engine was not built")

from bitsr import _native as native  # noqa: E402
from bitsr.engine.crossings import gelu_crossings  # noqa: E402
from bitsr.engine.engine import Engine  # noqa: E402
from bitsr.program import steps  # noqa: E402
from bitsr.program.binary import decode, states  # noqa: E402
from bitsr.program.reference import Trace, run  # noqa: E402
from bitsr.program.steps import BinaryWeight  # noqa: E402
from engine_programs import any_program, compare, program_of, random_map  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("any_program")

SIZES = [(1, 1), (1, 7), (5, 3), (3, 65), (4, 131)]
# inputs by group, kept weights, of how many
WEIGHTS = {
    "2:4": ((32, 28), 2, 4),
    "2:4 of many": ((32, 32, 32, 24), 2, 4),
    "dense row": ((60,), 1, 1),
    "dense of many": ((100,), 1, 1),
    "balanced": ((28, 28, 24), 2, 4),
    "small groups": ((8, 8, 4), 1, 4),
    "one input": ((1,), 1, 1),
}


def tensors_of(
    rows: int, kernel: tuple[int, ...], name: str, unit: bool = False
) -> tuple[BinaryWeight, dict[str, Any]]:
    """Random codes, scales, thresholds and biases; with ``unit`` scales of 1 and no bias, so that sums are whole."""
    groups, keep, block = WEIGHTS[name]
    rng = np.random.default_rng(3)
    tensors = {
        "w": rng.integers(0, states(keep, block), (rows, *kernel, sum(groups) // block), np.uint8),
        "s": rng.uniform(0.1, 1, (rows, len(groups))).astype(np.float32),
        "t": rng.normal(0.2, 0.5, sum(groups)).astype(np.float32),
        "b": rng.normal(0, 1, rows).astype(np.float32),
    }
    if unit:
        tensors |= {"s": np.ones_like(tensors["s"]), "b": np.zeros_like(tensors["b"])}
    return BinaryWeight("w", "s", groups, keep, block), tensors


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", list(WEIGHTS))
def test_linears_of_signs(name: str, size: tuple[int, int]) -> None:
    weight, tensors = tensors_of(13, (), name)
    channels = sum(weight.groups)
    compare(
        program_of(channels, steps.BinaryLinear("y", "input", weight, "t", "b"), **tensors), random_map(*size, channels)
    )


@pytest.mark.parametrize("bias", [None, "b"])
@pytest.mark.parametrize("rows", [1, 13])
@pytest.mark.parametrize("name", ["2:4", "one input"])
def test_scales_of_tokens(name: str, rows: int, bias: str | None) -> None:
    weight, tensors = tensors_of(rows, (), name)
    channels = sum(weight.groups)
    step = steps.BinaryLinear("y", "input", weight, "t", bias, token_scale=True)
    for size in SIZES:
        compare(program_of(channels, step, **tensors), random_map(*size, channels))


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_sums_of_signs_are_exact(name: str) -> None:
    """With scales of 1 the output is the integer sum, in the interpreter's trace and in the engine."""
    weight, tensors = tensors_of(9, (), name, unit=True)
    channels = sum(weight.groups)
    program = program_of(channels, steps.BinaryLinear("y", "input", weight, "t", "b"), **tensors)
    x, trace = random_map(5, 70, channels), Trace()
    x[0, :3] = tensors["t"]  # inputs on their threshold are +1
    expected = run(program, x, trace=trace)
    signs = np.where(x >= tensors["t"], 1, -1)
    plain = signs @ decode(tensors["w"], weight.keep, weight.block).astype(int).T
    assert np.array_equal(expected, plain)
    assert np.array_equal(Engine(program)(x), plain)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_scales_in_half_precision_give_the_same_bits(name: str) -> None:
    """Sums of signs times 11 bits are exact in float32 in any order, up to the bias, while n scales of a row are within
    a factor of 4096 / n of each other: what files hold by default runs bit-equal to the interpreter, linears as well as
    convolutions."""
    rng = np.random.default_rng(0)
    for kernel in ((), (3, 3)):
        weight, tensors = tensors_of(9, kernel, name)
        channels = sum(weight.groups)
        least = max(1, np.prod(kernel)) * channels * weight.keep / weight.block / 4096
        scales = np.exp(rng.uniform(np.log(least), 0, tensors["s"].shape))
        scales[:, 0], scales[:, -1] = 1, least
        tensors["s"] = scales.astype(np.float16).astype(np.float32)
        step: steps.Step = steps.BinaryLinear("y", "input", weight, "t")
        if kernel:
            step = steps.BinaryConv2d("y", "input", weight, "t", None, 1, 1)
        program = program_of(channels, step, **tensors)
        x = random_map(5, 70, channels)
        assert np.array_equal(Engine(program)(x), run(program, x))


@pytest.mark.parametrize(
    "kernel,stride,padding", [((3, 3), 1, 1), ((3, 3), 2, 1), ((1, 1), 1, 0), ((5, 3), 3, 2), ((3, 3), 1, 0)]
)
@pytest.mark.parametrize("name", ["2:4", "dense of many", "one input"])
def test_convolutions_of_signs(name: str, kernel: tuple[int, int], stride: int, padding: int) -> None:
    weight, tensors = tensors_of(7, kernel, name)
    channels = sum(weight.groups)
    step = steps.BinaryConv2d("y", "input", weight, "t", "b", stride, padding)
    for size in ((6, 5), (7, 67), (5, 130)):
        compare(program_of(channels, step, **tensors), random_map(*size, channels))


def test_there_are_no_signs_beyond_the_border() -> None:
    """A constant input of +1 and weights of +1: each output counts the taps that meet the picture."""
    tensors = {"w": np.ones((1, 3, 3, 1), np.uint8), "s": np.ones((1, 1), np.float32), "t": np.zeros(1, np.float32)}
    step = steps.BinaryConv2d("y", "input", BinaryWeight("w", "s", (1,)), "t", padding=1)
    program = program_of(1, step, **tensors)
    x = np.ones((3, 4, 1), np.float32)
    counts = np.array([[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]], np.float32)[..., None]
    assert np.array_equal(run(program, x), counts) and np.array_equal(Engine(program)(x), counts)


def test_steps_with_one_threshold_share_their_signs() -> None:
    weight, tensors = tensors_of(5, (), "2:4")
    made = (
        steps.BinaryLinear("a", "input", weight, "t", "b"),
        steps.BinaryLinear("c", "input", weight, "t"),
        steps.Add("y", "a", "c"),
    )
    program = program_of(60, *made, **tensors)
    kinds = [op.kind for group in Engine(program).groups(8, 8) for op in group.ops]
    assert kinds.count("signs") == 1 and kinds.count("binary") == 2
    compare(program, random_map(8, 8, 60))


@pytest.mark.parametrize("shared", [False, True])
def test_signs_of_a_gelu_need_no_gelu(shared: bool) -> None:
    """They are compared on both sides of its valley; where something else reads the GELU it is there as well."""
    weight, tensors = tensors_of(60, (), "2:4", unit=True)
    rng = np.random.default_rng(5)
    tensors["t"] = rng.uniform(-0.2, 0.1, 60).astype(np.float32)
    tensors["t"][:5] = 0, -0.16, -0.17, -1e-7, 40
    made = [steps.Activation("a", "input", "gelu"), steps.BinaryLinear("y", "a", weight, "t", "b")]
    if shared:
        made[1:] = steps.BinaryLinear("l", "a", weight, "t", "b"), steps.Add("y", "a", "l")
    program = program_of(60, *made, **tensors)
    kinds = [op.kind for group in Engine(program).groups(8, 8) for op in group.ops]
    assert kinds.count("activation") == shared and kinds.count("signs") == 1
    x = random_map(16, 40, 60) * 4
    x[0, :20] = gelu_crossings(tensors["t"])[0].clip(-50, 50)  # on the thresholds
    x[0, 20:] = gelu_crossings(tensors["t"])[1].clip(-50, 50)
    if shared:
        compare(program, x)
    else:
        assert np.array_equal(run(program, x), Engine(program)(x))


def test_where_gelu_crosses_thresholds() -> None:
    thresholds = np.array([0.5, 40, 1e30, 0, -1e-6, -0.1, -0.17, -7], np.float32)
    above, below = gelu_crossings(thresholds)
    never = np.finfo(np.float32).min
    assert list(above[1:3]) == [40, 1e30] and abs(above[3]) < 1e-30 and -5.6 < below[3] < -5.5  # GELU(-5.6) is -0
    assert list(below[:3]) == [never] * 3 and list(above[6:]) == [never] * 2
    for side in (above, below):
        gelu = [x * math.erfc(-x / math.sqrt(2)) / 2 for x in side[4:6]]
        assert np.allclose(gelu, thresholds[4:6], rtol=0, atol=1e-7)
    assert all(below[4:6] < -0.752) and all(above[4:6] > -0.751)


def test_signs_inside_windows() -> None:
    """qkv and proj of an attention run on its window's tile; qkv's inputs are moved into the window as signs."""
    weight, tensors = tensors_of(36, (), "small groups")
    table = np.random.default_rng(0).normal(0, 1, (49, 2)).astype(np.float32)
    narrow = BinaryWeight("w2", "s2", (12,), 2, 4)
    made = (
        steps.BinaryLinear("qkv", "input", weight, "t", "b"),
        steps.WindowAttention("attended", "qkv", "table", 2, 4, 2, 0.4),
        steps.BinaryLinear("y", "attended", narrow, "t2"),
    )
    rng = np.random.default_rng(1)
    tensors |= {
        "table": table, "w2": rng.integers(0, 24, (8, 3), np.uint8),
        "s2": np.ones((8, 1), np.float32), "t2": rng.normal(0, 0.2, 12).astype(np.float32),
    }  # fmt: skip
    program = program_of(20, *made, **tensors)
    groups = Engine(program).groups(8, 12)
    (window,) = [n for n, group in enumerate(groups) if group.domain.kind == "windows"]
    before, inside = (
        [op.kind for group in part for op in group.ops] for part in (groups[:window], groups[window : window + 1])
    )
    assert [kind for kind in before if kind in ("signs", "binary")] == ["signs"]
    assert [kind for kind in inside if kind in ("signs", "binary")] == ["binary", "signs", "binary"]
    x = random_map(8, 12, 20)
    expected, ours = run(program, x), Engine(program)(x)
    assert np.mean(np.abs(ours - expected) > 1e-4) < 0.01  # values on a threshold may fall on its other side


SIGNS, SCALE = np.ones((4, 1, 8), np.int8), np.ones((4, 1), np.float32)


@pytest.mark.parametrize(
    "arguments",
    [
        (2 * SIGNS, [8], SCALE),
        (SIGNS, [7], SCALE),
        (SIGNS, [4, 5], np.ones((4, 2), np.float32)),
        (SIGNS, [8, 0], np.ones((4, 2), np.float32)),
        (SIGNS, [8], np.full((4, 1), np.nan, np.float32)),
        (SIGNS, [8], np.ones((3, 1), np.float32)),
        (SIGNS, [8], SCALE, np.ones(3, np.float32)),
        (SIGNS[:0], [8], SCALE[:0]),
    ],
)
def test_matrices_that_contradict_themselves_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError):
        native.SignMatrix(*arguments)


def test_plans_that_contradict_themselves_are_refused() -> None:
    matrix = native.SignMatrix(SIGNS, [8], SCALE)
    plan = native.Plan(1 << 16, 1 << 12, (8, 8, 8), (8, 8, 8))
    x, bits, y = (
        plan.map(c, 8, 8, f, 1, 0, 4096 * i) for i, (c, f) in enumerate(((8, "f32"), (8, "bits"), (4, "f32")))
    )
    filled = plan.map(8, 8, 8, "bits", 1, 1, 4 * 4096)
    plan.rows(8, 8)
    for refused in (
        lambda: plan.signs(x, bits, np.ones(7, np.float32), None),
        lambda: plan.signs(x, bits, np.ones(8, np.float32), np.ones(7, np.float32)),
        lambda: plan.signs(x, bits, np.ones(8, np.float32), np.full(8, np.nan, np.float32)),
        lambda: plan.signs(x, bits, np.full(8, np.inf, np.float32), None),
        lambda: plan.signs(bits, x, np.ones(8, np.float32), None),
        lambda: plan.binary(x, y, matrix),
        lambda: plan.binary(bits, x, matrix),
        lambda: plan.binary(bits, x, y, matrix),
        lambda: plan.binary(bits, bits, y, matrix),
        lambda: plan.binary_conv2d(bits, y, matrix, 3, 3, 1, 1),
        lambda: plan.binary_conv2d(filled, y, native.SignMatrix(np.ones((4, 9, 8), np.int8), [8], SCALE), 3, 3, 1, 1),
        lambda: plan.gemm(bits, y, native.Matrix(np.ones((4, 1, 8), np.float32), "f32")),
    ):
        with pytest.raises(ValueError):
            refused()
