"""The interpreter, step by step: against torch.nn.functional and plain integer arithmetic, and NumPy against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attention_operands import OPERANDS
from bitsr.data.imresize import imresize
from bitsr.descriptor import Descriptor
from bitsr.errors import PictureError
from bitsr.program import steps
from bitsr.program.arrays import NumpyArrays
from bitsr.program.dataflow import releases
from bitsr.program.program import Program
from bitsr.program.reference import FUNCTIONS, execute, run
from bitsr.program.steps import PackedWeight, Quantizer, Step

torch = pytest.importorskip("torch")
F = torch.nn.functional

from bitsr.archs.selective_scan import sequential_scan  # noqa: E402
from bitsr.archs.swinir import SwinBlock, merge, partition, relative_position_index, shift_mask  # noqa: E402
from bitsr.lowering.torch_arrays import TorchArrays  # noqa: E402

SIZES = [(1, 1), (1, 7), (5, 3), (8, 8), (13, 9)]
Map = NDArray[np.float32]


def random_map(height: int, width: int, channels: int, seed: int = 0) -> Map:
    return np.random.default_rng(seed).normal(0.2, 1, (height, width, channels)).astype(np.float32)


def program_of(*made: Step, channels: int = 3, **tensors: Any) -> Program:
    arrays = {name.replace("__", "."): np.asarray(value) for name, value in tensors.items()}
    return Program(made, arrays, Descriptor("test", 1), output=made[-1].output, channels=channels)


def both(step: Step, maps: dict[str, Map], **tensors: Any) -> Map:
    """The step's output with NumPy, after comparing it and its integers with torch."""
    program = program_of(step, **tensors)
    ours: dict[str, list[Any]] = {}
    theirs: dict[str, list[Any]] = {}
    y = execute(step, maps, program, NumpyArrays(), ours)
    t = TorchArrays()
    z = t.numpy(execute(step, {name: t.array(x) for name, x in maps.items()}, program, t, theirs))
    assert y.dtype == z.dtype == np.float32
    close(z, y)
    assert ours.keys() == theirs.keys()
    for name, pieces in ours.items():
        for a, b in zip(pieces, theirs[name], strict=True):
            assert a.dtype == t.numpy(b).dtype and np.issubdtype(a.dtype, np.integer)
            if name not in ("attention", "values"):  # behind a softmax
                np.testing.assert_array_equal(a, t.numpy(b))
    return np.asarray(y)


def nchw(x: Map) -> Any:
    return torch.from_numpy(x.copy()).permute(2, 0, 1)[None]


def hwc(x: Any) -> Map:
    return x[0].permute(1, 2, 0).numpy()


