"""Models on pictures: colours, files and folders, refusal of NaN, the memory model."""

from pathlib import Path

import numpy as np
import pytest

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
from small_files import noise

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
