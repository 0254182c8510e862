"""`bitsr upscale`: what is written, what is said about it, and what fails; then as a process, with its pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitsr
from bitsr.archs.imdn import IMDN
from bitsr.cli.main import main
from bitsr.runtime.images import Failure, upscale_files
from small_files import picture, write_checkpoint, write_pictures
from test_cli import error_of


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    path = folder / "model.bitsr"
    bitsr.save(bitsr.load(write_checkpoint(folder / "model.safetensors", scale=2)), path)
    return path


def test_upscale_one_picture(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pictures(tmp_path / "in", ["a.png"], 20, 30) / "a.png"
    assert main(["upscale", str(source), "-o", str(tmp_path / "large.png"), "--model", str(packed)]) == 0
    assert Image.open(tmp_path / "large.png").size == (60, 40)
    assert capsys.readouterr().err == ""


def test_upscale_with_a_checkpoint_agrees_with_torch(checkpoint: Path, tmp_path: Path) -> None:
    import bitsr

    source = write_pictures(tmp_path / "in", ["a.png"], 20, 30) / "a.png"
    assert main(["upscale", str(source), "-o", str(tmp_path / "out"), "--model", str(checkpoint), "--tile", "16"]) == 0
    expected = bitsr.ModuleUpscaler(bitsr.load(checkpoint))(picture(20, 30))
    result = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_upscale_tells_what_tiling_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_checkpoint(tmp_path / "global.safetensors", IMDN(nf=16, upscale=2))
    source = write_pictures(tmp_path / "in", ["a.png"], 40, 90) / "a.png"
    for tile, told in (("auto", False), ("16", True)):
        assert main(["upscale", str(source), "-o", str(tmp_path), "--model", str(model), "--tile", tile]) == 0
        out = capsys.readouterr().out
        assert ("tiling changed the result: " in out and "/255" in out) == told
        assert ("in one piece" in out) != told


def test_upscale_goes_on_after_a_corrupt_picture(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_pictures(tmp_path / "in", ["a.png", "b.png", "c.png"], 20, 20)
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:200])
    assert main(["upscale", str(folder), "-o", str(tmp_path / "out"), "--model", str(packed)]) == 1
    captured = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    assert "a.png: 40x40" in captured.out
    failed, error = captured.err.splitlines()
    assert failed.startswith("failed: ") and "b.png" in failed
    assert error.startswith("error: 1 of 3 pictures failed: ") and error.endswith("b.png")


def test_upscale_small_and_grey(packed: Path, tmp_path: Path) -> None:
    Image.new("L", (1, 1), 128).save(tmp_path / "dot.png")
    assert main(["upscale", str(tmp_path), "-o", str(tmp_path / "out"), "--model", str(packed)]) == 0
    assert Image.open(tmp_path / "out" / "dot.png").size == (2, 2)


def test_upscale_never_writes_two_results_to_one_name(packed: Path, tmp_path: Path) -> None:
    sources = [
        str(write_pictures(tmp_path / name, ["a.png"], 16, side) / "a.png") for name, side in (("x", 16), ("y", 20))
    ]
    assert main(["upscale", *sources, "-o", str(tmp_path / "out"), "--model", str(packed)]) == 1
    assert Image.open(tmp_path / "out" / "a.png").size == (32, 32)


def test_upscale_errors(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_pictures(tmp_path / "one", ["a.png"], 16, 16) / "a.png"
    (tmp_path / "empty").mkdir()
    before = first.read_bytes()
    for arguments, complaint in [
        ([str(first), "-o", str(first)], "would replace it"),
        ([str(tmp_path / "one"), "-o", str(tmp_path / "one")], "would replace it"),
        ([str(tmp_path / "one"), "-o", str(tmp_path / "out.png")], "give a folder"),
        ([str(tmp_path / "empty"), "-o", str(tmp_path / "out")], "holds no pictures"),
        (["missing.png", "-o", str(tmp_path / "out")], "missing.png: no such file"),
    ]:
        assert main(["upscale", *arguments, "--model", str(packed)]) == 1
        assert complaint in error_of(capsys)
    assert first.read_bytes() == before


# ---- as a process ----------------------------------------------------------------------------------------------------


def command(packed: Path, *inputs: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "bitsr", "upscale", *map(str, inputs), "-o", str(out), "--model", str(packed)]


def environment(**values: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(bitsr.__file__).parents[1]), **values}


def test_lines_go_to_a_file_while_the_bar_is_on_the_terminal(packed: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    folder = write_pictures(tmp_path / "in", ["a.png", "b.png"], 8, 8)
    terminal, end = pty.openpty()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command(packed, folder, out=tmp_path / "out"), stdout=log, stderr=end, env=environment(TERM="xterm")
        )
    os.close(end)
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:  # the other end was closed
        pass
    os.close(terminal)
    assert process.wait() == 0
    assert [line.partition(":")[0] for line in (tmp_path / "log").read_text().splitlines()] == [
        str(tmp_path / "out" / name) for name in ("a.png", "b.png")
    ]


def test_all_pictures_are_made_though_nobody_reads_on(packed: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", [f"{i}.png" for i in range(4)], 8, 8)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command(packed, folder, out=tmp_path / "out"), stdout=write, env=environment(), check=False)
    os.close(write)
    assert done.returncode == 0 and len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_names_that_stdout_cannot_encode(encoding: str, packed: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", ["a.png", "\u00e9.png"], 8, 8)
    os.rename(os.fsencode(folder / "a.png"), os.fsencode(folder) + b"/b\xff.png")
    done = subprocess.run(
        command(packed, folder, out=tmp_path / "out"), capture_output=True, env=environment(PYTHONIOENCODING=encoding),
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"\n") == 2 and len(list((tmp_path / "out").iterdir())) == 2


def test_what_is_missing_among_several_stops_nothing(packed: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", ["a.png"], 8, 8)
    (folder / "z.png").symlink_to(folder / "nowhere.png")
    words = command(packed, tmp_path / "missing.png", folder, out=tmp_path / "out")
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 1 and [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert done.stderr.splitlines()[-1].startswith("error: 2 of 3 pictures failed: ")


def test_a_name_that_was_not_used_is_free(packed: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "good", ["a.png"], 8, 8)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    jobs = [(tmp_path / name / "a.png", tmp_path / "out" / "a.png") for name in ("bad", "good")]
    outcomes: list[object] = []
    report = upscale_files(bitsr.open(packed), jobs, on_picture=outcomes.append)
    assert len(report.done) == 1 and isinstance(outcomes[0], Failure) and (tmp_path / "out" / "a.png").exists()
