"""Every kind of step on the native engine, alone, against the interpreter; for the instruction set of this process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("bitsr._native", reason="the native engine was not built")

from bitsr.engine.engine import Engine  # noqa: E402
from bitsr.engine.rewrite import REWRITES  # noqa: E402
from bitsr.program import steps  # noqa: E402
from bitsr.program.reference import run  # noqa: E402
from bitsr.program.steps import PackedWeight, Quantizer  # noqa: E402
from engine_programs import any_program, compare, program_of, random_map, relative_rms  # noqa: E402, F401
from random_programs import random_program  # noqa: E402

pytestmark = pytest.mark.usefixtures("any_program")

SIZES = [(1, 1), (1, 7), (5, 3), (3, 65), (9, 131)]
X: dict[str, Any] = {"output": "y", "x": "input"}


def test_every_step_is_known() -> None:
    assert set(REWRITES) == set(steps.STEPS.values())


# ---- steps of one map -----------------------------------------------------------------------------------------------

ACTIVATIONS = ("relu", "gelu", "sigmoid", "tanh", "clip", "softplus")
ONE_MAP = {
    **{name: steps.Activation(**X, function=name) for name in ACTIVATIONS},  # type: ignore[arg-type]
    "leaky_relu": steps.Activation(**X, function="leaky_relu", slope=0.2),
    "leaky_relu beyond 1": steps.Activation(**X, function="leaky_relu", slope=1.5),
    "absolute values": steps.Activation(**X, function="leaky_relu", slope=-1.0),
    "affine": steps.Affine(**X, scale=3.0, shift=-0.5),
    "affine per channel": steps.Affine(**X, scale=tuple(map(float, range(9))), shift=1.0),
    "slice": steps.Slice(**X, start=2, stop=7),
    "whole slice": steps.Slice(**X, start=0, stop=9),
    "pixel shuffle": steps.PixelShuffle(**X, factor=3),
    "pixel unshuffle by 1": steps.PixelUnshuffle(**X, factor=1),
    "mean": steps.GlobalPool(**X, statistic="mean"),
    "std": steps.GlobalPool(**X, statistic="std"),
    "pad": steps.Pad(**X, multiple=8),
    "no pad": steps.Pad(**X, multiple=1),
    "symmetric pad": steps.Pad(**X, multiple=8, mode="symmetric"),
    "argmax": steps.ArgMax(**X),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ONE_MAP)
def test_steps_of_one_map(name: str, size: tuple[int, int]) -> None:
    compare(program_of(9, ONE_MAP[name]), random_map(*size, 9))


def test_softplus_far_from_zero() -> None:
    x = np.linspace(-120, 120, 131, dtype=np.float32).reshape(1, -1, 1)
    compare(program_of(1, steps.Activation(**X, function="softplus")), x, 1e-7)
    near = x / 120
    compare(program_of(1, steps.Activation(**X, function="softplus")), near, 3e-7)


# ---- classes of pixels, and the scan ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_first_of_equals_is_the_largest(size: tuple[int, int]) -> None:
    compare(program_of(9, steps.ArgMax(**X)), np.rint(random_map(*size, 9)))


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_a_table(size: tuple[int, int]) -> None:
    numbers = np.rint(5 * random_map(*size, 1))
    numbers[0, 0] = np.inf
    compare(program_of(1, steps.Lookup(**X, table="t"), t=random_map(1, 7, 5)[0]), numbers)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_sorted_by_class_and_put_back(size: tuple[int, int], channels: int) -> None:
    sort = steps.ArgMax("c", "input"), steps.Reorder("s", "input", "c", 3), steps.Affine("a", "s", 2.0, 1.0)
    x = random_map(*size, channels)
    compare(program_of(channels, *sort), x)
    compare(program_of(channels, *sort, steps.Reorder("y", "a", "c", 3, back=True)), x)


@pytest.mark.parametrize(("channels", "states"), [(1, 1), (16, 3), (17, 8), (48, 4)])
def test_selective_scan(channels: int, states: int) -> None:
    sizes = [channels, channels, states, states]
    ends = np.cumsum(sizes).tolist()
    maps = [steps.Slice(f"m{i}", "input", end - n, end) for i, (n, end) in enumerate(zip(sizes, ends, strict=True))]
    delta = steps.Activation("delta", "m1", "softplus")
    scan = steps.SelectiveScan("y", "m0", "delta", "m2", "m3", "decay", "skip")
    tensors = {
        "decay": -3 * np.abs(random_map(1, channels, states, 3)[0]),
        "skip": random_map(1, 1, channels, 4)[0, 0],
    }
    for size in SIZES:
        compare(program_of(ends[-1], *maps, delta, scan, **tensors), random_map(*size, ends[-1]))


@pytest.mark.parametrize("channels", [1, 3, 60])
def test_layer_norm(channels: int) -> None:
    weight, bias = random_map(1, 1, channels, 1)[0, 0], random_map(1, 1, channels, 2)[0, 0]
    step = steps.LayerNorm("y", "input", "w", "b", 1e-5)
    compare(program_of(channels, step, w=weight, b=bias), 3 * random_map(4, 67, channels) + 1)


def test_sums_products_and_concatenation() -> None:
    split = steps.Slice("a", "input", 0, 5), steps.Slice("b", "input", 5, 10), steps.Slice("c", "input", 3, 4)
    x = random_map(4, 70, 10)
    compare(program_of(10, *split[:2], steps.Add("y", "a", "b")), x)
    compare(program_of(10, steps.Add("y", "input", "input")), x)
    compare(program_of(10, *split[:2], steps.Concat("y", ("a", "b", "input", "a"))), x)
    compare(program_of(10, steps.Concat("y", ("input",))), x)
    pooled = steps.GlobalPool("p", "a", "mean")
    for made, part in ((split[:2], "b"), (split, "c"), ((split[0], pooled), "p")):
        compare(program_of(10, *made, steps.Mul("y", "a", part)), x)
        compare(program_of(10, *made, steps.Mul("y", part, "a")), x)
    compare(program_of(10, pooled.__class__("p", "input", "std"), steps.Mul("y", "p", "input")), x[:1, :1])


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_resize(size: tuple[int, int], mode: Any) -> None:
    x = random_map(*size, 2)
    for factor in (1, 2, 3):
        compare(program_of(2, steps.Resize(**X, mode=mode, factor=factor)), x)
    smaller = steps.Resize("s", "input", "nearest", 2), steps.MaxPool("z", "s", 2, 3)
    compare(program_of(2, *smaller, steps.Resize(**X, mode=mode, like="z")), x)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_pixel_unshuffle(size: tuple[int, int], factor: int) -> None:
    x = random_map(factor * size[0], factor * size[1], 3)
    compare(program_of(3, steps.PixelUnshuffle(**X, factor=factor)), x)


@pytest.mark.parametrize("size", SIZES)
def test_prelu(size: tuple[int, int]) -> None:
    slopes = np.float16([0.2, 0, -0.5, 1, 1.5])
    compare(program_of(5, steps.PReLU(**X, slopes="s"), s=slopes), random_map(*size, 5))
    twice = steps.PReLU("p", "input", "s"), steps.PReLU("q", "p", "s"), steps.Add("y", "q", "input")
    compare(program_of(5, *twice, s=slopes), random_map(*size, 5))


def test_bicubic_of_another_slope() -> None:
    compare(program_of(2, steps.Resize(**X, mode="bicubic", factor=3, a=-0.5)), random_map(5, 70, 2))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (7, 3)])
def test_max_pool(kernel: int, stride: int) -> None:
    for size in ((7, 7), (8, 13), (21, 70)):
        compare(program_of(3, steps.MaxPool(**X, kernel=kernel, stride=stride)), random_map(*size, 3))


@pytest.mark.parametrize("size", [*SIZES, (2, 2)])
def test_crop_undoes_padding(size: tuple[int, int]) -> None:
    x = random_map(*size, 4)
    padded = steps.Pad("p", "input", 8), steps.Affine("a", "p", 2.0)
    compare(program_of(4, *padded, steps.Crop("y", "a", "input")), x)
    compare(program_of(4, *padded, steps.PixelShuffle("s", "a", 2), steps.Crop("y", "s", "input", 2)), x)


# ---- layers ---------------------------------------------------------------------------------------------------------

CONVOLUTIONS = [  # kernel, stride, padding, groups, channels, filters
    (1, 1, 0, 1, 3, 5), (1, 1, 2, 1, 3, 5), (3, 1, 1, 1, 3, 16), (5, 1, 2, 1, 6, 8), (3, 2, 0, 1, 8, 3),
    (3, 2, 1, 2, 8, 6), (3, 1, 1, 8, 8, 16), (2, 2, 1, 4, 8, 8), ((1, 3), 1, 1, 1, 5, 4), (3, 1, 1, 5, 15, 10),
    (1, 1, 0, 3, 9, 6), (7, 3, 20, 1, 2, 3), (3, 1, 1, 1, 60, 48),
]  # fmt: skip


def convolution(case: Any) -> tuple[tuple[int, ...], dict[str, int]]:
    """Shape of the filters, and the fields of the step."""
    kernel, stride, padding, groups, channels, filters = case
    kh, kw = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    return (filters, kh, kw, channels // groups), {"stride": stride, "padding": padding, "groups": groups}


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case: Any) -> None:
    (shape, fields), rng = convolution(case), np.random.default_rng(3)
    weight, bias = rng.normal(size=shape).astype(np.float16), rng.normal(size=shape[0]).astype(np.float32)
    for size in ((3, 3), (4, 9), (6, 133)):
        step = steps.Conv2d(**X, weight="w", bias="b", **fields)
        compare(program_of(case[4], step, w=weight, b=bias), random_map(*size, case[4]))


@pytest.mark.parametrize("quantizer", [None, Quantizer(8, -2.0, 1 / 64)])
def test_sums_of_maps_and_products_of_the_same_maps(quantizer: Quantizer | None) -> None:
    """What the last product reads and is added to cannot be written over; what only is added can."""
    weight = 0.3 * np.random.default_rng(3).normal(size=(40, 40)).astype(np.float32)
    made = [
        steps.Affine("x", "input", 2.0), steps.Linear("a", "x", "w", quantizer=quantizer), steps.Add("b", "a", "x"),
        steps.Linear("c", "b", "w", quantizer=quantizer), steps.Add("d", "b", "c"), steps.Add("e", "x", "d"),
    ]  # fmt: skip
    compare(program_of(40, *made, w=weight), random_map(5, 70, 40), 1e-5 if quantizer is None else 0.02)


@pytest.mark.parametrize("mid", [True, False])
@pytest.mark.parametrize("bits", [(2, 3), (4, 4), (8, 8)])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_integer_convolution_is_exact(case: Any, bits: tuple[int, int], mid: bool) -> None:
    """Scales and steps are powers of two, so every output is an integer times one: no rounding may show."""
    (shape, fields), rng, (w_bits, a_bits) = convolution(case), np.random.default_rng(3), bits
    quantizer = Quantizer(a_bits, -0.25 * 2 ** (a_bits - 2), 0.25)
    tensors = {"c": rng.integers(0, 2**w_bits, shape).astype(np.uint8), "s": np.full(shape[0], 2.0, np.float32)}
    if mid:
        tensors["m"] = (2.0 * rng.integers(-3, 4, shape[0])).astype(np.float32)
    weight = PackedWeight("c", "s", w_bits, "m" if mid else None)
    step = steps.Conv2d(**X, weight=weight, **fields, quantizer=quantizer)
    for size in ((3, 3), (5, 70)):
        program, x = program_of(case[4], step, **tensors), 5 * random_map(*size, case[4])
        y = run(program, x)
        assert np.abs(y).max() < 2**24 and (size == (3, 3) or np.ptp(y) > 0)
        np.testing.assert_array_equal(Engine(program)(x), y)
        np.testing.assert_array_equal(Engine(program, "bf16")(x), y)


def test_integer_sums_beyond_whole_floats() -> None:
    """The accumulators pass 2**24; they are still exact when they are rounded once."""
    rng = np.random.default_rng(2)
    x, codes = rng.random((4, 5, 300), dtype=np.float32), rng.integers(0, 256, (8, 3, 3, 300)).astype(np.uint8)
    codes[0], x[1:4, 1:4] = 0, 1.0
    step = steps.Conv2d(**X, weight=PackedWeight("c", "s", 8), padding=1, quantizer=Quantizer(8, 0.0, 2**-8))
    program = program_of(300, step, c=codes, s=np.ones(8, np.float32))
    np.testing.assert_array_equal(Engine(program)(x), run(program, x))


def test_rounding_is_to_even_and_divides() -> None:
    step = float(np.float32(1 / 3))
    x = (np.float32(step) * np.arange(0, 8, 0.5, dtype=np.float32)).reshape(1, -1, 1)
    linear = steps.Linear(**X, weight=PackedWeight("c", "s", 2), quantizer=Quantizer(3, 0.0, step))
    program = program_of(1, linear, c=np.full((1, 1), 3, np.uint8), s=np.full(1, 1 / np.float32(step)))
    np.testing.assert_array_equal(np.rint(Engine(program)(x)).ravel(), [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 7])


def test_codes_are_the_interpreters_for_all_kinds_of_numbers() -> None:
    rng = np.random.default_rng(5)
    for bits, step in ((8, 0.0078125), (8, 0.013), (4, 1e-7), (3, 3e7), (2, 1e-36)):
        size = np.float32(step)
        quantizer = Quantizer(bits, float(np.float32(-1.37) * size), float(size))
        near_ties = (rng.integers(-3, 2**bits + 2, 4096) + 0.5 - 1.37 + rng.normal(0, 1e-6, 4096)) * size
        x = near_ties.astype(np.float32).reshape(16, 256, 1)
        linear = steps.Linear(**X, weight=PackedWeight("c", "s", 2), quantizer=quantizer)
        program = program_of(1, linear, c=np.full((1, 1), 3, np.uint8), s=np.array([1 / size], np.float32))
        np.testing.assert_array_equal(np.rint(Engine(program)(x)), np.rint(run(program, x)))


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_linear_with_either_operand_quantized(packed: bool, quantized: bool, scaled: bool) -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=7).astype(np.float32) for name in "smb"}
    tensors["i"] = rng.uniform(0.5, 2, 13).astype(np.float32)
    if packed:
        tensors["c"] = rng.integers(0, 16, (7, 13)).astype(np.uint8)
    else:
        tensors["w"] = rng.normal(size=(7, 13)).astype(np.float32)
    weight = PackedWeight("c", "s", 4, "m") if packed else "w"
    quantizer = Quantizer(4, -1.5, 0.25) if quantized else None
    step = steps.Linear(**X, weight=weight, bias="b", quantizer=quantizer, input_scale="i" if scaled else None)
    for size in SIZES:
        compare(program_of(13, step, **tensors), random_map(*size, 13))


def test_layers_that_read_the_same_map_share_its_codes() -> None:
    quantizer, rng = Quantizer(4, -1.0, 0.125), np.random.default_rng(1)
    tensors = {"c": rng.integers(0, 16, (4, 3, 3, 4)).astype(np.uint8), "s": np.ones(4, np.float32)}
    made = [steps.Conv2d(f"y{p}", "input", PackedWeight("c", "s", 4), padding=p, quantizer=quantizer) for p in (1, 3)]
    pooled = steps.MaxPool("z", "y3", 5, 1)
    program = program_of(4, *made, pooled, steps.Add("y", "y1", "z"), **tensors)
    kinds = [op.kind for group in Engine(program).groups(8, 9) for op in group.ops]
    assert kinds.count("quantize") == kinds.count("fill_border") == 1
    compare(program, random_map(8, 9, 4))


# ---- steps together -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paddings", [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 0), (1, 2, 1)], ids=str)
def test_dense_convolutions(paddings: tuple[int, ...]) -> None:
    """Each reads all maps before it, with or without a border, while its own result is put beside them."""
    made: list[steps.Step] = []
    tensors, seen = {}, "input"
    for i, padding in enumerate(paddings):
        side = 2 * padding + 1
        tensors[f"w{i}"] = 0.3 * np.random.default_rng(i).normal(size=(3, side, side, 4 + 3 * i)).astype(np.float32)
        made += [
            steps.Conv2d(f"c{i}", seen, f"w{i}", padding=padding),
            steps.Activation(f"a{i}", f"c{i}", "relu"),
            steps.Concat(f"s{i}", (seen, f"a{i}")),
        ]
        seen = f"s{i}"
    tensors["last"] = 0.3 * np.random.default_rng(9).normal(size=(4, 3, 3, 13)).astype(np.float32)
    made += [steps.Conv2d("z", seen, "last", padding=1), steps.Add("y", "z", "input")]
    compare(program_of(4, *made, **tensors), random_map(9, 70, 4))


@pytest.mark.parametrize("seed", [*range(24), 130, 151, 476])  # the last ones found faults once
def test_random_programs(seed: int) -> None:
    program, x = random_program(seed, quantized=False)
    compare(program, x, 3e-5)


@pytest.mark.parametrize("seed", range(12))
def test_random_quantized_programs(seed: int) -> None:
    """Codes may differ where the numbers before them are rounded differently, so few numbers may differ more."""
    program, x = random_program(seed, quantized=True)
    expected, fused = run(program, x), Engine(program)(x)
    np.testing.assert_array_equal(Engine(program, fuse=False)(x, threads=3), fused)
    assert relative_rms(fused, expected) < 0.01
