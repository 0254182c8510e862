"""The steps of the interpreter that have no matrices, against torch.nn.functional."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitsr.data.imresize import imresize
from bitsr.program import steps
from reference_steps import SIZES, both, close, hwc, nchw, random_map

torch = pytest.importorskip("torch")
F = torch.nn.functional

from bitsr.archs.selective_scan import sequential_scan  # noqa: E402

X: dict[str, Any] = {"output": "y", "x": "x"}
ONE_MAP = {
    "relu": (steps.Activation(**X, function="relu"), F.relu),
    "leaky_relu": (steps.Activation(**X, function="leaky_relu", slope=0.2), lambda x: F.leaky_relu(x, 0.2)),
    "leaky_relu beyond 1": (steps.Activation(**X, function="leaky_relu", slope=1.5), lambda x: F.leaky_relu(x, 1.5)),
    "absolute values": (steps.Activation(**X, function="leaky_relu", slope=-1.0), torch.abs),
    "gelu": (steps.Activation(**X, function="gelu"), F.gelu),
    "sigmoid": (steps.Activation(**X, function="sigmoid"), torch.sigmoid),
    "tanh": (steps.Activation(**X, function="tanh"), torch.tanh),
    "clip": (steps.Activation(**X, function="clip"), lambda x: x.clamp(0, 1)),
    "softplus": (steps.Activation(**X, function="softplus"), F.softplus),
    "argmax": (steps.ArgMax(**X), lambda x: x.argmax(1, keepdim=True).float()),
    "affine": (steps.Affine(**X, scale=3.0, shift=-0.5), lambda x: 3 * x - 0.5),
    "affine per channel": (
        steps.Affine(**X, scale=tuple(map(float, range(8))), shift=1.0),
        lambda x: x * torch.arange(8).view(1, 8, 1, 1) + 1,
    ),
    "slice": (steps.Slice(**X, start=2, stop=5), lambda x: x[:, 2:5]),
    "pixel shuffle": (steps.PixelShuffle(**X, factor=2), lambda x: F.pixel_shuffle(x, 2)),
    "pixel unshuffle by 1": (steps.PixelUnshuffle(**X, factor=1), lambda x: x),
    "mean": (steps.GlobalPool(**X, statistic="mean"), lambda x: x.mean((2, 3), keepdim=True)),
    "std": (steps.GlobalPool(**X, statistic="std"), lambda x: x.std((2, 3), keepdim=True, correction=0)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ONE_MAP)
def test_steps_of_one_map(name: str, size: tuple[int, int]) -> None:
    step, expected = ONE_MAP[name]
    x = random_map(*size, 8)
    close(both(step, {"x": x}), hwc(expected(nchw(x))))


def test_sums_products_and_concatenation() -> None:
    a, b = random_map(4, 5, 3), random_map(4, 5, 3, seed=1)
    close(both(steps.Add("y", "a", "b"), {"a": a, "b": b}), a + b)
    close(both(steps.Concat("y", ("a", "b", "a")), {"a": a, "b": b}), np.concatenate([a, b, a], 2))
    for part in (b, b[:1, :1], b[..., :1]):
        close(both(steps.Mul("y", "a", "b"), {"a": a, "b": part}), a * part)
        close(both(steps.Mul("y", "b", "a"), {"a": a, "b": part}), a * part)


@pytest.mark.parametrize("size", SIZES)
def test_layer_norm(size: tuple[int, int]) -> None:
    x, weight, bias = random_map(*size, 10), random_map(1, 1, 10, 1)[0, 0], random_map(1, 1, 10, 2)[0, 0]
    y = both(steps.LayerNorm("y", "x", "w", "b", 1e-5), {"x": x}, w=weight, b=bias)
    close(y, F.layer_norm(torch.from_numpy(x), (10,), torch.from_numpy(weight), torch.from_numpy(bias)).numpy())


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_resize(size: tuple[int, int], mode: Any) -> None:
    x = random_map(*size, 2)
    align = {} if mode == "nearest" else {"align_corners": False}
    for factor in (1, 2, 3, 4):
        expected = F.interpolate(nchw(x), scale_factor=factor, mode=mode, **align)
        close(both(steps.Resize(**X, mode=mode, factor=factor), {"x": x}), hwc(expected))
    for like in ((1, 1), (3, 17), (20, 6)):
        expected = F.interpolate(nchw(x), size=like, mode=mode, **align)
        close(both(steps.Resize(**X, mode=mode, like="z"), {"x": x, "z": random_map(*like, 1)}), hwc(expected))


def test_bicubic_as_in_matlab() -> None:
    """MATLAB mirrors the picture at its border, where we repeat the last pixel."""
    x = random_map(9, 11, 2)
    for factor in (2, 3, 4):
        ours = both(steps.Resize(**X, mode="bicubic", factor=factor, a=-0.5), {"x": x})
        inner = (slice(2 * factor, -2 * factor),) * 2
        close(ours[inner], imresize(x.astype(np.float64), factor)[inner].astype(np.float32))


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_unshuffle_undoes_pixel_shuffle(factor: int) -> None:
    x = random_map(4 * factor, 5 * factor, 2)
    y = both(steps.PixelUnshuffle(**X, factor=factor), {"x": x})
    np.testing.assert_array_equal(y, hwc(F.pixel_unshuffle(nchw(x), factor)))
    np.testing.assert_array_equal(both(steps.PixelShuffle(**X, factor=factor), {"x": y}), x)


@pytest.mark.parametrize("size", SIZES)
def test_prelu(size: tuple[int, int]) -> None:
    x, slopes = random_map(*size, 6), np.float32([0.2, 0, -0.5, 1, 1.5, 0.01])
    y = both(steps.PReLU("y", "x", "s"), {"x": x}, s=slopes)
    close(y, hwc(F.prelu(nchw(x), torch.from_numpy(slopes))))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (7, 3)])
@pytest.mark.parametrize("size", [(7, 7), (8, 13), (21, 10)])
def test_max_pool(size: tuple[int, int], kernel: int, stride: int) -> None:
    x = random_map(*size, 3)
    close(both(steps.MaxPool(**X, kernel=kernel, stride=stride), {"x": x}), hwc(F.max_pool2d(nchw(x), kernel, stride)))


def test_the_first_of_equals_is_the_largest() -> None:
    x = np.array([[[1, 3, 3, 2], [0, 0, 0, 0], [-2, -1, -3, -1]]], np.float32)
    assert both(steps.ArgMax(**X), {"x": x}).ravel().tolist() == [1, 0, 1]


def test_rows_of_a_table() -> None:
    table = random_map(1, 4, 3)[0]
    numbers = np.array([[0, 3, 1], [9, -2, np.nan]], np.float32)[..., None]
    y = both(steps.Lookup(**X, table="t"), {"x": numbers}, t=table)
    np.testing.assert_array_equal(y.reshape(-1, 3), table[[0, 3, 1, 3, 0, 0]])


def test_pixels_are_sorted_by_class_and_put_back() -> None:
    x, classes = random_map(2, 4, 3), np.array([[2, 0, 1, 0], [1, 2, 7, 0]], np.float32)[..., None]
    y = both(steps.Reorder(**X, classes="c", count=3), {"x": x, "c": classes})
    np.testing.assert_array_equal(y.reshape(-1, 3), x.reshape(-1, 3)[[1, 3, 7, 2, 4, 0, 5, 6]])
    np.testing.assert_array_equal(both(steps.Reorder(**X, classes="c", count=3, back=True), {"x": y, "c": classes}), x)


@pytest.mark.parametrize("size", SIZES)
def test_selective_scan(size: tuple[int, int]) -> None:
    x, delta, b, c = (random_map(*size, n, seed) for seed, n in enumerate((4, 4, 3, 3)))
    decay, skip = -np.abs(random_map(1, 4, 3, 5)[0]), random_map(1, 1, 4, 6)[0, 0]
    delta = np.abs(delta)
    step = steps.SelectiveScan("y", "x", "d", "b", "c", "decay", "skip")
    y = both(step, {"x": x, "d": delta, "b": b, "c": c}, decay=decay, skip=skip)
    tokens = [torch.from_numpy(v.reshape(1, -1, v.shape[2])).double() for v in (x, delta, b, c)]
    parameters = [torch.from_numpy(v).double() for v in (decay, skip)]
    expected = sequential_scan(tokens[0], tokens[1], parameters[0], tokens[2], tokens[3], parameters[1])
    close(y, expected.view(x.shape).numpy())


def test_symmetric_padding_repeats_the_last_pixel() -> None:
    x = np.arange(3, dtype=np.float32).reshape(1, 3, 1)
    y = both(steps.Pad(**X, multiple=8, mode="symmetric"), {"x": x})
    assert y.shape == (8, 8, 1) and y[5, :, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]


def test_pad_reflects_and_crop_undoes_it() -> None:
    x = random_map(5, 7, 2)
    y = both(steps.Pad(**X, multiple=8), {"x": x})
    np.testing.assert_array_equal(y, hwc(F.pad(nchw(x), (0, 1, 0, 3), mode="reflect")))
    np.testing.assert_array_equal(both(steps.Crop("z", "y", "x"), {"y": y, "x": x}), x)
    doubled = both(steps.Resize("y", "x", "nearest", 2), {"x": y})
    assert both(steps.Crop("z", "y", "x", 2), {"y": doubled, "x": x}).shape == (10, 14, 2)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 3)])
def test_pad_mirrors_small_maps_as_often_as_needed(size: tuple[int, int]) -> None:
    x = random_map(*size, 1)
    expected = np.pad(x, [(0, -size[0] % 8), (0, -size[1] % 8), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(both(steps.Pad(**X, multiple=8), {"x": x}), expected)
