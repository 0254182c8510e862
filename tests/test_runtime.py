"""Models on pictures: tiling, files and folders, refusal of NaN, the memory model."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bitsr
import bitsr.runtime.model as model_module
from bitsr.data.imresize import imresize
from bitsr.data.pictures import Picture, read_picture, write_picture
from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError, PictureError
from bitsr.format import write_program
from bitsr.program.program import Program
from bitsr.program.steps import Activation, Add, Conv2d, Linear, PixelShuffle
from bitsr.runtime.backends import make_runner
from bitsr.runtime.images import upscale_files
from bitsr.runtime.memory import COPIES, available_bytes, bytes_per_pixel
from bitsr.runtime.model import Model
from bitsr.runtime.tiles import run_tiled, spans


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype is np.float32:
        return rng.random((height, width, channels), np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def blur_and_repeat(x: np.ndarray, reach: int, scale: int) -> np.ndarray:
    """A local operator with zero padding, as a convolution of (2 reach + 1) squared taps, then nearest upscaling."""
    padded = np.pad(x, [(reach, reach), (reach, reach), (0, 0)])
    out = np.zeros_like(x)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            out += padded[dy : dy + x.shape[0], dx : dx + x.shape[1]] / (1 + dy + 2 * dx)
    return out.repeat(scale, 0).repeat(scale, 1)


def window_means(x: np.ndarray, window: int) -> np.ndarray:
    """Each window replaced by its mean: equal in tiles only if they begin at window borders."""
    height, width = (-x.shape[0] % window, -x.shape[1] % window)
    padded = np.pad(x, [(0, height), (0, width), (0, 0)], mode="symmetric")
    means = padded.reshape(padded.shape[0] // window, window, -1, window, x.shape[2]).mean((1, 3))
    return means.repeat(window, 0).repeat(window, 1)[: x.shape[0], : x.shape[1]].astype(np.float32)


# --- tiles ------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 30), st.integers(0, 3), st.integers(1, 2))
def test_any_tile_equals_the_whole_picture(height: int, width: int, tile: int, reach: int, scale: int) -> None:
    x = noise(height, width, dtype=np.float32)
    descriptor = Descriptor("local", scale, reach=reach)
    whole = blur_and_repeat(x, reach, scale)
    out, tiling = run_tiled(lambda t: blur_and_repeat(t, reach, scale), x, descriptor, tile, 10**9)
    np.testing.assert_array_equal(out, whole)
    assert tiling.tiles == math.ceil(height / tile) * math.ceil(width / tile)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.sampled_from([2, 4, 5]))
def test_tiles_of_windowed_networks_begin_at_windows(height: int, width: int, tile: int, window: int) -> None:
    x = noise(height, width, dtype=np.float32)
    descriptor = Descriptor("windowed", 1, tiling="window", multiple=window, reach=window + 1)
    out, _ = run_tiled(lambda t: window_means(t, window), x, descriptor, tile, 10**9)
    np.testing.assert_allclose(out, window_means(x, window), rtol=1e-6)


@given(st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 2, 8]), st.integers(0, 9), st.integers(1, 30))
def test_spans_cover_the_axis_once(length: int, side: int, multiple: int, reach: int, least: int) -> None:
    side = math.ceil(side / multiple) * multiple
    descriptor = Descriptor("x", 2, multiple=multiple, reach=reach, min_size=least)
    result = spans(length, side, descriptor)
    assert [i for span in result for i in range(span.start, span.stop)] == list(range(length))
    for span in result:
        assert 0 <= span.first <= max(0, span.start - reach) and min(length, span.stop + reach) <= span.last <= length
        assert span.first % multiple == 0 and (span.last % multiple == 0 or span.last == length)
        assert span.last - span.first >= min(least, length)


def test_auto_takes_the_picture_whole_while_memory_allows() -> None:
    seen: list[tuple[int, ...]] = []

    def network(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape[:2])
        return blur_and_repeat(x, 2, 1)

    x = noise(30, 20, dtype=np.float32)
    descriptor = Descriptor("local", 1, reach=2)
    _, tiling = run_tiled(network, x, descriptor, "auto", 600)
    assert seen == [(30, 20)] and tiling.tiles == 1
    seen.clear()
    out, tiling = run_tiled(network, x, descriptor, "auto", 150)
    assert max(height * width for height, width in seen) <= 150
    assert tiling.side == 8 and tiling.tiles == len(seen) == 12
    np.testing.assert_array_equal(out, blur_and_repeat(x, 2, 1))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_tiles_are_halved_when_memory_runs_out(error: Exception) -> None:
    def network(x: np.ndarray) -> np.ndarray:
        if x.shape[0] * x.shape[1] > 100:
            raise error
        return blur_and_repeat(x, 1, 2)

    x = noise(24, 24, dtype=np.float32)
    out, tiling = run_tiled(network, x, Descriptor("local", 2, reach=1), "auto", 10**9)
    np.testing.assert_array_equal(out, blur_and_repeat(x, 1, 2))
    assert tiling.side == 6


def test_memory_that_never_suffices_is_one_clear_error() -> None:
    def network(x: np.ndarray) -> np.ndarray:
        raise MemoryError

    with pytest.raises(PictureError, match="memory does not suffice"):
        run_tiled(network, noise(9, 9, dtype=np.float32), Descriptor("local", 2), "auto", 10**9)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def network(x: np.ndarray) -> np.ndarray:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_tiled(network, noise(9, 9, dtype=np.float32), Descriptor("local", 2), "auto", 10**9)


def test_the_change_by_tiling_a_global_network_is_measured() -> None:
    def network(x: np.ndarray) -> np.ndarray:
        return (x + x.mean((0, 1))) / 2

    x = np.linspace(0, 1, 40, dtype=np.float32)[:, None, None] ** 2 * np.ones((1, 40, 3), np.float32)
    descriptor = Descriptor("global", 1, tiling="global", reach=2)
    _, whole = run_tiled(network, x, descriptor, "auto", 10**9)
    assert whole.difference is None
    _, tiled = run_tiled(network, x, descriptor, 12, 10**9)
    assert tiled.changes and tiled.difference is not None
    near, far = x[10:26].mean(), x[2:34].mean()
    assert tiled.difference.largest == pytest.approx(255 * abs(near - far) / 2, rel=1e-3)
    assert tiled.difference.psnr == pytest.approx(-20 * math.log10(abs(near - far) / 2), rel=1e-3)
    assert "tiling changed the result" in str(tiled)
    _, tight = run_tiled(network, x, descriptor, 12, 16 * 16)  # no memory for more surroundings
    assert tight.changes and tight.difference is None
    assert "tiling changed the result: not measured" in str(tight)


def test_windows_stay_in_place_where_the_change_by_tiling_is_measured() -> None:
    """A network of windows of 4 that never look beyond gives the same with any tiles."""

    def network(x: np.ndarray) -> np.ndarray:
        height, width = x.shape[0] // 4, x.shape[1] // 4
        means = x.reshape(height, 4, width, 4, 3).mean((1, 3))
        return means.repeat(4, 0).repeat(4, 1)

    x = np.random.default_rng(0).random((48, 48, 3)).astype(np.float32)
    for reach in (0, 4, 6):
        descriptor = Descriptor("windows", 1, tiling="global", reach=reach, multiple=4)
        out, tiled = run_tiled(network, x, descriptor, 16, 30 * 30)
        assert np.array_equal(out, network(x))
        assert tiled.difference is None or tiled.difference.largest == 0


def test_a_tile_needs_a_side() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        run_tiled(lambda x: x, noise(4, 4, dtype=np.float32), Descriptor("x", 1), 0, 100)


# --- models -----------------------------------------------------------------------------------------------------------


def program(scale: int = 2, **facts: object) -> Program:
    """Tensors of a program whose runner the tests replace."""
    weight = np.zeros((3 * scale**2, 3, 3, 3), np.float32)
    descriptor = Descriptor("fake", scale, **facts)  # type: ignore[arg-type]
    steps = (Conv2d("y", "input", "weight", padding=1), PixelShuffle("output", "y", scale))
    return Program(steps, {"weight": weight}, descriptor)


@pytest.fixture
def make_model(monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    """A model whose program is a Python function; by default nearest upscaling."""

    def make(function=None, **facts: object) -> Model:  # noqa: ANN001
        scale = int(facts.pop("scale", 2))  # type: ignore[call-overload]
        run = function or (lambda x: x.repeat(scale, 0).repeat(scale, 1))
        monkeypatch.setattr(model_module, "make_runner", lambda program, backend, threads: ("fake", run))
        return Model(program(scale, **facts))

    return make


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_model_gives_back_the_dtype(make_model, dtype: type) -> None:
    lr = noise(5, 4, dtype=dtype)
    out = make_model()(lr)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, lr.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("color", ["y", "ycbcr"])
def test_a_model_in_another_colour(make_model, color: str) -> None:
    lr = np.full((5, 4, 3), (200, 30, 90), np.uint8)
    np.testing.assert_array_equal(make_model(color=color)(lr), np.full((10, 8, 3), (200, 30, 90), np.uint8))


def test_small_pictures_are_padded_to_the_minimum(make_model) -> None:
    seen: list[tuple[int, ...]] = []

    def run(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape)
        return x.repeat(2, 0).repeat(2, 1)

    lr = noise(1, 1)
    np.testing.assert_array_equal(make_model(run, min_size=8)(lr), lr.repeat(2, 0).repeat(2, 1))
    assert seen == [(8, 8, 3)]


def test_outputs_are_clamped(make_model) -> None:
    model = make_model(lambda x: x.repeat(2, 0).repeat(2, 1) * 4 - 1)
    out = model(np.full((3, 3, 3), 1, np.float32))
    assert (out == 1).all()
    assert (model(np.zeros((3, 3, 3), np.uint8)) == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_an_error_and_never_a_picture(make_model, tmp_path: Path, value: float) -> None:
    def run(x: np.ndarray) -> np.ndarray:
        out = x.repeat(2, 0).repeat(2, 1)
        out[1, 2, 0] = value
        return out

    model = make_model(run)
    with pytest.raises(PictureError, match="fake: 1 of 192 values of the output are NaN or infinite"):
        model(noise(4, 4))
    write_picture(tmp_path / "a.png", noise(4, 4))
    with pytest.raises(PictureError, match="a.png: fake: 1 of 192"):
        model.upscale(tmp_path / "a.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_arrays_that_are_no_pictures(make_model) -> None:
    model = make_model()
    for array in (noise(4, 4, 1), noise(4, 4)[..., 0], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(PictureError, match="expected an RGB picture HxWx3"):
            model(array)
    with pytest.raises(PictureError, match="float64"):
        model(np.zeros((4, 4, 3)))
    with pytest.raises(PictureError, match="NaN"):
        model(np.full((4, 4, 3), np.nan, np.float32))


def test_backends_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="unknown backend 'gpu'"):
        make_runner(program(), "gpu")
    with pytest.raises(ConfigError, match="threads"):
        make_runner(program(), "reference", 0)


def conv_program() -> Program:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(0, 0.2, (16, 3, 3, 3)).astype(np.float32),
               "v": rng.normal(0, 0.2, (12, 3, 3, 16)).astype(np.float32)}  # fmt: skip
    steps = (
        Conv2d("a", "input", "w", padding=1),
        Activation("b", "a", "relu"),
        Conv2d("c", "b", "v", padding=1),
        PixelShuffle("output", "c", 2),
    )
    return Program(steps, weights, Descriptor("conv", 2, reach=2))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_real_program_in_tiles_equals_the_whole(backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    model = Model(conv_program(), backend=backend, threads=1)
    assert model.backend == backend
    lr = noise(13, 11, dtype=np.float32)
    whole, tiling = model.upscale_array(lr)
    tiled, grid = model.upscale_array(lr, tile=4)
    assert (tiling.tiles, grid.tiles) == (1, 12)
    assert whole.shape == (26, 22, 3) and whole.std() > 0.01
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_backends_agree() -> None:
    pytest.importorskip("torch")
    lr = noise(9, 8, dtype=np.float32)
    np.testing.assert_allclose(
        Model(conv_program(), backend="torch")(lr), Model(conv_program(), backend="reference")(lr), atol=1e-5
    )


def test_open_reads_a_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "small.bitsr"
    write_program(conv_program(), path)
    model = bitsr.open(path, backend="reference")
    assert (model.name, model.backend, model.descriptor.arch) == ("small", "reference", "conv")
    assert model.file_bytes == path.stat().st_size
    lr = noise(6, 5)
    np.testing.assert_array_equal(model(lr), Model(conv_program(), backend="reference")(lr))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_depth_grey_and_alpha_are_kept(make_model, tmp_path: Path, channels: int, dtype: type, suffix: str) -> None:
    lr = noise(5, 4, channels, dtype)
    write_picture(tmp_path / f"a{suffix}", Picture(lr, icc=b"profile"))
    report = make_model().upscale(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    sr = read_picture(tmp_path / f"b{suffix}")
    assert sr.pixels.dtype == dtype and sr.pixels.shape == (10, 8, channels)
    assert sr.icc == b"profile"
    colours = channels - (channels in (2, 4))
    np.testing.assert_array_equal(sr.pixels[..., :colours], lr[..., :colours].repeat(2, 0).repeat(2, 1))
    if channels in (2, 4):
        highest = np.iinfo(dtype).max
        expected = np.clip(np.rint(imresize(lr[..., -1] / highest, 2) * highest), 0, highest)
        assert np.abs(sr.pixels[..., -1] - expected).max() <= 1
    assert report.ok and (report.done[0].width, report.done[0].height) == (8, 10)


def test_an_opaque_picture_stays_opaque(make_model, tmp_path: Path) -> None:
    lr = noise(5, 4, 4)
    lr[..., 3] = 255
    write_picture(tmp_path / "a.png", lr)
    make_model().upscale(tmp_path / "a.png", tmp_path / "b.png")
    assert (read_picture(tmp_path / "b.png").pixels[..., 3] == 255).all()


def test_a_folder_goes_on_after_a_corrupt_picture(make_model, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "c.bmp"):
        write_picture(source / name, noise(3, 3))
    (source / "b.png").write_bytes(b"\x89PNG broken")
    report = make_model().upscale(source, target)
    assert sorted(p.name for p in target.iterdir()) == ["a.png", "c.bmp"]
    assert [done.source.name for done in report.done] == ["a.png", "c.bmp"]
    assert not report.ok and report.failed[0].source.name == "b.png"
    last = str(report).splitlines()[-2:]
    assert last[0] == "1 of 3 pictures failed:" and "b.png: cannot be read" in last[1]


def test_one_broken_file_or_an_empty_folder_is_an_error(make_model, tmp_path: Path) -> None:
    model = make_model()
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(PictureError, match="a.png: cannot be read"):
        model.upscale(tmp_path / "a.png", tmp_path / "out.png")
    with pytest.raises(PictureError, match="no picture could be upscaled.*a.png"):
        model.upscale(tmp_path, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="holds no pictures"):
        model.upscale(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(PictureError, match="no such picture"):
        model.upscale(tmp_path / "nowhere.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_inputs_are_never_overwritten(make_model, tmp_path: Path) -> None:
    model = make_model()
    write_picture(tmp_path / "x" / "a.png", noise(3, 3))
    write_picture(tmp_path / "y" / "a.png", noise(3, 3, seed=1))
    with pytest.raises(PictureError, match="would replace it"):
        model.upscale(tmp_path / "x", tmp_path / "x")
    out = tmp_path / "out" / "a.png"
    report = upscale_files(model, [(tmp_path / "x" / "a.png", out), (tmp_path / "y" / "a.png", out)])
    assert len(report.done) == 1 and "would replace that of" in str(report.failed[0])
    assert (read_picture(tmp_path / "x" / "a.png").pixels == noise(3, 3)).all()
    write_picture(tmp_path / "file.png", noise(3, 3))
    with pytest.raises(PictureError, match="need a folder"):
        model.upscale(tmp_path / "x", tmp_path / "file.png")


def test_a_file_into_a_folder_keeps_its_name(make_model, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", noise(3, 3))
    make_model().upscale(tmp_path / "a.png", tmp_path / "out")
    assert read_picture(tmp_path / "out" / "a.png").pixels.shape == (6, 6, 3)


def test_tiles_of_a_file_and_their_statement(make_model, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", noise(16, 12))
    report = make_model(tiling="global").upscale(tmp_path / "a.png", tmp_path / "b.png", tile=8)
    assert report.done[0].tiling.tiles == 4
    assert "in 4 tiles of 8x8; tiling changed the result: inf dB" in str(report)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").pixels, noise(16, 12).repeat(2, 0).repeat(2, 1))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_of_a_program_is_the_peak_of_live_maps() -> None:
    weights = {"w": np.zeros((8, 3, 3, 3), np.float32), "l": np.zeros((12, 8), np.float32)}
    steps = (Conv2d("a", "input", "w", padding=1), Linear("b", "a", "l"), PixelShuffle("output", "b", 2))
    assert bytes_per_pixel(Program(steps, weights, Descriptor("x", 2))) == 4 * (12 + 12) * (1 + COPIES)


def test_maps_that_wait_for_a_later_step_are_counted() -> None:
    weights = {"w": np.zeros((3, 3, 3, 3), np.float32)}
    steps = (Conv2d("a", "input", "w", padding=1), Conv2d("b", "a", "w", padding=1), Add("output", "b", "input"))
    assert bytes_per_pixel(Program(steps, weights, Descriptor("x", 1))) == 4 * 3 * (3 + 3 * COPIES)


def test_available_memory_is_plausible() -> None:
    assert 2**24 < available_bytes() < 2**50


def test_a_container_may_have_less_memory_than_its_machine(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 2**24
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_bytes(tmp_path) == 4000
