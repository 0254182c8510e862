"""Attention on the native engine, alone and in a block, against the interpreter; for this process's instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("bitsr._native", reason="the native engine was not built")

from attention_operands import OPERANDS as SHARED  # noqa: E402
from bitsr.engine.engine import Engine  # noqa: E402
from bitsr.program import steps  # noqa: E402
from bitsr.program.program import Program  # noqa: E402
from bitsr.program.reference import run  # noqa: E402
from bitsr.program.steps import PackedWeight, Quantizer  # noqa: E402
from engine_programs import any_program, compare, program_of, random_map, relative_rms  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("any_program")

OPERANDS = SHARED | {
    "k and attention alone": {"k": Quantizer(8, -2.5, 1 / 32), "attention": Quantizer(8, 0.0, 1 / 512)},
}
WINDOWS = [  # window, shift, heads, channels of a head, height and width in windows
    (4, 0, 2, 5, 2, 3), (4, 1, 3, 4, 5, 1), (4, 2, 1, 16, 1, 1), (7, 3, 3, 10, 2, 2), (5, 4, 2, 7, 2, 3),
    (8, 4, 6, 10, 2, 2), (8, 0, 6, 10, 1, 2), (1, 0, 2, 3, 4, 5), (2, 1, 1, 1, 3, 3), (12, 6, 2, 5, 1, 2),
    (16, 8, 2, 12, 2, 2), (16, 0, 1, 33, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("case", WINDOWS, ids=str)
@pytest.mark.parametrize("operands", OPERANDS)
def test_window_attention(operands: str, case: tuple[int, ...]) -> None:
    window, shift, heads, width, rows, columns = case
    x = random_map(rows * window, columns * window, 3 * heads * width)
    table = random_map(1, (2 * window - 1) ** 2, heads, 1)[0]
    quantizers = OPERANDS[operands]
    step = steps.WindowAttention("y", "input", "t", heads, window, shift, width**-0.5, **quantizers)
    program = program_of(x.shape[2], step, t=table)
    agree_on_attention(program, x, quantizers)


def agree_on_attention(program: Program, x: Any, quantizers: dict[str, Any]) -> None:
    expected, ours, bf16 = run(program, x), Engine(program)(x), Engine(program, "bf16")(x)
    span = max(np.ptp(expected), np.abs(expected).max())
    rounding = 1e-5 * span
    # a softmax near the middle between two codes may get the other one
    moved = np.abs(ours - expected) > rounding
    most = np.abs(x).max() * quantizers["attention"].step if "attention" in quantizers else 0
    assert np.mean(moved) < 0.01 and np.abs(ours - expected).max() <= 2 * most + rounding
    assert relative_rms(bf16, expected) <= (
        2**-7 if not quantizers or "v" in quantizers and "k" in quantizers else 0.05
    )


@pytest.mark.parametrize(
    "case", [(4, 1, 2, 5, 2, 3), (4, 0, 1, 3, 2, 1), (5, 3, 3, 7, 1, 2), (16, 4, 2, 10, 2, 2)], ids=str
)
@pytest.mark.parametrize("operands", OPERANDS)
def test_overlapping_attention(operands: str, case: tuple[int, ...]) -> None:
    window, margin, heads, width, rows, columns = case
    x = random_map(rows * window, columns * window, 3 * heads * width)
    table = random_map(1, (2 * (window + margin) - 1) ** 2, heads, 1)[0]
    quantizers = OPERANDS[operands]
    step = steps.OverlappingAttention("y", "input", "t", heads, window, margin, width**-0.5, **quantizers)
    agree_on_attention(program_of(x.shape[2], step, t=table), x, quantizers)


def test_overlapping_attention_among_other_steps() -> None:
    """What follows joins its windows; what it reads is also read pixel by pixel there."""
    before = steps.WindowAttention("a", "input", "t", 2, 4, 2, 0.5), steps.Concat("b", ("a", "a", "a"))
    after = (
        steps.OverlappingAttention("c", "b", "u", 2, 4, 2, 0.5), steps.Slice("d", "b", 3, 9), steps.Add("e", "c", "d"),
        steps.OverlappingAttention("f", "input", "u", 2, 4, 2, 0.5), steps.Add("y", "e", "f"),
    )  # fmt: skip
    tables = {"t": random_map(1, 49, 2)[0], "u": random_map(1, 121, 2)[0]}
    compare(program_of(18, *before, *after, **tables), random_map(8, 12, 18))


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (4, 4)], ids=str)
@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("margin", [None, 0, 2])
def test_codes_and_gates_move_into_windows(margin: int | None, shift: int, size: tuple[int, int]) -> None:
    """A block as HAT has them, of pictures that are no whole number of windows; then one with wider windows."""
    rng = np.random.default_rng(3)
    tensors: dict[str, Any] = {"s": np.full(36, 1 / 64, np.float32), "one": np.ones(12, np.float32)}
    tensors |= {"t": random_map(1, 49, 2)[0], "u": random_map(1, (7 + 2 * (margin or 0)) ** 2, 2)[0]}
    for name, shape in (("c", (36, 12)), ("d", (12, 3, 3, 12))):
        tensors[name] = rng.integers(0, 16, shape).astype(np.uint8)
    coarse, fine = Quantizer(4, -2.0, 0.25), Quantizer(8, -2.0, 1 / 64)
    tensors["s12"] = tensors["s"][:12]
    made: list[steps.Step] = [
        steps.Pad("p", "input", 4),
        steps.LayerNorm("n", "p", "one", "one"),
        steps.Conv2d("conv", "n", PackedWeight("d", "s12", 4), padding=1, quantizer=coarse),
        steps.GlobalPool("mean", "conv", "mean"), steps.Mul("gated", "conv", "mean"),
        steps.Affine("less", "gated", 0.01),
        steps.Linear("qkv", "n", PackedWeight("c", "s", 4), quantizer=fine),
        steps.WindowAttention("a", "qkv", "t", 2, 4, shift, 0.4),
        steps.Add("b", "p", "a"), steps.Add("o", "b", "less"),
    ]  # fmt: skip
    if margin is not None:
        made += [
            steps.LayerNorm("n2", "o", "one", "one"),
            steps.Linear("qkv2", "n2", PackedWeight("c", "s", 4), quantizer=fine),
            steps.OverlappingAttention("a2", "qkv2", "u", 2, 4, margin, 0.4), steps.Add("o2", "o", "a2"),
        ]  # fmt: skip
    made += [steps.Crop("y", made[-1].output, "input")]
    program, x = program_of(12, *made, **tensors), random_map(*size, 12)
    kinds = [[op.kind for op in group.ops] for group in Engine(program).groups(*size)]
    assert any("attention" in group and "multiply" in group for group in kinds)
    fused = Engine(program)(x)
    np.testing.assert_array_equal(Engine(program, fuse=False)(x, threads=3), fused)
    # a number next to a tie may get the other code
    different = np.abs(fused - run(program, x)) > 1e-5 * np.ptp(fused)
    assert different.any(axis=-1).mean() < 0.05
