"""Plans of the compiled engine, made by hand: every step against numpy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bitsr.program.attention import relative_positions, shift_regions
from native_plans import Builder, native, one_step, random_picture


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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
    table = random_picture(rng, heads, 2 * window - 1, 2 * window - 1)
    bias = table.reshape(heads, -1)[:, relative_positions(window)]
    b = Builder(x.shape, (height, width, channels))
    source, target = b.input(x.shape), b.map(channels, height, width)
    b.plan.windows(height, width, window, shift)
    qkv, result = b.local(3 * channels, window**2), b.local(channels, window**2)
    b.plan.gather(source, qkv)
    b.plan.attention(qkv, result, heads, window, shift, 0.5, table, "f32", "f32", None, None, None, None, False)
    b.plan.scatter(result, target)
    b.plan.rows(height, width)
    b.plan.output(target)

    def split(array):
        parts = array.reshape(height // window, window, width // window, window, -1).transpose(0, 2, 1, 3, 4)
        return parts.reshape(-1, window**2, array.shape[2])

    q, k, v = np.split(split(np.roll(x, (-shift, -shift), (0, 1))).astype(float), 3, axis=2)
    regions = shift_regions(height, width, window, shift)
    apart = np.where(regions[:, :, None] != regions[:, None, :], -np.inf, 0)
    parts = []
    for h in range(heads):
        here = slice(h * d, (h + 1) * d)
        scores = 0.5 * q[..., here] @ k[..., here].transpose(0, 2, 1) + bias[h] + apart
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
