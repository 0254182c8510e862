"""No wrong plan of the compiled engine gets to run, and nothing that a wrong planner does may crash."""

from __future__ import annotations

import random

import numpy as np
import pytest

from native_plans import Builder, native, random_picture


def test_matrices_refuse_what_does_not_fit():
    codes, floats = np.ones((4, 1, 8), np.int8), np.ones((4, 1, 8), np.float32)
    numbers, sums = np.ones(4, np.float32), np.ones((1, 1, 8), np.int8)
    wrong = [
        (floats, "u8", numbers),
        (codes, "f32"),
        (codes, "u8"),
        (codes, "u4", numbers),
        (floats, "f32", np.ones(3, np.float32)),
        (floats, "f32", np.float32([1, 2, np.inf, 3])),
        (np.full_like(floats, np.nan), "bf16"),
        (codes, "u8", numbers, None, numbers),
        (codes, "u8", numbers, None, None, sums),
        (codes, "u8", numbers, None, numbers, 2 * sums),
        (codes, "u8", numbers, None, numbers, sums[..., :7]),
        (codes, "u8", numbers, None, numbers, np.ones((3, 1, 8), np.int8)),
        (codes, "u8", numbers, None, numbers, sums, 2),
        (floats, "f32", None, None, None, None, 3),
        (floats, "f32", None, None, None, None, 0),
        (floats[:0], "f32"),
        (np.ones((1, 9, 8192), np.int8), "u8", numbers[:1]),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError):
            native.Matrix(*arguments)


