"""The demo on small files: what it writes, what it reports, and the before-and-after picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitsr.cli.demo import CROP, before_after, most_detailed, run
from small_files import picture, write_checkpoint, write_pictures


def test_demo_on_small_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "tiny.safetensors", scale=2)
    source = write_pictures(tmp_path / "in", ["a.png"], 101, 110) / "a.png"
    out = tmp_path / "demo"
    rows = run(checkpoint, source, out, ("learn_steps=1", "groups=1", "samples=512"))
    assert [row.file_bytes for row in rows] == [None, checkpoint.stat().st_size, (out / "demo.bitsr").stat().st_size]
    assert Image.open(out / "upscaled.png").size == (110, 100)
    assert Image.open(out / "before_after.png").width == 4 * 3 * CROP
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [row["psnr_y"] for row in report["rows"]] == [row.psnr_y for row in rows]
    assert "packed W4A4" in capsys.readouterr().out


def test_before_and_after_shows_the_detail() -> None:
    hr = np.zeros((160, 200, 3), np.uint8)
    hr[60:150, 100:190] = picture(90, 90)
    y, x = most_detailed(hr, CROP)
    assert 40 <= y <= 64 and 80 <= x <= 104
    sheet = before_after(hr[::2, ::2], hr, hr, hr, 2)
    assert sheet.shape == (CROP * 3 + 28, 4 * CROP * 3, 3)
    panels = np.split(sheet[28:], 4, axis=1)
    np.testing.assert_array_equal(panels[3][::3, ::3], hr[y : y + CROP, x : x + CROP])
