"""PSNR and SSIM against BasicSR, colour conversion, evaluation of callables, tables."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from bitsr.data.benchmark import Pair, open_set
from bitsr.data.pictures import write_picture
from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError, PictureError
from bitsr.evaluation.evaluate import bicubic, evaluate, psnr_of_pairs
from bitsr.evaluation.metrics import psnr_rgb, psnr_y, ssim_rgb, ssim_y
from bitsr.runtime.color import from_float, from_network, rgb_to_y, rgb_to_ycbcr, to_float, to_network, ycbcr_to_rgb
from bitsr.runtime.padding import crop_to, pad_to_minimum


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return load_file(shared / "golden" / "imresize_color_metrics.safetensors")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


# --- PSNR and SSIM ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [0, 1])
@pytest.mark.parametrize("crop", [0, 2, 4])
def test_metrics_equal_basicsr(golden: dict[str, np.ndarray], pair: int, crop: int) -> None:
    a, b = (golden[f"pair{pair}.{side}"].transpose(1, 2, 0) for side in "ab")
    name = f"pair{pair}.crop{crop}"
    assert psnr_y(a, b, crop) == pytest.approx(float(golden[f"{name}.y.psnr"]), abs=1e-6)
    assert ssim_y(a, b, crop) == pytest.approx(float(golden[f"{name}.y.ssim"]), abs=1e-6)
    assert psnr_rgb(a, b, crop) == pytest.approx(float(golden[f"{name}.rgb.psnr"]), abs=1e-6)
    assert ssim_rgb(a, b, crop) == pytest.approx(float(golden[f"{name}.rgb.ssim"]), abs=1e-6)


def test_psnr_of_a_known_error() -> None:
    a = np.full((8, 8, 3), 100, np.uint8)
    assert psnr_rgb(a, a + np.uint8(5), 0) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr_y(a, a + np.uint8(5), 0) == pytest.approx(20 * math.log10(255 / (5 * 219 / 255)), abs=1e-4)
    assert psnr_y(a, a, 0) == math.inf


def test_the_border_is_left_out() -> None:
    a = noise(20, 20)
    b = a.copy()
    b[:2], b[:, -2:] = 0, 255
    assert psnr_y(a, b, 2) == math.inf
    assert psnr_y(a, b, 1) < 40


@given(st.integers(0, 100))
def test_ssim_is_symmetric_and_1_for_equal_pictures(seed: int) -> None:
    a, b = noise(13, 12, seed), noise(13, 12, seed + 1)
    assert ssim_y(a, a, 0) == pytest.approx(1)
    assert ssim_y(a, b, 0) == pytest.approx(ssim_y(b, a, 0))
    assert ssim_y(a, b, 0) < 0.9


def test_metrics_refuse_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same shape"):
        psnr_y(noise(8, 8), noise(8, 9), 0)
    with pytest.raises(ValueError, match="uint8"):
        psnr_y(noise(8, 8).astype(np.float32), noise(8, 8), 0)
    with pytest.raises(ValueError, match="nothing left"):
        psnr_y(noise(8, 8), noise(8, 8), 4)
    with pytest.raises(ValueError, match="11x11"):
        ssim_y(noise(12, 12), noise(12, 12), 1)


# --- colour and padding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
def test_colour_equals_basicsr(golden: dict[str, np.ndarray], index: int) -> None:
    picture = golden[f"img_u8_{index}"].transpose(1, 2, 0)
    ycbcr = rgb_to_ycbcr(to_float(picture))
    np.testing.assert_allclose(ycbcr, golden[f"img{index}.rgb2ycbcr_f32"], atol=1e-7)
    np.testing.assert_allclose(rgb_to_y(to_float(picture)), golden[f"img{index}.rgb2ycbcr_f32_yonly"], atol=1e-7)
    np.testing.assert_array_equal(from_float(ycbcr, np.uint8), golden[f"img{index}.rgb2ycbcr_u8"])
    back = np.rint(255 * ycbcr_to_rgb(to_float(golden[f"img{index}.rgb2ycbcr_u8"]))).astype(int)
    difference = (back - golden[f"img{index}.ycbcr2rgb_of_u8"]) % 256  # BasicSR does not clip: values wrap around
    assert set(np.unique(difference)) <= {0, 1, 255}  # and the constants of its inverse are rounded
    assert (difference != 0).mean() < 0.005


def test_colour_there_and_back() -> None:
    rgb = to_float(noise(5, 6))
    np.testing.assert_allclose(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb, atol=1e-6)


@pytest.mark.parametrize("color", ["rgb", "y", "ycbcr"])
def test_what_a_network_of_each_colour_takes_and_gives(color: str) -> None:
    rgb = to_float(noise(5, 6))
    descriptor = Descriptor("test", 1, color=color)  # type: ignore[arg-type]
    x, side = to_network(rgb, descriptor)
    assert x.dtype == np.float32 and x.shape == (5, 6, descriptor.channels)
    np.testing.assert_allclose(from_network(x, side, descriptor), rgb, atol=1e-6)


def test_the_colour_of_a_luma_network_is_upscaled() -> None:
    flat = np.broadcast_to(np.float32([0.2, 0.5, 0.7]), (4, 5, 3))
    descriptor = Descriptor("test", 3, color="y")
    x, side = to_network(flat, descriptor)
    out = from_network(x.repeat(3, axis=0).repeat(3, axis=1), side, descriptor)
    np.testing.assert_allclose(out, np.broadcast_to(flat[0, 0], (12, 15, 3)), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_survive_the_way_through_floats(dtype: type) -> None:
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    np.testing.assert_array_equal(from_float(to_float(values), dtype), values)
    np.testing.assert_array_equal(from_float(np.float32([-1, 2]), dtype), [0, np.iinfo(dtype).max])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30))
def test_padding_mirrors_and_can_be_undone(height: int, width: int, least: int) -> None:
    x = np.arange(height * width, dtype=np.float32).reshape(height, width, 1)
    padded, size = pad_to_minimum(x, least)
    assert padded.shape == (max(height, least), max(width, least), 1)
    np.testing.assert_array_equal(crop_to(padded.repeat(2, 0).repeat(2, 1), size, 2), x.repeat(2, 0).repeat(2, 1))
    if height > 1 and least > height:
        np.testing.assert_array_equal(padded[height, :width], x[height - 2])


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in range(3):
        write_picture(tmp_path / "Tiny" / f"{index}.png", noise(32, 40, index))
    return tmp_path / "Tiny"


def test_evaluate_averages_over_pictures(pictures: Path) -> None:
    result = evaluate(bicubic(2), pictures, 2)
    pairs = open_set(pictures, 2)
    values = [psnr_y(bicubic(2)(pair.lr), pair.hr, 2) for pair in pairs]
    assert result.psnr_y == pytest.approx(np.mean(values))
    assert [score.psnr_y for score in result.per_image] == values
    assert (result.model, result.dataset, result.scale, result.images) == ("bicubic", "Tiny", 2, 3)
    assert result.seconds == pytest.approx(sum(score.seconds for score in result.per_image))


def test_the_dictionary_has_the_keys_of_the_command_line(pictures: Path) -> None:
    content = json.loads(json.dumps(evaluate(bicubic(2), pictures, 2).to_dict(), allow_nan=False))
    assert list(content) == [
        *("model", "dataset", "scale", "images", "psnr_y", "ssim_y", "backend", "seconds", "file_bytes"),
    ]


def test_equal_pictures_give_valid_json(tmp_path: Path) -> None:
    write_picture(tmp_path / "flat.png", np.full((32, 32, 3), 90, np.uint8))
    assert evaluate(bicubic(2), tmp_path, 2).to_dict()["psnr_y"] is None


def test_psnr_of_pairs() -> None:
    """Of each pair, without the border; where pictures are equal it is finite."""
    upscale, lr, hr = bicubic(2), noise(16, 20), noise(32, 40, 1)
    found = psnr_of_pairs(upscale, [Pair("a", lr, hr), Pair("equal", lr, upscale(lr))], 2)
    assert found.tolist() == [psnr_y(upscale(lr), hr, 2), 100.0]


def test_limit_progress_and_names(pictures: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate(
        bicubic(4),
        pictures,
        4,
        limit=2,
        name="cubic",
        on_image=lambda number, total, score: seen.append((number, total)),
    )
    assert (result.model, result.images, seen) == ("cubic", 2, [(1, 2), (2, 2)])
    with pytest.raises(ConfigError, match="limit"):
        evaluate(bicubic(4), pictures, 4, limit=0)


def test_a_network_of_another_scale_is_refused(pictures: Path) -> None:
    class Network:
        descriptor = Descriptor("net", 4)

        def __call__(self, lr: np.ndarray) -> np.ndarray:
            return lr

    with pytest.raises(ConfigError, match="net upscales by 4, not by 2"):
        evaluate(Network(), pictures, 2)
    with pytest.raises(PictureError, match="Tiny/0: .*same shape"):
        evaluate(Network(), pictures, 4)


def test_a_picture_too_small_for_ssim_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", noise(14, 14))
    with pytest.raises(PictureError, match="a: SSIM needs at least 11x11"):
        evaluate(bicubic(2), tmp_path, 2)
