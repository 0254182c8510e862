"""What the command line refuses, before any work is spent: one line that names cause and mend; no file is touched."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import bitsr
from bitsr.archs.edsr import EDSR
from bitsr.cli.main import COMMANDS, main
from bitsr.data.files import check_output, write_atomically
from bitsr.errors import BitsrError
from small_files import write_checkpoint, write_pictures
from test_cli import error_of, usage_code
from tiny import make


@pytest.fixture(scope="module")
def packed(checkpoint: Path) -> Path:
    path = checkpoint.with_name("tiny.bitsr")
    assert main(["compress", str(checkpoint), "-o", str(path), "--method", "minmax"]) == 0
    return path


# ---- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_no_python(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_code([command, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "None" not in out and "PATH" not in out and "(default: )" not in out
    assert not re.search(r"\(default: [^)]*\) \(default", out)


def test_an_option_without_value_is_no_word(checkpoint: Path, tmp_path: Path) -> None:
    assert usage_code(["compress", str(checkpoint), "-o", str(tmp_path / "x.bitsr"), "--color", "None"]) == 2


@pytest.mark.parametrize("second", [["--data", "b"], ["--data=b"]])
def test_an_option_given_twice_is_refused(second: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "bicubic", "--scale", "2", "--data", "a", *second]) == 2
    assert error_of(capsys) == "--data is given 2 times: once, please, and several values with commas"


def test_the_short_name_of_an_option_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "MODEL", "-o", "a.bitsr", "--output", "b.bitsr"]) == 2
    assert error_of(capsys).startswith("--output is given 2 times")


def test_negative_numbers_are_no_options(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", "MODEL", "-o", "OUT.bitsr", "--method", "minmax", "--seed", "-1", "--threads", "-1"]
    assert main(words) == 1
    assert "given" not in error_of(capsys)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["compress", "MODEL", "-o", "OUT", "--method", "minmax", "--seed", "-1"], "seed is at least 0, got -1"),
        (["compress", "MODEL", "-o", "OUT", "--method", "minmax", "--threads", "0"], "threads must be at least 1"),
        (["eval", "MODEL", "--data", "PHOTOS", "--threads", "0"], "threads must be at least 1"),
        (["eval", "MODEL", "--data", "PHOTOS", "--threads", "3000000000"], "at most 4096"),
        (["analyze", "MODEL", "--seed", "-1"], "seed is at least 0, got -1"),
        (["eval", "bicubic", "--data", "PHOTOS", "--scale", "0"], "--scale 0: at least 1"),
        (["eval", "bicubic", "--data", "PHOTOS", "--scale", "-2"], "--scale -2: at least 1"),
        (["eval", "MODEL", "--data", "PHOTOS/a.png"], "a.png: is a file, expected a folder"),
        (["compress", "MODEL", "-o", "OUT", "--set", "groups=x"], "method best: groups: 'x' is no int"),
        (["compress", "MODEL", "-o", "OUT", "--effort", "fast", "--set", "effort=max"], "not both"),
        (
            ["compress", "MODEL", "-o", "OUT", "--set", "groups=1", "--set", "groups=2"],
            "--set groups=... is given twice",
        ),
        (["compress", "MODEL", "-o", "OUT", "--bits", "4", "--budget", "1MiB"], "limit BitOps too: 1MiB,100%"),
        (["compress", "MODEL", "-o", "OUT", "--budget", "9KiB,8KiB"], "one size and one share"),
        (["compress", "MODEL", "-o", "OUT", "--max-drop", "inf"], "--max-drop inf"),
        (["compress", "MODEL", "-o", "OUT", "--method", "minmax", "--budget", "1KiB"], "the limit is 1024"),
        (["compress", "MODEL", "-o", "OUT", "--method", "minmax", "--budget", "1%"], "the limit is 1.0%"),
        (["compress", "MODEL", "-o", "OUT", "--method", "granular-dq"], "there is no file of it"),
        (["compress", "MODEL", "-o", "OUT", "--method", "granular-dq", "--bits", "4"], "2dquant --w-bits 8"),
        (["compress", "MODEL", "-o", "OUT", "--config", "PHOTOS/granular.yaml"], "--method 2dquant --w-bits 8"),
        (["compress", "MODEL", "-o", "OUT", "--method", "pams", "--set", "narrow=1"], "leave out narrow=true"),
        (["compress", "MODEL", "-o", "OUT", "--bits", "1"], "bitsr train with method bssr_plus"),
        (["compress", "MODEL", "-o", "OUT", "--config", "none.yaml"], "none.yaml: No such file"),
        (
            ["compress", "MODEL", "-o", "OUT", "--config", "PHOTOS/c.yaml"],
            "c.yaml: method dobi: w_bits is int",
        ),
        (["data", "list", "Set5"], "bitsr data get Set5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be(
    words: list[str], complaint: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_pictures(tmp_path / "photos", ["a.png"], 140, 140)
    (photos / "c.yaml").write_text("method: dobi\nw_bits: four\n")
    (photos / "granular.yaml").write_text("method: granular-dq\n")
    names = {"MODEL": str(checkpoint), "OUT": str(tmp_path / "out.bitsr"), "PHOTOS": str(photos)}
    words = [re.sub("MODEL|OUT|PHOTOS", lambda found: names[found[0]], word) for word in words]
    assert usage_code(words) in (1, 2)
    assert complaint in error_of(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_numbers_in_python(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"], 40, 40)
    for call in (
        lambda: bitsr.calibration_crops(None, 0),
        lambda: bitsr.calibration_crops(None, 2, count=0),
        lambda: bitsr.calibration_crops(None, 2, size=0),
        lambda: bitsr.calibration_crops(None, 2, seed=-1),
        lambda: bitsr.evaluate(lambda lr: lr, tmp_path, 0),
    ):
        with pytest.raises(BitsrError, match="at least"):
            call()


def test_what_cannot_be_packed_of_a_transformer_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_checkpoint(tmp_path / "model.safetensors", make("swinir light x4"))
    words = ["compress", str(model), "-o", str(tmp_path / "a.bitsr"), "--method", "repq"]
    assert main(words) == 1
    assert "give softmax=affine" in error_of(capsys)
    assert main([*words, "--a-bits", "16"]) == 0


# ---- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "suffix"),
    [
        (["compress", "MODEL", "--calib", "missing"], ".bitsr"),
        (["export", "MODEL"], ".onnx"),
        (["analyze", "MODEL", "--calib", "missing"], ""),
        (["bench", "MODEL", "--backends", "reference"], ""),
        (["table", "missing.csv"], ""),
        (["demo"], ""),
        (["upscale", "PHOTO", "--model", "missing.bitsr"], ""),
        (["upscale", "PHOTO", "--model", "missing.bitsr"], ".png"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_outputs_are_looked_at_first(
    words: list[str], suffix: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder should be is found before the work, and before any other mistake."""
    (tmp_path / "file").write_text("kept")
    photo = write_pictures(tmp_path / "photos", ["a.png"], 40, 40) / "a.png"
    names = {"MODEL": str(checkpoint), "PHOTO": str(photo)}
    output = tmp_path / "file" / f"out{suffix}"
    assert main([*(names.get(word, word) for word in words), "-o", str(output)]) == 1
    assert error_of(capsys) == f"{tmp_path / 'file'}: is a file, expected a folder"
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_is_no_output_file(tmp_path: Path) -> None:
    with pytest.raises(BitsrError, match="is a folder, expected the name of a file"):
        check_output(tmp_path)
    check_output(tmp_path, folder=True)
    check_output(tmp_path / "new" / "deep" / "file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BitsrError, match="no permission"):
        check_output(tmp_path / "file")


def test_a_failed_write_names_the_file_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "file", tmp_path / "folder"):
        with pytest.raises(OSError) as caught:
            write_atomically(path, b"data")
        assert caught.value.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_name_of_the_greatest_length(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), b"data")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"data"


