"""What `bitsr compress` says of the file it wrote: on which pictures, and loud where it is bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import bitsr
from bitsr.cli import compress as command
from bitsr.cli.main import main
from bitsr.cli.quality import Judges, Quality, judges_beside, judges_of_choice, measure_quality
from bitsr.data.calibration import pair_per_picture
from bitsr.data.imresize import imresize
from bitsr.evaluation.metrics import psnr_y
from small_files import write_checkpoint, write_pictures

TOLD = Quality(psnr_y=20.0, fp_psnr_y=30.0, bicubic_psnr_y=25.0, pictures=7, role="calibrated")


def test_compress_measures_the_file(
    checkpoint: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "x.bitsr"
    words = ["compress", str(checkpoint), "-o", str(packed), "--method", "minmax", "--calib", str(calib), "--seed", "5"]
    assert main([*words, "--json"]) == 0
    quality = json.loads(capsys.readouterr().out)["quality"]
    pairs = pair_per_picture(calib, 2, seed=5)
    upscalers = {
        "psnr_y": bitsr.open(packed),
        "fp_psnr_y": bitsr.ModuleUpscaler(bitsr.load(checkpoint)),
        "bicubic_psnr_y": lambda lr: imresize(lr, 2),
    }
    for key, upscaler in upscalers.items():
        assert quality.pop(key) == pytest.approx(np.mean([psnr_y(upscaler(p.lr), p.hr, 2) for p in pairs])), key
    assert quality == {"pictures": 2, "role": "calibrated"}
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "full precision" in out and "crops of 2 pictures that were calibrated on" in out and err == ""


def test_pictures_to_judge_on(tmp_path: Path) -> None:
    few, many = (write_pictures(tmp_path / str(n), [f"{i:02}.png" for i in range(n)], 16, 16) for n in (3, 20))
    assert judges_beside(few, []) == Judges(few, "calibrated")
    assert judges_beside(few, [few / "01.png"]) == Judges([few / "01.png"], "unseen")
    assert judges_of_choice(few).role == "calibrated"
    assert judges_of_choice(many) == Judges([many / "09.png", many / "19.png"], "bits chosen")


def test_where_nothing_can_be_measured(checkpoint: Path, tmp_path: Path) -> None:
    """Pictures of fewer than 32 LR pixels a side, and networks that do not upscale."""
    small = Judges(write_pictures(tmp_path / "small", ["a.png"], 60, 60), "calibrated")
    module = bitsr.load(checkpoint)
    assert measure_quality(tmp_path / "not opened", module, small, 0, None) is None
    module.descriptor = bitsr.Descriptor(arch="restores", scale=1)
    assert measure_quality(tmp_path / "not opened", module, Judges(None, "calibrated"), 0, None) is None


def test_a_file_below_the_baseline(calib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its last layer the network is bilinear, which is better than copied pixels, here in bicubic's place."""
    monkeypatch.setattr("bitsr.cli.quality.Bicubic", lambda scale: lambda lr: lr.repeat(scale, 0).repeat(scale, 1))
    module = bitsr.load(write_checkpoint(tmp_path / "tiny.safetensors", scale=2))
    for name, factor in (("bad", 50.0), ("good", 0.0)):
        with torch.no_grad():
            module.conv_last.weight.mul_(factor)
            module.conv_last.bias.mul_(factor)
        bitsr.save(module, tmp_path / f"{name}.bitsr")
    judges = Judges(calib, "calibrated")
    bad, good = (measure_quality(tmp_path / f"{name}.bitsr", module, judges, 0, 1) for name in ("bad", "good"))
    assert bad is not None and bad.below_bicubic
    assert good is not None and not good.below_bicubic and good.psnr_y == pytest.approx(good.fp_psnr_y, abs=0.01)


def test_networks_that_are_below_bicubic_themselves_are_not_blamed() -> None:
    assert TOLD.below_bicubic
    assert not Quality(20.0, 24.0, 25.0, 16, "unseen").below_bicubic


def test_a_file_below_bicubic_is_a_warning(
    checkpoint: Path, calib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "measure_quality", lambda *_: TOLD)
    words = ["compress", str(checkpoint), "-o", str(tmp_path / "x.bitsr"), "--method", "minmax", "--calib", str(calib)]
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["quality"]["psnr_y"] == 20.0
    assert err.startswith("warning: ") and err.count("\n") == 1 and "--effort default or max" in err
