"""Plans of the compiled engine, made by hand: every step against numpy, and that no wrong plan gets to run."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bitsr.program.attention import shift_regions

native = pytest.importorskip("bitsr._native")


class Builder:
    """A plan whose values get memory one after the other."""

    def __init__(self, input_shape, output_shape, words=1 << 18):
        self.plan = native.Plan(words, words, input_shape, output_shape)
        self.arena = self.scratch = 0

    def map(self, channels, height, width, format="f32", border=0, fill=0):
        words = native.map_words(channels, height, width, format, border)
        offset, self.arena = self.arena, self.arena + -(-words // 16) * 16
        return self.plan.map(channels, height, width, format, border, fill, offset)

    def local(self, channels, width, format="f32"):
        offset, self.scratch = self.scratch, self.scratch + native.tile_words(channels, width, format)
        return self.plan.local(channels, width, format, offset)

    def input(self, shape, **options):
        x = self.map(shape[2], *shape[:2], **options)
        self.plan.rows(*shape[:2])
        self.plan.input(x)
        return x

    def run(self, picture, shape, threads=1):
        result = np.full(shape, np.nan, np.float32)
        self.plan.run(picture, result, threads)
        return result


def one_step(picture, out_shape, build, **options):
    """The result of a plan that takes the picture to a map, does build(builder, x, y) and gives y."""
    b = Builder(picture.shape, out_shape)
    x = b.input(picture.shape, **options)
    if options.get("border"):
        b.plan.fill_border(x)
    y = b.map(out_shape[2], *out_shape[:2])
    b.plan.rows(*out_shape[:2])
    build(b, x, y)
    b.plan.rows(*out_shape[:2])
    b.plan.output(y)
    return b.run(picture, out_shape)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_picture(rng, *shape):
    return rng.standard_normal(shape, np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 64, 3), (5, 100, 3), (7, 17, 5), (2, 129, 4)])
def test_pictures_come_back_as_they_were(rng, shape):
    x = random_picture(rng, *shape)
    assert np.array_equal(one_step(x, shape, lambda b, x, y: b.plan.copy(x, y, 0, 0, shape[2])), x)


def test_copy_takes_channels_and_crops(rng):
    x = random_picture(rng, 9, 90, 5)

    def build(b, x, y):
        b.plan.copy(x, y, 3, 0, 2)
        b.plan.copy(x, y, 0, 2, 1)

    assert np.array_equal(one_step(x, (8, 70, 3), build), x[:8, :70, [3, 4, 0]])


def test_steps_of_a_group_work_on_tiles(rng):
    x = random_picture(rng, 6, 150, 3)
    b = Builder(x.shape, x.shape)
    p, q = b.local(3, 64), b.local(3, 64)
    b.plan.rows(6, 150)
    b.plan.input(p)
    b.plan.affine(p, q, np.float32([1, 2, 3]), np.float32([0.5]))
    b.plan.add(p, q, q)
    b.plan.multiply(q, p, q)
    b.plan.activation(q, q, "relu", 0)
    b.plan.output(q)
    expected = np.maximum((x * np.float32([2, 3, 4]) + 0.5) * x, 0)
    for threads in (1, 2, 5):
        assert np.allclose(b.run(x, x.shape, threads), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
def test_pixel_shuffle(rng, factor):
    height, width, channels = 3, 43, 3
    x = random_picture(rng, height, width, channels * factor**2)
    y = one_step(x, (height * factor, width * factor, channels), lambda b, x, y: b.plan.pixel_shuffle(x, y, factor))
    blocks = x.reshape(height, width, channels, factor, factor).transpose(0, 3, 1, 4, 2)
    assert np.array_equal(y, blocks.reshape(y.shape))


@pytest.mark.parametrize("window, shift", [(8, 0), (8, 4), (4, 1), (5, 2)])
@pytest.mark.parametrize("format", ["f32", "u8"])
def test_windows_are_gathered_and_scattered(rng, window, shift, format):
    shape = (2 * window, 3 * window, 5)
    x = rng.integers(0, 255, shape).astype(np.float32)
    b = Builder(shape, shape)
    first, last = b.input(shape), b.map(5, *shape[:2])
    source, target = first, last
    if format == "u8":
        source, target = b.map(5, *shape[:2], format="u8"), b.map(5, *shape[:2], format="u8")
        b.plan.quantize(first, source, 0, 1, 255, None)
    b.plan.windows(*shape[:2], window, shift)
    tile = b.local(5, window**2, format)
    b.plan.gather(source, tile)
    b.plan.scatter(tile, target)
    b.plan.rows(*shape[:2])
    if format == "u8":
        identity = native.Matrix(np.eye(5, dtype=np.int8)[:, None], "u8", scale=np.ones(5, np.float32))
        b.plan.gemm(target, last, identity)
    b.plan.output(last)
    assert np.array_equal(b.run(x, shape, threads=2), x)


def convolved(x, weights, stride, padding, groups, fill=0):
    """Straightforward convolution in float64: weights out x kh x kw x in / groups."""
    x = np.pad(x.astype(float), ((padding, padding), (padding, padding), (0, 0)), constant_values=fill)
    out, kh, kw, width = weights.shape
    height_out, width_out = (x.shape[0] - kh) // stride + 1, (x.shape[1] - kw) // stride + 1
    y = np.zeros((height_out, width_out, out))
    for n in range(out):
        first = n // (out // groups) * width
        for i in range(kh):
            for j in range(kw):
                taps = x[i:, j:, first : first + width][::stride, ::stride][:height_out, :width_out]
                y[..., n] += taps @ weights[n, i, j].astype(float)
    return y


CONVOLUTIONS = [
    # channels, out, kernel, stride, padding, groups
    (3, 5, (3, 3), 1, 1, 1),
    (6, 4, (3, 3), 1, 0, 2),
    (12, 12, (3, 3), 1, 1, 12),
    (10, 4, (1, 3), 1, 1, 2),
    (5, 7, (3, 3), 2, 1, 1),
    (9, 6, (3, 2), 3, 1, 3),
    (8, 8, (4, 4), 2, 1, 4),
]


@pytest.mark.parametrize("channels, out, kernel, stride, padding, groups", CONVOLUTIONS)
def test_convolution_of_floats(rng, channels, out, kernel, stride, padding, groups):
    x = random_picture(rng, 9, 83, channels)
    weights, bias = random_picture(rng, out, *kernel, channels // groups), random_picture(rng, out)
    expected = convolved(x, weights, stride, padding, groups) + bias
    flat = weights.reshape(out, -1, channels // groups)
    for format, tolerance in (("f32", 1e-5), ("bf16", 2**-6)):
        matrix = native.Matrix(flat, format, bias=bias, groups=groups)

        def build(b, x, y, format=format, matrix=matrix):
            if format == "bf16":
                low = b.map(channels, 9, 83, format, border=padding)
                b.plan.rows(9, 83)
                b.plan.to_bf16(x, low)
                if padding:
                    b.plan.fill_border(low)
                x = low
                b.plan.rows(*expected.shape[:2])
            b.plan.conv2d(x, y, matrix, *kernel, stride, padding)

        y = one_step(x, expected.shape, build, border=padding)
        assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("channels, out, kernel, stride, padding, groups", CONVOLUTIONS)
def test_convolution_of_codes_is_exact(rng, channels, out, kernel, stride, padding, groups):
    x = rng.integers(0, 256, (9, 83, channels)).astype(np.float32)
    weights = rng.integers(-128, 128, (out, *kernel, channels // groups)).astype(np.int8)
    scale, mid = np.float32(rng.integers(1, 4, out)), np.float32(rng.integers(-3, 4, out))
    ones = np.ones((groups, kernel[0] * kernel[1], channels // groups), np.int8)
    matrix = native.Matrix(weights.reshape(out, *ones.shape[1:]), "u8", scale, None, mid, ones, groups)
    fill = 7

    def build(b, x, y):
        codes = b.map(channels, 9, 83, "u8", border=padding, fill=fill * 0x01010101)
        b.plan.rows(9, 83)
        b.plan.quantize(x, codes, 0, 1, 255, None)
        if padding:
            b.plan.fill_border(codes)
        b.plan.rows(*expected.shape[:2])
        b.plan.conv2d(codes, y, matrix, *kernel, stride, padding)

    sums = convolved(x, np.ones_like(weights), stride, padding, groups, fill)
    expected = convolved(x, weights, stride, padding, groups, fill) * scale + sums * mid
    assert np.array_equal(one_step(x, expected.shape, build), expected.astype(np.float32))


def test_attention_sees_its_window_and_region(rng):
    window, shift, heads, d = 4, 2, 2, 3
    height, width, channels = 8, 12, heads * d
    x = random_picture(rng, height, width, 3 * channels)
    bias = random_picture(rng, heads, window**2, window**2)
    b = Builder(x.shape, (height, width, channels))
    source, target = b.input(x.shape), b.map(channels, height, width)
    b.plan.windows(height, width, window, shift)
    qkv, result = b.local(3 * channels, window**2), b.local(channels, window**2)
    b.plan.gather(source, qkv)
    b.plan.attention(qkv, result, heads, window, shift, 0.5, bias, "f32", "f32", None, None, None, None)
    b.plan.scatter(result, target)
    b.plan.rows(height, width)
    b.plan.output(target)

    def split(array):
        parts = array.reshape(height // window, window, width // window, window, -1).transpose(0, 2, 1, 3, 4)
        return parts.reshape(-1, window**2, array.shape[2])

    q, k, v = np.split(split(np.roll(x, (-shift, -shift), (0, 1))).astype(float), 3, axis=2)
    regions = shift_regions(height, width, window, shift)
    apart = (regions[:, :, None] != regions[:, None, :]) * -100.0
    parts = []
    for h in range(heads):
        here = slice(h * d, (h + 1) * d)
        scores = 0.5 * q[..., here] @ k[..., here].transpose(0, 2, 1) + bias[h].T + apart
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(scores / scores.sum(-1, keepdims=True) @ v[..., here])
    y = np.concatenate(parts, 2).reshape(height // window, width // window, window, window, channels)
    expected = np.roll(y.transpose(0, 2, 1, 3, 4).reshape(height, width, channels), (shift, shift), (0, 1))
    assert np.allclose(b.run(x, expected.shape, threads=2), expected, atol=1e-5)


def pool(b, x, y, statistic, height, width, channels):
    moments = b.map(2 * channels, -(-width // native.TILE), height)
    b.plan.rows(height, width)
    b.plan.moments(x, moments)
    b.plan.channels(channels)
    b.plan.global_pool(moments, y, width, statistic)


def test_resample_max_pool_and_global_pool(rng):
    x = random_picture(rng, 9, 140, 3)
    rows, columns = (rng.integers(0, n, (3, m)).astype(np.int32) for n, m in ((9, 5), (140, 201)))
    row_weight, column_weight = random_picture(rng, 3, 5), random_picture(rng, 3, 201)
    expected = np.einsum("tywc,ty->ywc", x[rows], row_weight)
    expected = np.einsum("ytwc,tw->ywc", expected[:, columns], column_weight)
    y = one_step(x, (5, 201, 3), lambda b, x, y: b.plan.resample(x, y, rows, row_weight, columns, column_weight))
    assert np.allclose(y, expected, atol=1e-4)

    y = one_step(x, (4, 69, 3), lambda b, x, y: b.plan.max_pool(x, y, 3, 2))
    views = [x[i : i + 7 : 2, j : j + 137 : 2] for i in range(3) for j in range(3)]
    assert np.array_equal(y, np.max(views, 0))

    for statistic, reduce in (("mean", np.mean), ("std", np.std)):

        def build(b, x, y, statistic=statistic):
            pool(b, x, y, statistic, 9, 140, 3)

        y = one_step(x, (1, 1, 3), build)
        assert np.allclose(y[0, 0], reduce(x.astype(float), axis=(0, 1)), atol=1e-6)


@pytest.mark.parametrize("back", [False, True])
def test_pixels_are_gathered_in_order(rng, back):
    x = random_picture(rng, 5, 70, 3)
    x[..., 0] = rng.integers(-1, 6, (5, 70))
    x[0, 0, 0] = np.nan

    def build(b, x, y):
        classes, order = b.map(1, 5, 70), b.map(1, 5, 70)
        b.plan.copy(x, classes, 0, 0, 1)
        b.plan.channels(1)
        b.plan.sort_pixels(classes, order, 5, back)
        b.plan.rows(5, 70)
        b.plan.gather_pixels(x, order, y)

    order = np.argsort(np.nan_to_num(x[..., 0]).clip(0, 4).ravel(), kind="stable")
    expected = x.reshape(-1, 3)[np.argsort(order) if back else order].reshape(x.shape)
    np.testing.assert_array_equal(one_step(x, x.shape, build), expected)


def test_an_order_that_is_none_does_no_harm(rng):
    x = random_picture(rng, 5, 70, 1)
    y = one_step(x, x.shape, lambda b, x, y: b.plan.gather_pixels(x, x, y))
    assert np.isin(y, x).all()


def test_scan_in_tiles_of_channels(rng):
    x = np.abs(random_picture(rng, 3, 70, 20))
    decay, skip = -np.abs(random_picture(rng, 18, 2)), random_picture(rng, 18)

    def build(b, x, y):
        taken, state = b.map(18, 3, 70), b.map(2, 3, 70)
        b.plan.copy(x, taken, 0, 0, 18)
        b.plan.copy(x, state, 18, 0, 2)
        b.plan.channels(2)
        b.plan.scan(taken, taken, state, state, y, decay, skip)

    h, expected = np.zeros((18, 2)), np.zeros((210, 18))
    for t, pixel in enumerate(x.reshape(-1, 20).astype(float)):
        u, b = pixel[:18], pixel[18:]
        h = np.exp(u[:, None] * decay) * h + (u * u)[:, None] * b
        expected[t] = h @ b + skip * u
    y = one_step(x, (3, 70, 18), build).reshape(210, 18)
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_multiply_by_planes_and_by_one_channel(rng):
    x = random_picture(rng, 4, 70, 3)

    def by_means(b, x, y):
        means = b.map(3, 1, 1)
        pool(b, x, means, "mean", 4, 70, 3)
        b.plan.rows(4, 70)
        b.plan.multiply(x, means, y)

    def by_first(b, x, y):
        first = b.local(1, 64)
        b.plan.copy(x, first, 0, 0, 1)
        b.plan.multiply(x, first, y)

    assert np.allclose(one_step(x, x.shape, by_means), x * x.mean((0, 1)), atol=1e-6)
    assert np.allclose(one_step(x, x.shape, by_first), x * x[..., :1])


def test_layer_norm_quantize_and_round(rng):
    x = random_picture(rng, 2, 70, 6)
    weight, bias = random_picture(rng, 6), random_picture(rng, 6)
    y = one_step(x, x.shape, lambda b, x, y: b.plan.layer_norm(x, y, weight, bias, 1e-5))
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias
    assert np.allclose(y, expected, atol=1e-5)

    lower, step = np.float32(-1.3), np.float32(0.17)
    codes = np.clip(np.rint((x - lower) / step), 0, 15)
    y = one_step(x, x.shape, lambda b, x, y: b.plan.round(x, y, lower, step, 15))
    assert np.allclose(y, codes * step + lower, atol=1e-6)


def test_runs_share_a_plan(rng):
    pictures = [random_picture(rng, 30, 100, 3) for _ in range(6)]
    weights = random_picture(rng, 3, 9, 3)
    b = Builder((30, 100, 3), (30, 100, 3))
    x = b.input((30, 100, 3), border=1)
    b.plan.fill_border(x)
    b.plan.rows(30, 100)
    y = b.local(3, 64)
    b.plan.conv2d(x, y, native.Matrix(weights, "f32"), 3, 3, 1, 1)
    b.plan.output(y)
    expected = [b.run(picture, picture.shape) for picture in pictures]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda picture: b.run(picture, picture.shape, 2), pictures * 5))
    assert all(np.array_equal(y, expected[i % 6]) for i, y in enumerate(results))


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
    bias = np.zeros((1, 16, 16), f32)

    def attention(plan, heads=1, window=4, shift=0, scale=1.0, bias=bias, scores="f32", q=None):
        plan.attention(10, 5, heads, window, shift, scale, bias, scores, "f32", q, None, None, None)

    rows = {
        "unknown value": lambda p: p.copy(0, 99, 0, 0, 1),
        "negative value": lambda p: p.add(-1, 0, 1),
        "in place": lambda p: p.gemm(0, 0, matrix),
        "overlapping values": lambda p: p.add(4, 4, 6),
        "wrong format": lambda p: p.gemm(2, 1, matrix),
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
        "bias": lambda p: attention(p, bias=bias[:, :8]),
        "infinite bias": lambda p: attention(p, bias=bias + np.inf),
        "format": lambda p: attention(p, scores="f16"),
        "codes without quantizers": lambda p: attention(p, scores="u8"),
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


def test_runs_refuse_what_does_not_fit(rng):
    x = random_picture(rng, 4, 5, 3)
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
        bias = np.zeros((heads, window**2, window**2), np.float32)
        quantizers = [quantizer() for _ in range(4)]
        return (
            value(), value(), heads, window, draw.choice([0, 1]), 1.0, bias, draw.choice(formats), draw.choice(formats),
            *quantizers,
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