# ---- what is told ----------------------------------------------------------------------------------------------------


def test_compress_as_json(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Floating point is called what the file holds, whichever of 16 and 32 was asked for."""
    out = tmp_path / "x.bitsr"
    words = ["compress", str(checkpoint), "-o", str(out), "--method", "minmax", "--json", "--bits"]
    for bits, precision, told in (("32", "fp16", "fp16"), ("16", "fp32", "fp32"), ("8", "fp16", "W8A8")):
        assert main([*words, bits, "--precision", precision]) == 0
        captured = capsys.readouterr()
        content = json.loads(captured.out)
        assert captured.err == "" and content.pop("seconds") > 0
        assert content == {
            "file": str(out), "file_bytes": out.stat().st_size, "checkpoint_bytes": checkpoint.stat().st_size,
            "method": "minmax", "bits": told, "drop_db": None, "quality": content["quality"],
        }  # fmt: skip


def test_info_leaves_out_what_was_left_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.bitsr"
    assert main(["compress", str(checkpoint), "-o", str(out), "--bits", "16"]) == 0
    assert main(["info", str(out)]) == 0
    told = capsys.readouterr().out
    assert "method=best" in told and "None" not in told


def test_memory_that_does_not_suffice(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch says so by a RuntimeError, which is no bug; other RuntimeErrors are."""

    def fail(words: str) -> Callable[..., None]:
        def load(*arguments: object, **options: object) -> None:
            raise RuntimeError(words)

        return load

    monkeypatch.setattr("bitsr.archs.load.read_state_dict", fail("DefaultCPUAllocator: can't allocate memory\nmore"))
    assert main(["info", str(checkpoint)]) == 1
    assert error_of(capsys) == "memory does not suffice (DefaultCPUAllocator: can't allocate memory)"
    monkeypatch.setattr("bitsr.archs.load.read_state_dict", fail("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["info", str(checkpoint)])


# ---- upscale ---------------------------------------------------------------------------------------------------------


def test_no_result_replaces_another_source(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_pictures(tmp_path / name, ["a.png"], 16, 16) / "a.png" for name in ("x", "y"))
    before = second.read_bytes()
    assert main(["upscale", str(first), str(second), "-o", str(tmp_path / "y"), "--model", str(packed)]) == 1
    assert second.read_bytes() == before
    err = capsys.readouterr().err
    assert f"would replace the picture {second}" in err and "2 of 2 pictures failed" in err


def test_pictures_that_cannot_be_written(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A GIF is read, but not written under its own name; a name that ends so is no folder either."""
    source = tmp_path / "a.gif"
    Image.new("RGB", (8, 8)).save(source)
    for output, complaint in ((tmp_path / "out", "name a file, as in"), (tmp_path / "b.gif", "neither a folder nor")):
        assert main(["upscale", str(source), "-o", str(output), "--model", str(packed)]) == 1
        assert complaint in error_of(capsys)
    assert main(["upscale", str(source), "-o", str(tmp_path / "b.png"), "--model", str(packed)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "b.png"]


# ---- eval ------------------------------------------------------------------------------------------------------------


def test_networks_of_two_scales(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are measured side by side, each at its own; bicubic cannot tell which is meant."""
    other = write_checkpoint(tmp_path / "other.safetensors", scale=4)
    photos = write_pictures(tmp_path / "photos", ["a.png"], 64, 64)
    words = ["eval", str(checkpoint), str(other), "--data", str(photos)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert " x2 " in out and " x4 " in out
    assert main([words[0], "bicubic", *words[1:]]) == 1
    assert error_of(capsys) == "bicubic needs --scale: the networks upscale by 2 and 4"


# ---- what a checkpoint does not tell ---------------------------------------------------------------------------------


def test_trained_weights_tell_what_others_do_not(tmp_path: Path) -> None:
    """Untrained EDSR weights leave range and residual scale open; those that `bitsr train` wrote do not."""
    photos = write_pictures(tmp_path / "photos", ["a.png", "b.png"], 48, 48)
    recipe = tmp_path / "recipe.yaml"
    options = "num_feat: 8, num_block: 1, img_range: 1.0, res_scale: 0.3"
    recipe.write_text(f"arch: edsr\narch_args: {{{options}}}\nscale: 2\nsteps: 1\nbatch: 1\ncrop: 8\nwarmup: 0\n")
    assert main(["train", str(recipe), "--data", str(photos), "--output", str(tmp_path / "run")]) == 0
    module = bitsr.load(tmp_path / "run" / "weights.safetensors")
    assert (module.img_range, module.res_scale) == (1.0, 0.3)


def test_a_finished_run_without_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_pictures(tmp_path / "photos", ["a.png", "b.png"], 48, 48)
    (tmp_path / "r.yaml").write_text("arch: msrresnet\narch_args: {num_feat: 8, num_block: 1}\nsteps: 1\ncrop: 8\n")
    words = ["train", str(tmp_path / "r.yaml"), "--data", str(photos), "-o", str(tmp_path / "run")]
    assert main(words) == 0
    told = capsys.readouterr().out
    (tmp_path / "run" / "log.jsonl").unlink()
    assert main([*words, "--resume"]) == 0
    assert capsys.readouterr().out == told


def test_other_peoples_notes_are_left_alone(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = EDSR(num_feat=8, num_block=1, upscale=2).state_dict()
    for note in ("", "[1]", "text", '{"config": 3}', '{"config": {"img_range": "255"}}', '{"config": {"upscale": 7}}'):
        save_file(state, tmp_path / "a.safetensors", {"bitsr": note})
        with pytest.raises(bitsr.BitsrError, match="img_range"):
            bitsr.load(tmp_path / "a.safetensors")