def close(ours: Any, theirs: Any, share: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= share * max(np.ptp(theirs), np.abs(theirs).max(), 1e-30)


# ---- floating-point steps -------------------------------------------------------------------------------------------

X: dict[str, Any] = {"output": "y", "x": "x"}
ONE_MAP = {
    "relu": (steps.Activation(**X, function="relu"), F.relu),
    "leaky_relu": (steps.Activation(**X, function="leaky_relu", slope=0.2), lambda x: F.leaky_relu(x, 0.2)),
    "leaky_relu beyond 1": (steps.Activation(**X, function="leaky_relu", slope=1.5), lambda x: F.leaky_relu(x, 1.5)),
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


# ---- linear layers and convolutions ---------------------------------------------------------------------------------

CONVOLUTIONS = [  # kernel, stride, padding, groups
    (1, 1, 0, 1), (3, 1, 1, 1), (5, 1, 2, 1), (3, 2, 0, 1), (3, 2, 1, 2), (3, 1, 1, 8), (2, 2, 1, 4), ((1, 3), 1, 1, 1),
]  # fmt: skip


def filters(kernel: Any, groups: int, seed: int = 3) -> tuple[Map, Map]:
    """16 filters over 8 channels, and biases."""
    kh, kw = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    rng = np.random.default_rng(seed)
    return rng.normal(size=(16, kh, kw, 8 // groups)).astype(np.float32), rng.normal(size=16).astype(np.float32)


def torch_conv(x: Map, weight: Map, bias: Map | None, stride: int, padding: int, groups: int) -> Map:
    w = torch.from_numpy(np.moveaxis(weight, -1, 1).astype(np.float64))
    b = None if bias is None else torch.from_numpy(bias.astype(np.float64))
    return hwc(F.conv2d(nchw(x).double(), w, b, stride, padding, groups=groups))


@pytest.mark.parametrize("size", [(3, 3), (4, 9), (13, 8)])
@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), CONVOLUTIONS)
def test_convolution(kernel: Any, stride: int, padding: int, groups: int, size: tuple[int, int]) -> None:
    if size == (3, 3) and kernel == 5:
        size = (1, 1)
    x, (weight, bias) = random_map(*size, 8), filters(kernel, groups)
    step = steps.Conv2d("y", "x", "w", "b", stride, padding, groups)
    close(both(step, {"x": x}, w=weight, b=bias), torch_conv(x, weight, bias, stride, padding, groups))


@pytest.mark.parametrize("size", SIZES)
def test_linear_in_half_precision_weights(size: tuple[int, int]) -> None:
    x, weight = random_map(*size, 6), np.random.default_rng(0).normal(size=(4, 6)).astype(np.float16)
    close(both(steps.Linear("y", "x", "w"), {"x": x}, w=weight), x.astype(np.float64) @ weight.T.astype(np.float64))


def integers(x: Map, quantizer: Quantizer) -> NDArray[np.int64]:
    """Codes by the definition, in the arithmetic of single float32 numbers."""
    exact = np.rint((x - np.float32(quantizer.lower)) / np.float32(quantizer.step))
    return np.clip(exact, 0, 2**quantizer.bits - 1).astype(np.int64)


def quantizer_for(x: Map, bits: int, integer_zero: bool = False) -> Quantizer:
    step = np.float32(0.9) * np.float32(np.ptp(x) + 0.1) / np.float32(2**bits - 1)
    zero = np.rint(-x.min() / step).clip(0, 2**bits - 1)
    return Quantizer(bits, float(-zero * step) if integer_zero else float(np.float32(x.min() * 0.9)), float(step))


@pytest.mark.parametrize("mid", [True, False])
@pytest.mark.parametrize("bits", [(2, 2), (3, 4), (4, 4), (6, 3), (8, 8)])
@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), CONVOLUTIONS)
def test_integer_convolution(
    kernel: Any, stride: int, padding: int, groups: int, bits: tuple[int, int], mid: bool
) -> None:
    rng = np.random.default_rng(1)
    x, scales = random_map(6, 7, 8), rng.uniform(0.5, 2, 8).astype(np.float32)
    shape, (w_bits, a_bits) = filters(kernel, groups)[0].shape, bits
    codes = rng.integers(0, 2**w_bits, shape).astype(np.uint8)
    scale, mids = rng.uniform(0.01, 0.1, 16).astype(np.float32), rng.normal(size=16).astype(np.float32)
    quantizer = quantizer_for(x * scales, a_bits, integer_zero=True)
    weight = (codes.astype(np.float64) - 2 ** (w_bits - 1)) * scale[:, None, None, None]
    if mid:
        weight += mids[:, None, None, None]
    bias = (quantizer.lower * weight.reshape(16, -1).sum(1)).astype(np.float32)
    packed = PackedWeight("c", "s", w_bits, "m" if mid else None)
    step = steps.Conv2d("y", "x", packed, "b", stride, padding, groups, quantizer, "i")
    tensors = {"c": codes, "s": scale, "b": bias, "i": scales} | ({"m": mids} if mid else {})
    rounded = quantizer.lower + quantizer.step * integers(x * scales, quantizer).astype(np.float64)
    close(both(step, {"x": x}, **tensors), torch_conv(rounded, weight, None, stride, padding, groups))  # type: ignore[arg-type]


def test_the_integers_of_a_convolution_are_exact() -> None:
    """Also where their sums pass 2**24, the limit of whole numbers in float32."""
    rng = np.random.default_rng(2)
    x, codes = rng.random((4, 5, 300), dtype=np.float32), rng.integers(0, 256, (8, 3, 3, 300)).astype(np.uint8)
    codes[0], x[1:4, 1:4] = 0, 1.0
    quantizer = Quantizer(8, 0.0, float(np.float32(1 / 255)))
    packed = PackedWeight("c", "s", 8, "m")
    step = steps.Conv2d("y", "input", packed, padding=1, quantizer=quantizer)
    ones = np.ones(8, np.float32)
    trace: Any = {}
    run(program_of(step, channels=300, c=codes, s=ones, m=ones), x, trace=trace)
    q = np.pad(integers(x, quantizer), [(1, 1), (1, 1), (0, 0)])
    patches = np.lib.stride_tricks.sliding_window_view(q, (3, 3), (0, 1)).transpose(0, 1, 3, 4, 2).reshape(4, 5, -1)
    acc = patches @ (codes.astype(np.int64) - 128).reshape(8, -1).T
    assert np.abs(acc).max() > 2**24
    np.testing.assert_array_equal(trace["y"]["codes"], integers(x, quantizer))
    np.testing.assert_array_equal(trace["y"]["accumulator"], acc)
    np.testing.assert_array_equal(trace["y"]["sums"][..., 0], patches.sum(-1))
    assert trace["y"]["output"].shape == (4, 5, 8)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_linear_with_either_operand_quantized(packed: bool, quantized: bool) -> None:
    rng = np.random.default_rng(0)
    x, codes = random_map(5, 4, 12), rng.integers(0, 16, (7, 12)).astype(np.uint8)
    scale, mid, bias = (rng.normal(size=7).astype(np.float32) for _ in range(3))
    weight = (codes.astype(np.float32) - 8) * scale[:, None] + mid[:, None]
    quantizer = quantizer_for(x, 4) if quantized else None
    rounded = quantizer.lower + quantizer.step * integers(x, quantizer) if quantizer else x.astype(np.float64)
    folded = bias + quantizer.lower * weight.sum(1) if quantizer and packed else bias
    step = steps.Linear("y", "x", PackedWeight("c", "s", 4, "m") if packed else "w", "b", quantizer)
    y = both(step, {"x": x}, c=codes, s=scale, m=mid, b=folded.astype(np.float32), w=weight)
    close(y, rounded @ weight.T + bias)