def test_plans_refuse_what_does_not_fit():
    f32 = np.float32
    one, ones, eye = f32([1]), np.ones(4, f32), np.eye(4, dtype=f32)[:, None]
    matrix = native.Matrix(eye, "f32")
    index, weight = np.zeros((1, 8), np.int32), np.ones((1, 8), f32)
    bias = np.zeros((1, 7, 7), f32)

    def attention(plan, heads=1, window=4, shift=0, scale=1.0, bias=bias, scores="f32", q=None, rows=False):
        plan.attention(10, 5, heads, window, shift, scale, bias, scores, "f32", q, None, None, None, rows)

    rows = {
        "unknown value": lambda p: p.copy(0, 99, 0, 0, 1),
        "negative value": lambda p: p.add(-1, 0, 1),
        "in place": lambda p: p.gemm(0, 0, matrix),
        "overlapping values": lambda p: p.add(4, 4, 6),
        "wrong format": lambda p: p.gemm(2, 1, matrix),
        "summand of another format": lambda p: p.gemm(0, 2, 1, matrix),
        "summand of other channels": lambda p: p.gemm(0, 3, 1, matrix),
        "summand of another size": lambda p: p.gemm(0, 7, 1, matrix),
        "overlapping summand": lambda p: p.gemm(0, 4, 6, matrix),
        "no summand": lambda p: p.gemm(0, 99, 1, matrix),
        "other channels": lambda p: p.add(0, 3, 1),
        "other weights": lambda p: p.gemm(3, 1, matrix),
        "other size": lambda p: p.add(7, 7, 7),
        "tile of another width": lambda p: p.copy(0, 11, 0, 0, 1),
        "gather in rows": lambda p: p.gather(0, 4),
        "attention in rows": attention,
        "pool in rows": lambda p: p.global_pool(0, 8, 3, "mean"),
        "no border": lambda p: p.conv2d(0, 1, native.Matrix(np.ones((4, 9, 4), f32), "f32"), 3, 3, 1, 1),
        "taps": lambda p: p.conv2d(9, 1, matrix, 3, 3, 1, 1),
        "stride": lambda p: p.conv2d(9, 1, matrix, 1, 1, 0, 0),
        "negative padding": lambda p: p.conv2d(9, 1, matrix, 1, 1, 1, -1),
        "output size": lambda p: p.conv2d(9, 1, matrix, 1, 1, 2, 0),
        "no border to fill": lambda p: p.fill_border(0),
        "channels to copy": lambda p: p.copy(0, 1, 3, 0, 2),
        "negative channels": lambda p: p.copy(0, 1, -1, 0, 2),
        "too many channels": lambda p: p.copy(0, 1, 0, 2**31 - 1, 2),
        "no channels": lambda p: p.copy(0, 1, 0, 0, 0),
        "function": lambda p: p.activation(0, 1, "sine", 0),
        "slope": lambda p: p.activation(0, 1, "relu", float("nan")),
        "step 0": lambda p: p.quantize(0, 2, 0, 0, 255, None),
        "levels": lambda p: p.quantize(0, 2, 0, 1, 256, None),
        "infinite lower": lambda p: p.round(0, 1, float("inf"), 1, 255),
        "norm weight": lambda p: p.layer_norm(0, 1, ones[:3], ones, 1e-5),
        "norm eps": lambda p: p.layer_norm(0, 1, ones, ones, -1.0),
        "affine numbers": lambda p: p.affine(0, 1, ones[:2], one),
        "affine nothing": lambda p: p.affine(0, 1, ones[:0], one),
        "factor": lambda p: p.pixel_shuffle(0, 1, 2),
        "factor 0": lambda p: p.pixel_shuffle(0, 1, 0),
        "factor of unshuffling": lambda p: p.pixel_unshuffle(0, 1, 2),
        "slopes": lambda p: p.prelu(0, 1, ones[:3]),
        "infinite slopes": lambda p: p.prelu(0, 1, ones * np.inf),
        "taps outside": lambda p: p.resample(0, 1, index + 8, weight, index, weight),
        "taps size": lambda p: p.resample(0, 1, index[:, :7], weight[:, :7], index, weight),
        "taps mismatch": lambda p: p.resample(0, 1, index, weight[:, :7], index, weight),
        "taps nan": lambda p: p.resample(0, 1, index, weight * np.nan, index, weight),
        "pool kernel": lambda p: p.max_pool(0, 1, 9, 1),
        "pool stride": lambda p: p.max_pool(0, 1, 1, 0),
        "input size": lambda p: p.input(7),
        "input channels": lambda p: p.input(3),
        "largest of several": lambda p: p.argmax(0, 1),
        "table of other channels": lambda p: p.lookup(12, 1, np.ones((2, 3), f32)),
        "table for several": lambda p: p.lookup(0, 1, np.ones((2, 4), f32)),
        "empty table": lambda p: p.lookup(12, 1, np.ones((0, 4), f32)),
        "infinite table": lambda p: p.lookup(12, 1, np.full((2, 4), np.inf, f32)),
        "rows of no start": lambda p: p.sparse(0, 1, np.int32([0, 1, 1, 1]), np.int32([0]), f32([1])),
        "rows that go back": lambda p: p.sparse(0, 1, np.int32([0, 2, 1, 1, 1]), np.int32([0]), f32([1])),
        "rows beyond the entries": lambda p: p.sparse(0, 1, np.int32([0, 1, 1, 1, 2]), np.int32([0]), f32([1])),
        "columns of no channel": lambda p: p.sparse(0, 1, np.int32([0, 1, 1, 1, 1]), np.int32([4]), f32([1])),
        "columns without values": lambda p: p.sparse(0, 1, np.int32([0, 1, 1, 1, 1]), np.int32([0]), f32([1, 2])),
        "infinite entries": lambda p: p.sparse(0, 1, np.int32([0, 1, 1, 1, 1]), np.int32([0]), f32([np.inf])),
        "sparse in place": lambda p: p.sparse(0, 0, np.int32([0, 1, 1, 1, 1]), np.int32([0]), f32([1])),
        "sort in rows": lambda p: p.sort_pixels(12, 13, 4, False),
        "order of several": lambda p: p.gather_pixels(0, 9, 1),
        "gather from another size": lambda p: p.gather_pixels(7, 12, 1),
        "scan in rows": lambda p: p.scan(0, 0, 9, 9, 1, np.ones((4, 4), f32), ones),
    }
    channels = {
        "no classes": lambda p: p.sort_pixels(12, 13, 0, False),
        "classes of several": lambda p: p.sort_pixels(0, 13, 4, False),
        "order of another size": lambda p: p.sort_pixels(12, 8, 4, False),
        "scan in place": lambda p: p.scan(0, 1, 9, 9, 0, np.ones((4, 4), f32), ones),
        "scan of another size": lambda p: p.scan(0, 7, 9, 9, 1, np.ones((4, 4), f32), ones),
        "decays of other channels": lambda p: p.scan(0, 0, 9, 9, 1, np.ones((3, 4), f32), ones),
        "decays of other states": lambda p: p.scan(0, 0, 9, 9, 1, np.ones((4, 3), f32), ones),
        "infinite decays": lambda p: p.scan(0, 0, 9, 9, 1, np.full((4, 4), np.inf, f32), ones),
        "skips": lambda p: p.scan(0, 0, 9, 9, 1, np.ones((4, 4), f32), ones[:3]),
    }
    windows = {
        "map in windows": lambda p: p.add(0, 1, 0),
        "other heads": lambda p: attention(p, heads=3),
        "no heads": lambda p: attention(p, heads=0),
        "other window": lambda p: attention(p, window=8),
        "other shift": lambda p: attention(p, shift=1),
        "bias": lambda p: attention(p, bias=bias[:, :6]),
        "infinite bias": lambda p: attention(p, bias=bias + np.inf),
        "format": lambda p: attention(p, scores="f16"),
        "codes without quantizers": lambda p: attention(p, scores="u8"),
        "scales of rows of floats": lambda p: attention(p, rows=True),
        "quantizer": lambda p: attention(p, q=(0.0, -1.0, 255)),
        "gather of another size": lambda p: p.gather(7, 5),
        "scatter of other channels": lambda p: p.scatter(5, 3),
        "input in windows": lambda p: p.input(5),
    }

    def plan_with_values():
        plan = native.Plan(1 << 16, 1 << 14, (8, 8, 4), (8, 8, 4))
        words = native.map_words(4, 8, 8, "f32", 1)
        place = -(-words // 16) * 16
        plan.map(4, 8, 8, "f32", 0, 0, 0)  # 0
        plan.map(4, 8, 8, "f32", 0, 0, place)
        plan.map(4, 8, 8, "u8", 0, 0, 2 * place)
        plan.map(3, 8, 8, "f32", 0, 0, 3 * place)
        plan.local(4, 8, "f32", 0)  # 4
        plan.local(4, 16, "f32", 64)
        plan.local(4, 8, "f32", 16)
        plan.map(4, 4, 8, "f32", 0, 0, 4 * place)
        plan.map(4, 1, 1, "f32", 0, 0, 5 * place)
        plan.map(4, 8, 8, "f32", 1, 0, 6 * place)
        plan.local(12, 16, "f32", 1024)  # 10
        plan.local(4, 32, "f32", 2048)
        plan.map(1, 8, 8, "f32", 0, 0, 7 * place)  # 12
        plan.map(1, 8, 8, "f32", 0, 0, 8 * place)
        return plan

    for begin, calls in (
        (lambda p: p.rows(8, 8), rows),
        (lambda p: p.windows(8, 8, 4, 0), windows),
        (lambda p: p.channels(1), channels),
    ):
        for name, call in calls.items():
            plan = plan_with_values()
            with pytest.raises(ValueError):
                call(plan)  # without a group
            begin(plan)
            with pytest.raises(ValueError):
                call(plan)
                pytest.fail(name)

    plan = plan_with_values()
    for arguments in [(0, 8), (8, -1), (1 << 21, 8)]:
        with pytest.raises(ValueError):
            plan.rows(*arguments)
    for arguments in [(8, 8, 3, 0), (8, 8, 4, 4), (8, 8, 4, -1), (8, 8, 0, 0), (256, 256, 128, 0)]:
        with pytest.raises(ValueError):
            plan.windows(*arguments)
    for arguments in [(0, 8, 8, "f32", 0, 0, 0), (4, 8, 8, "f64", 0, 0, 0), (4, 8, 8, "f32", -1, 0, 0)]:
        with pytest.raises(ValueError):
            plan.map(*arguments)
    for offset in (-16, 8, 1 << 16, (1 << 16) - 16, 1 << 60):
        with pytest.raises(ValueError):
            plan.map(4, 8, 8, "f32", 0, 0, offset)
        with pytest.raises(ValueError):
            plan.local(4, 8, "f32", offset)


def test_groups_refuse_maps_that_other_tiles_write():
    b = Builder((8, 80, 4), (8, 80, 4))
    x, y = b.map(4, 8, 80, border=1), b.map(4, 8, 80)
    overlapping = b.plan.map(4, 8, 80, "f32", 0, 0, 16)
    matrix = native.Matrix(np.ones((4, 9, 4), np.float32), "f32")
    b.plan.rows(8, 80)
    b.plan.input(x)
    with pytest.raises(ValueError, match="groups of their own"):
        b.plan.conv2d(x, y, matrix, 3, 3, 1, 1)
    with pytest.raises(ValueError, match="groups of their own"):
        b.plan.copy(overlapping, y, 0, 0, 4)
    b.plan.rows(8, 80)
    b.plan.conv2d(x, y, matrix, 3, 3, 1, 1)
    with pytest.raises(ValueError, match="groups of their own"):
        b.plan.add(y, y, x)


def test_runs_refuse_what_does_not_fit():
    x = random_picture(np.random.default_rng(0), 4, 5, 3)
    b = Builder(x.shape, x.shape)
    y = b.input(x.shape)
    b.plan.output(y)
    for wrong, threads in ((x[:3], 1), (x[..., :2].copy(), 1), (x, 0), (x, 257)):
        with pytest.raises(ValueError):
            b.plan.run(wrong, np.empty_like(x), threads)
    with pytest.raises(ValueError):
        b.plan.run(x, np.empty((4, 4, 3), np.float32), 1)
    for wrong in (x.astype(float), x.transpose(1, 0, 2), x.tolist()):
        with pytest.raises(TypeError):
            b.plan.run(wrong, np.empty_like(x), 1)
    assert np.array_equal(b.run(x, x.shape), x)
    for change in (lambda: b.plan.rows(4, 5), lambda: b.plan.output(y), lambda: b.plan.local(3, 5, "f32", 0)):
        with pytest.raises(ValueError, match="has run"):
            change()


@pytest.mark.parametrize("seed", range(20))
def test_random_plans_run_or_are_refused(seed):
    """Nothing that a wrong planner does may crash: random calls, then a run of what was taken."""
    draw = random.Random(seed)
    small = [0, 1, 1, 2, 3, 4, 8]
    sizes = [1, 4, 8, 12, 16, 70]
    formats = ["f32", "f32", "f32", "bf16", "u8"]
    shape = (draw.choice(sizes), draw.choice(sizes), draw.choice(small[1:]))
    plan = native.Plan(1 << 15, 1 << 15, shape, shape)
    matrices = [
        native.Matrix(np.ones((n, taps, c), np.int8), "u8", np.ones(n, np.float32))
        if draw.random() < 0.3
        else native.Matrix(np.ones((n, taps, c), np.float32), draw.choice(["f32", "bf16"]))
        for n, taps, c in [(draw.choice([1, 3, 4]), draw.choice([1, 4, 9]), draw.choice([1, 3, 4])) for _ in range(20)]
    ]

    def value():
        return draw.randrange(30)

    def size():
        return shape[:2] if draw.random() < 0.7 else (draw.choice(sizes), draw.choice(sizes))

    def floats(*lengths):
        return np.ones([draw.choice(length) for length in lengths], np.float32)

    def taps(length):
        lengths = draw.choice([1, 2]), draw.choice([length, length, 3])
        return np.array([[draw.randrange(8) for _ in range(lengths[1])] for _ in range(lengths[0])], np.int32)

    def quantizer():
        return draw.choice([None, (0.0, 0.1, 255), (0.0, 0.0, 255), (-1.0, 0.5, 15)])

    def resample():
        rows, columns = taps(shape[0]), taps(shape[1])
        return value(), value(), rows, rows.astype(np.float32), columns, columns.astype(np.float32)

    def attention():
        window, heads = draw.choice([2, 4]), draw.choice([1, 2])
        bias = np.zeros((heads, 2 * window - 1, 2 * window - 1), np.float32)
        quantizers = [quantizer() for _ in range(4)]
        return (
            value(), value(), heads, window, draw.choice([0, 1]), 1.0, bias, draw.choice(formats), draw.choice(formats),
            *quantizers, draw.choice([False, True]),
        )  # fmt: skip

    methods = {
        "map": lambda: (
            draw.choice(small), *size(), draw.choice(formats), draw.choice([0, 0, 1, 2]), 0, 16 * draw.randrange(1024)
        ),
        "local": lambda: (
            draw.choice(small), draw.choice([1, 4, 16, 64]), draw.choice(formats), 16 * draw.randrange(99)
        ),
        "rows": size,
        "windows": lambda: (*size(), draw.choice([2, 4]), draw.choice([0, 1])),
        "channels": lambda: (draw.choice(small),),
        "input": lambda: (value(),),
        "output": lambda: (value(),),
        "gather": lambda: (value(), value()),
        "scatter": lambda: (value(), value()),
        "fill_border": lambda: (value(),),
        "gemm": lambda: (value(), value(), draw.choice(matrices)),
        "conv2d": lambda: (
            value(), value(), draw.choice(matrices), draw.choice(small), draw.choice(small), draw.choice([1, 2]),
            draw.choice([0, 1]),
        ),
        "attention": attention,
        "layer_norm": lambda: (value(), value(), floats(small), floats(small), 1e-5),
        "activation": lambda: (value(), value(), draw.choice(["relu", "gelu", "tanh", "none"]), 0.1),
        "add": lambda: (value(), value(), value()),
        "multiply": lambda: (value(), value(), value()),
        "affine": lambda: (value(), value(), floats(small), floats(small)),
        "quantize": lambda: (value(), value(), 0.0, 0.1, draw.choice([15, 255, 256]), None),
        "to_bf16": lambda: (value(), value()),
        "round": lambda: (value(), value(), 0.0, 0.1, 255),
        "copy": lambda: (value(), value(), *(draw.choice(small) for _ in range(3))),
        "pixel_shuffle": lambda: (value(), value(), draw.choice([1, 2])),
        "pixel_unshuffle": lambda: (value(), value(), draw.choice([1, 2])),
        "prelu": lambda: (value(), value(), floats(small)),
        "resample": resample,
        "part": lambda: (value(), draw.choice(small), draw.choice(small)),
        "max_pool": lambda: (value(), value(), draw.choice(small), draw.choice(small)),
        "moments": lambda: (value(), value()),
        "global_pool": lambda: (value(), value(), draw.choice(small), draw.choice(["mean", "std", "max"])),
    }  # fmt: skip
    taken = 0
    for method in [*["map"] * 30, *["local"] * 30, *(draw.choice(list(methods)) for _ in range(3000))]:
        try:
            getattr(plan, method)(*methods[method]())
            taken += 1
        except ValueError:
            pass
    assert taken > 20
    picture = np.ones(shape, np.float32)
    plan.run(picture, np.zeros_like(picture), 2)
