"""MATLAB's bicubic, benchmark sets, calibration crops and the catalogue of known sets."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

import bitsr.data.benchmark as benchmark
from bitsr.data.benchmark import open_set
from bitsr.data.calibration import BUNDLED, calibration_crops, crops_and_rest
from bitsr.data.catalogue import SETS, verify
from bitsr.data.imresize import imresize
from bitsr.data.pictures import list_pictures, read_rgb, write_picture
from bitsr.errors import ConfigError, PictureError
from bitsr.methods.ptq.distill import divided
from bitsr.training.data import split as training_split
from small_files import noise, write_pictures

# --- imresize ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Set5", "Set14"])
@pytest.mark.parametrize("scale", [2, 4])
def test_imresize_equals_matlab_bit_for_bit(shared: Path, name: str, scale: int) -> None:
    folder = shared / "data" / "benchmarks" / name
    pairs = open_set(folder, scale)
    assert all(lr is not None for _, lr in pairs.files)
    for pair in pairs:
        np.testing.assert_array_equal(imresize(pair.hr, 1 / scale), pair.lr, err_msg=pair.name)


@pytest.mark.parametrize("picture", ["img0", "img1"])
@pytest.mark.parametrize("word", ["d2", "d3", "d4", "u2", "u3", "u4", "d2_noaa", "d3_noaa", "d2_u8in", "u4_u8in"])
def test_imresize_of_floats_equals_golden(shared: Path, picture: str, word: str) -> None:
    golden = load_file(shared / "golden" / "imresize_color_metrics.safetensors")
    expected = golden.get(f"{picture}.imresize_{word}")
    if expected is None:
        pytest.skip("not among the references")
    x = golden[picture.replace("img", "img_u8_")] / 255 if word.endswith("u8in") else golden[picture]
    direction, factor = word[0], int(word[1])
    scale = 1 / factor if direction == "d" else factor
    got = imresize(x.transpose(1, 2, 0).astype(np.float64), scale, antialias=not word.endswith("noaa"))
    np.testing.assert_allclose(got, expected.transpose(1, 2, 0), atol=2e-6)


@given(
    st.integers(1, 20), st.integers(1, 20), st.sampled_from([0.25, 1 / 3, 0.5, 0.7, 1, 2, 3, 4]), st.integers(0, 255)
)
def test_imresize_keeps_flat_pictures_and_rounds_sides_up(height: int, width: int, scale: float, value: int) -> None:
    out = imresize(np.full((height, width, 3), value, np.uint8), scale)
    assert out.shape == (int(np.ceil(height * scale)), int(np.ceil(width * scale)), 3)
    assert (out == value).all()


def test_imresize_at_scale_1_changes_nothing() -> None:
    picture = noise(7, 5)
    np.testing.assert_array_equal(imresize(picture, 1), picture)


def test_imresize_treats_rows_and_channels_alike() -> None:
    picture = noise(12, 8).astype(np.float64)
    np.testing.assert_allclose(imresize(picture.swapaxes(0, 1), 0.5), imresize(picture, 0.5).swapaxes(0, 1), atol=1e-10)
    np.testing.assert_array_equal(imresize(picture, 0.5)[..., 1], imresize(picture[..., 1], 0.5))


def test_imresize_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        imresize(np.zeros((0, 4, 3)), 2)
    with pytest.raises(ValueError, match="scale above 0"):
        imresize(np.zeros((4, 4)), 0)


# --- benchmark sets ---------------------------------------------------------------------------------------------------


def test_a_plain_folder_makes_its_own_lr(tmp_path: Path) -> None:
    hr = noise(21, 18)
    write_picture(tmp_path / "b.png", hr)
    write_picture(tmp_path / "a.png", noise(8, 8, 1))
    pairs = open_set(tmp_path, 4)
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert pairs.name == tmp_path.name
    np.testing.assert_array_equal(pairs[1].hr, hr[:20, :16])
    np.testing.assert_array_equal(pairs[1].lr, imresize(hr[:20, :16], 0.25))
    assert (pairs[0].hr[..., 0] == pairs[0].hr[..., 2]).all()


def test_given_lr_pictures_are_used(tmp_path: Path) -> None:
    low = tmp_path / "set" / "LR_bicubic" / "X2"
    for name in ("a", "b"):
        write_picture(tmp_path / "set" / "HR" / f"{name}.png", noise(8, 6))
    write_picture(low / "a.png", noise(4, 3, seed=1))
    write_picture(low / "bx2.bmp", noise(4, 3, seed=2))
    pairs = open_set(tmp_path / "set", 2)
    np.testing.assert_array_equal(pairs[0].lr, noise(4, 3, seed=1))
    np.testing.assert_array_equal(pairs[1].lr, noise(4, 3, seed=2))
    assert open_set(tmp_path / "set" / "HR", 2).name == open_set(tmp_path / "set", 4).name == "set"
    np.testing.assert_array_equal(open_set(tmp_path / "set", 4)[0].lr, imresize(noise(8, 4 + 2)[:, :4], 0.25))

    write_picture(low / "a.png", noise(4, 4))
    with pytest.raises(PictureError, match="a.png: is 4x4, but a.png at x2 needs 3x4"):
        pairs[0]
    (low / "a.png").unlink()
    with pytest.raises(PictureError, match="no LR picture for a.png"):
        open_set(tmp_path / "set", 2)


def test_sets_are_read_lazily_and_sliced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(4):
        write_picture(tmp_path / f"{index}.png", noise(4, 4))
    read: list[str] = []

    def count(path: Path) -> np.ndarray:
        read.append(path.stem)
        return read_rgb(path)

    monkeypatch.setattr(benchmark, "read_rgb", count)
    pairs = open_set(tmp_path, 2)[1:]
    assert len(pairs) == 3 and read == []
    assert next(iter(pairs)).name == "1" and read == ["1"]


def test_sets_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no such folder"):
        open_set(tmp_path / "nowhere", 2)
    with pytest.raises(PictureError, match="holds no pictures"):
        open_set(tmp_path, 2)
    write_picture(tmp_path / "tiny.png", noise(3, 9))
    with pytest.raises(PictureError, match="tiny.png: is smaller than the scale 4"):
        open_set(tmp_path, 4)[0]


# --- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bundled_calibration_crops(scale: int) -> None:
    crops = calibration_crops(None, scale)
    assert len(crops) == 128
    assert all(crop.shape == (64, 64, 3) and crop.dtype == np.uint8 for crop in crops)
    assert np.concatenate(crops).min() < 10 and np.concatenate(crops).max() > 245
    assert len({crop.tobytes() for crop in crops}) >= 30


def test_calibration_depends_on_the_seed_alone() -> None:
    first, again, other = (calibration_crops(None, 4, 6, 32, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_crops_are_cut_and_flipped_from_lr(tmp_path: Path) -> None:
    hr = noise(96, 80)
    write_picture(tmp_path / "HR" / "a.png", hr)
    lr = imresize(hr, 0.5)
    variants = {v[y : y + 16, x : x + 16].tobytes() for v in (lr, lr[:, ::-1], lr[::-1], lr[::-1, ::-1])
                for y in range(v.shape[0] - 15) for x in range(v.shape[1] - 15)}  # fmt: skip
    crops = calibration_crops(tmp_path, 2, 10, 16)
    assert {crop.tobytes() for crop in crops} <= variants


def test_small_pictures_are_reduced_less_and_tiny_ones_left_out(tmp_path: Path) -> None:
    write_picture(tmp_path / "tiny.png", np.zeros((10, 60, 3), np.uint8))
    small = noise(40, 60)
    write_picture(tmp_path / "small.png", small)
    crops = calibration_crops(tmp_path, 4, 5, 32)
    reduced = imresize(small, 32 / 40)
    assert reduced.shape[0] == 32
    assert len(crops) == 5
    assert all(crop.max() > 0 for crop in crops)
    columns = {row.tobytes() for row in reduced.swapaxes(0, 1)} | {
        row[::-1].tobytes() for row in reduced.swapaxes(0, 1)
    }
    assert {np.ascontiguousarray(crops[0][:, x]).tobytes() for x in range(32)} <= columns
    with pytest.raises(PictureError, match="no picture is at least 64x64"):
        calibration_crops(tmp_path, 4, 5, 64)


def test_lr_pictures_of_a_set_are_not_trained_on(tmp_path: Path) -> None:
    """A set with HR and LR_bicubic inside, as `bitsr eval` takes it."""
    for folder, side in (("HR", 32), ("LR_bicubic/X2", 16), ("other/deep", 32)):
        write_pictures(tmp_path / folder, ["a.png", "b.png"], side, side)
    train, held = training_split([tmp_path])
    assert sorted([*train, *held]) == [tmp_path / "HR" / "a.png", tmp_path / "HR" / "b.png"]
    assert len(sum(training_split([tmp_path / "other"]), [])) == 2


@pytest.mark.parametrize(("pictures", "count"), [(5, 20), (20, 40), (2, 3), (1, 9), (40, 16)])
def test_the_last_eighth_of_the_crops_is_from_pictures_of_its_own(pictures: int, count: int, tmp_path: Path) -> None:
    """The others take turns, and methods that learn select on that last eighth."""
    for value in range(pictures):
        write_picture(tmp_path / f"{value}.png", np.full((16, 16, 3), value, np.uint8))
    crops = torch.from_numpy(np.stack(calibration_crops(tmp_path, 2, count, 8)))
    learned, held = (part[:, 0, 0, 0].tolist() for part in divided(crops))
    assert len(learned) + len(held) == count and len(held) == max(1, count // 8)
    if pictures == 1:
        return
    assert not set(learned) & set(held)
    times = [learned.count(value) for value in set(learned)]
    assert max(times) - min(times) <= 1 and len({*learned, *held}) == min(pictures, count)


def test_a_picture_gives_the_same_crop_whatever_else_is_wanted(tmp_path: Path) -> None:
    for value in range(5):
        write_picture(tmp_path / f"{value}.png", np.full((16, 16, 3), value, np.uint8))
    values = [int(crop[0, 0, 0]) for crop in calibration_crops(tmp_path, 2, 5, 8)]
    crops, rest = crops_and_rest(tmp_path, 2, 3, 8)
    assert [int(crop[0, 0, 0]) for crop in crops] == values[:3]
    assert {int(path.stem) for path in rest} == set(range(5)) - set(values[:3])
    assert crops_and_rest(tmp_path, 2, 10, 8)[1] == []
    for name in ("small", "smaller"):
        write_picture(tmp_path / f"{name}.png", np.zeros((6, 6, 3), np.uint8))
    for seed in range(5):
        assert len({int(crop[0, 0, 0]) for crop in calibration_crops(tmp_path, 2, 5, 8, seed)}) == 5


def test_bundled_pictures_are_small_and_accounted_for() -> None:
    notes = (BUNDLED.parent / "README.md").read_text()
    paths = list_pictures(BUNDLED)
    assert sum(path.stat().st_size for path in paths) < 400_000
    assert (BUNDLED.parent / "demo.png").stat().st_size < 250_000
    for path in paths:
        assert f"calibration/{path.name}" in notes
    assert read_rgb(BUNDLED.parent / "demo.png").shape == (256, 384, 3)


def test_the_demo_picture_is_not_calibrated_on() -> None:
    demo = Image.fromarray(read_rgb(BUNDLED.parent / "demo.png")).resize((16, 16))
    for path in list_pictures(BUNDLED):
        other = Image.fromarray(read_rgb(path)).resize((16, 16))
        assert np.abs(np.asarray(demo, int) - np.asarray(other, int)).mean() > 10, path


# --- catalogue --------------------------------------------------------------------------------------------------------


slow = pytest.mark.skipif("BITSR_SLOW" not in os.environ, reason="half a minute; set BITSR_SLOW=1 to run")


@pytest.mark.parametrize("name", ["Set5", "Set14", "B100", pytest.param("Urban100", marks=slow)])
def test_bicubic_psnr_is_the_published_one(shared: Path, name: str) -> None:
    result = verify(shared / "data" / "benchmarks" / name)
    assert result.known is SETS[name]
    assert result.pictures == result.known.pictures
    assert {check.scale: check.measured for check in result.bicubic} == pytest.approx(result.known.bicubic, abs=0.03)
    assert result.ok


def test_a_changed_set_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "set5"
    for index in range(5):
        write_picture(folder / f"{index}.png", noise(24, 24, seed=index))
    result = verify(folder)
    assert result.known is SETS["Set5"]
    assert not result.ok
    assert "DIFFERS from published 33.66" in str(result)
    assert not verify(folder, "BSDS100").ok
    assert "5 pictures of 100 that B100 has" in str(verify(folder, "BSDS100"))


def test_unknown_and_broken_sets(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", noise(16, 16))
    assert verify(tmp_path).ok
    assert "none of the known sets" in str(verify(tmp_path))
    (tmp_path / "b.png").write_bytes(b"broken")
    seen: list[tuple[int, int]] = []
    result = verify(tmp_path, on_picture=lambda number, total: seen.append((number, total)))
    assert not result.ok
    assert len(result.broken) == 1 and "b.png" in result.broken[0]
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(ConfigError, match="unknown set 'Set6'"):
        verify(tmp_path, "Set6")