def test_rounding_is_to_even_and_divides() -> None:
    step = float(np.float32(1 / 3))
    x = (np.float32(step) * np.arange(0, 8, 0.5, dtype=np.float32)).reshape(1, -1, 1)
    quantizer = Quantizer(3, 0.0, step)
    codes = np.zeros((1, 1), np.uint8)
    trace: Any = {}
    linear = steps.Linear("y", "input", PackedWeight("c", "s", 2), quantizer=quantizer)
    run(program_of(linear, channels=1, c=codes, s=np.ones(1, np.float32)), x, trace=trace)
    np.testing.assert_array_equal(trace["y"]["codes"].ravel(), [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 7])


# ---- attention ------------------------------------------------------------------------------------------------------


def fake(x: Any, quantizer: Quantizer | None) -> Any:
    if quantizer is None:
        return x
    codes = ((x - quantizer.lower) / torch.tensor(quantizer.step)).round().clamp(0, quantizer.levels)
    return codes * quantizer.step + quantizer.lower


def torch_attention(x: Map, table: Map, step: steps.WindowAttention) -> Map:
    """The simulation: the fake-quantized operands multiplied in float64."""
    height, width, channels = x.shape
    y = torch.from_numpy(x.copy())[None].roll((-step.shift, -step.shift), (1, 2))
    windows = partition(y, step.window)
    b, n = windows.shape[:2]
    q, k, v = windows.view(b, n, 3, step.heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = fake(q * step.scale, step.q).double(), fake(k, step.k).double(), fake(v, step.v).double()
    scores = q @ k.transpose(-2, -1) + torch.from_numpy(table)[relative_position_index(step.window)].permute(2, 0, 1)
    if step.shift:
        scores = scores + shift_mask(height, width, step.window, step.shift)[:, None]
    attended = fake(scores.softmax(-1).float(), step.attention).double() @ v
    y = merge(attended.transpose(1, 2).reshape(b, n, channels // 3), step.window, height, width)
    return y.roll((step.shift, step.shift), (1, 2))[0].numpy()


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (20, 4)])
@pytest.mark.parametrize("operands", OPERANDS)
def test_window_attention(operands: str, size: tuple[int, int], shift: int) -> None:
    heads, window, width = 2, 4, 5
    x, table = random_map(*size, 3 * heads * width), random_map(1, (2 * window - 1) ** 2, heads, 1)[0]
    step = steps.WindowAttention("y", "x", "t", heads, window, shift, width**-0.5, **OPERANDS[operands])
    close(both(step, {"x": x}, t=table), torch_attention(x, table, step))


def torch_overlapping(x: Map, table: Map, step: steps.OverlappingAttention) -> Map:
    """Window after window, with the rows of the bias table by the offsets of queries against keys."""
    (height, width, channels), n, m = x.shape, step.window, step.margin
    padded = torch.zeros(height + 2 * m, width + 2 * m, channels)
    padded[m : m + height, m : m + width] = torch.from_numpy(x)
    offsets = [[(a // n - b // (n + 2 * m) + m, a % n - b % (n + 2 * m) + m) for b in range((n + 2 * m) ** 2)]
               for a in range(n * n)]  # fmt: skip
    reach = n + m - 1
    rows = torch.tensor([[(dy + reach) * (2 * reach + 1) + dx + reach for dy, dx in line] for line in offsets])
    bias = torch.from_numpy(table)[rows].permute(2, 0, 1)
    y = torch.zeros(height, width, channels // 3, dtype=torch.float64)
    for top in range(0, height, n):
        for left in range(0, width, n):
            wide = padded[top : top + n + 2 * m, left : left + n + 2 * m]
            inner = wide[m : m + n, m : m + n]
            q, k, v = (
                part.reshape(-1, 3, step.heads, channels // 3 // step.heads)[:, i].transpose(0, 1)
                for i, part in enumerate((inner, wide, wide))
            )
            q, k, v = fake(q * step.scale, step.q).double(), fake(k, step.k).double(), fake(v, step.v).double()
            attended = fake((q @ k.mT + bias).softmax(-1).float(), step.attention).double() @ v
            y[top : top + n, left : left + n] = attended.transpose(0, 1).reshape(n, n, -1)
    return y.numpy()


@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("operands", OPERANDS)
def test_overlapping_attention(operands: str, margin: int, size: tuple[int, int]) -> None:
    heads, window, width = 2, 4, 5
    x, table = random_map(*size, 3 * heads * width), random_map(1, (2 * (window + margin) - 1) ** 2, heads, 1)[0]
    step = steps.OverlappingAttention("y", "x", "t", heads, window, margin, width**-0.5, **OPERANDS[operands])
    y = both(step, {"x": x}, t=table)
    close(y, torch_overlapping(x, table, step))
    if margin == 0:
        same = steps.WindowAttention("y", "x", "t", heads, window, 0, width**-0.5, **OPERANDS[operands])
        np.testing.assert_array_equal(y, both(same, {"x": x}, t=table))


def test_attention_in_slabs_is_the_same() -> None:
    x, table = random_map(16, 16, 12), random_map(1, 49, 2, 1)[0]
    step = steps.WindowAttention("y", "x", "t", 2, 4, 2, 0.7, **OPERANDS["8 bit"])
    narrow = NumpyArrays()
    narrow.slab = 2 * 4**4 * 3  # three windows
    whole: dict[str, Any] = {}
    pieces: dict[str, Any] = {}
    y = execute(step, {"x": x}, program_of(step, t=table), NumpyArrays(), whole)
    np.testing.assert_array_equal(execute(step, {"x": x}, program_of(step, t=table), narrow, pieces), y)
    assert [len(pieces[name]) for name in whole] == [6] * 6
    for name in whole:
        np.testing.assert_array_equal(np.concatenate(pieces[name]), whole[name][0])


def test_one_block_of_the_network() -> None:
    """Shift and mask as SwinIR has them."""
    torch.manual_seed(0)
    block = SwinBlock(12, 2, 4, 2, 2.0, 16).eval().requires_grad_(False)
    x = random_map(8, 12, 12)
    qkv = block.attn.qkv(torch.from_numpy(x)).numpy()
    table = block.attn.relative_position_bias_table.numpy()
    step = steps.WindowAttention("y", "x", "t", 2, 4, 2, block.attn.scale)
    ours = block.attn.proj(torch.from_numpy(both(step, {"x": qkv}, t=table)))
    y = partition(torch.from_numpy(x)[None].roll((-2, -2), (1, 2)), 4)
    theirs = merge(block.attn(y, block.mask(8, 12)), 4, 8, 12).roll((2, 2), (1, 2))[0]
    close(ours.numpy(), theirs.numpy())


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_every_step_has_a_function() -> None:
    assert set(FUNCTIONS) == set(steps.STEPS.values())


def chain() -> Program:
    doubled = steps.Affine("a", "input", 2.0), steps.Affine("b", "a", 2.0)
    return program_of(*doubled, steps.Add("c", "a", "b"), steps.Add("d", "c", "input"))


def test_maps_are_dropped_after_their_last_use() -> None:
    assert [set(names) for names in releases(chain())] == [set(), set(), {"a", "b"}, {"c", "input"}]


def test_run_and_trace() -> None:
    x = random_map(3, 2, 3)
    trace: Any = {}
    close(run(chain(), x.astype(np.float64), trace=trace), 7 * x)
    assert list(trace) == ["a", "b", "c", "d"]
    close(trace["c"]["output"], 6 * x)
    close(run(chain(), x, TorchArrays()), 7 * x)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (0, 4, 3), (4, 4, 3, 1)])
def test_pictures_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match="takes HxWx3"):
        run(chain(), np.zeros(shape, np.float32))


def test_pictures_that_are_too_small_are_refused() -> None:
    program = program_of(steps.MaxPool("y", "input", 7, 3))
    with pytest.raises(PictureError, match="cannot take a picture of 6x9 pixels: step 'y'"):
        run(program, np.zeros((6, 9, 3), np.float32))
