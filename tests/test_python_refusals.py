"""What the Python API refuses: options, pictures and networks that cannot be, each by one named error."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bitsr
from bitsr.errors import ConfigError, PictureError
from bitsr.methods.registry import METHODS
from small_files import picture, write_pictures
from tiny import make

CROP = picture(16, 16)
MINMAX = bitsr.MinMax(8, 8)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"granular-dq"}))
def test_numbers_of_every_method(method: str) -> None:
    """Counts are at least 1, everything else is at least 0 and finite."""
    kind = METHODS[method]
    numbers = [name for name, value in vars(kind()).items() if type(value) in (int, float) and "bits" not in name]
    for name in numbers:
        for wrong in (-1, float("inf"), float("nan")):
            with pytest.raises(ConfigError, match=f"{name} is "):
                kind(**{name: wrong})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: bitsr.Dobi(candidates=0), "candidates is at least 1, got 0"),
        (lambda: bitsr.GPTQ(groups=0), "groups is at least 1, got 0"),
        (lambda: bitsr.TwoDQuant(batch=0), "batch is at least 1, got 0"),
        (lambda: bitsr.Best(effort="huge"), "effort is one of fast, default, max, got 'huge'"),
        (lambda: bitsr.HarmoQ(src="none", rounding="up"), "rounding is one of gptq, nearest, got 'up'"),
        (lambda: bitsr.Best(learn_steps=2.5), "learn_steps is a whole number, got 2.5"),
        (lambda: bitsr.MinMax(8.0, 8), "w_bits is a whole number, got 8.0"),
        (lambda: bitsr.HarmoQ(hso=3), "hso is true or false, got 3"),
        (lambda: bitsr.HarmoQ(ridge=True), "ridge is a number, got True"),
        (lambda: bitsr.Dobi(scope="half"), "scope is one of full, paper, got 'half'"),
    ],
)
def test_options_out_of_range(config, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config()
    assert str(caught.value) == words


def test_a_layer_is_no_network() -> None:
    with pytest.raises(ConfigError, match="put the Conv2d into nn.Sequential"):
        bitsr.compress(nn.Conv2d(3, 3, 3, padding=1), MINMAX, [CROP])
    small = bitsr.compress(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), MINMAX, [CROP])
    assert small.compression["method"] == "minmax"


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (None, r"bitsr.calibration_crops\(None, scale\)"),
        ([], "at least one picture"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least one picture"),
        ([CROP[..., 0]], r"HxWx3, got an array of shape \(16, 16\)"),
        ([CROP[..., :1]], r"HxWx3, got an array of shape \(16, 16, 1\)"),
        ([CROP.astype(np.float32)], r"floats in \[0, 1\], got float32"),
        ([CROP.astype(np.int64)], r"uint8, or of floats in \[0, 1\], got int64"),
        ([np.full((8, 8, 3), np.nan)], r"floats in \[0, 1\]"),
        (torch.from_numpy(CROP)[None], "got a Tensor"),
        ([[0]], "got a list"),
    ],
)
def test_pictures_to_calibrate_on(pictures, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bitsr.compress(make("edsr"), MINMAX, pictures)


def test_pictures_in_one_array_or_as_floats() -> None:
    module = make("edsr")
    stacked, floats = bitsr.compress(module, MINMAX, np.stack([CROP, CROP])), [CROP / np.float32(255)] * 2
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(stacked(x), bitsr.compress(module, MINMAX, [CROP, CROP])(x))
    assert torch.equal(stacked(x), bitsr.compress(module, MINMAX, floats)(x))


def test_configs_and_networks() -> None:
    module = make("edsr")
    for config in ("dobi", bitsr.Dobi, None):
        with pytest.raises(ConfigError, match=r"like bitsr.Best\(w_bits=4, a_bits=4\)"):
            bitsr.compress(module, config, [CROP])
    with pytest.raises(ConfigError, match="Identity has no linear layer or convolution"):
        bitsr.compress(nn.Identity(), MINMAX, [CROP])
    broken = copy.deepcopy(module)
    name, weight = next(iter(broken.named_parameters()))
    weight.data.fill_(float("nan"))
    with pytest.raises(ConfigError, match=f"{name} holds NaN"):
        bitsr.compress(broken, MINMAX, [CROP])


def test_goals() -> None:
    module, budget = make("edsr"), bitsr.Budget(bit_ops=0.8)
    with pytest.raises(ConfigError, match=r"like bitsr.Best\(w_bits=4, a_bits=4\)"):
        bitsr.compress_within(module, "dobi", budget)
    for goal in (0.05, "80%", None):
        with pytest.raises(ConfigError, match=r"bitsr.MaxDrop\(0.05\), got"):
            bitsr.compress_within(module, MINMAX, goal)
    with pytest.raises(ConfigError, match="descriptor"):
        bitsr.compress_within(nn.Conv2d(3, 3, 3), MINMAX, budget)


def test_a_module_is_called_eager_everywhere(tmp_path: Path) -> None:
    """`bitsr eval` and `bitsr bench` have the same name for it."""
    folder = write_pictures(tmp_path / "data", ["a.png"], 40, 40)
    module = make("edsr")
    assert bitsr.evaluate(module, folder, module.upscale).backend == "eager"


@pytest.mark.parametrize("kind", ["module", "packed"])
def test_pictures_to_upscale(kind: str, tmp_path: Path) -> None:
    """A module and a packed file take and refuse the same."""
    module = make("edsr")
    if kind == "packed":
        bitsr.save(module, tmp_path / "a.bitsr")
    model = bitsr.open(tmp_path / "a.bitsr") if kind == "packed" else bitsr.ModuleUpscaler(module)
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257), (np.float32, 1 / 255)):
        assert model((CROP.astype(float) * factor).astype(dtype)).dtype == dtype
    for wrong, words in (
        (CROP.astype(np.float32), "divide it by 255"),
        (CROP / 255, "uint16 or float32, got float64"),
        (CROP[..., 0], "HxWx3"),
        ([[[1, 2, 3]]], "got list"),
        (np.full((4, 4, 3), np.nan, np.float32), "NaN"),
    ):
        with pytest.raises(bitsr.BitsrError, match=words):
            model(wrong)


def test_nan_of_a_module_is_no_picture() -> None:
    module = make("msrresnet x4")
    next(module.parameters()).data[0] = np.nan
    with pytest.raises(PictureError, match="msrresnet: .* NaN or infinite"):
        bitsr.ModuleUpscaler(module)(picture(8, 8))


def test_a_checkpoint_is_no_packed_file(tmp_path: Path) -> None:
    torch.save(make("edsr").state_dict(), tmp_path / "a.pth")
    with pytest.raises(bitsr.BitsrError, match="a checkpoint is read by bitsr.load"):
        bitsr.open(tmp_path / "a.pth")
