"""The command line's contract: exit codes, one line per error, JSON and nothing else, files where they are expected."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bitsr.cli.compress import compress
from bitsr.cli.main import COMMANDS, main
from bitsr.format import read_program, write_program
from bitsr.methods.registry import METHODS
from small_files import write_pictures
from without_torch import run_without_torch

DOCS = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


@pytest.fixture(scope="module")
def packed(checkpoint: Path) -> Path:
    path = checkpoint.with_name("tiny.bitsr")
    assert (
        main(["compress", str(checkpoint), "-o", str(path), "--method", "minmax", "--w-bits", "4", "--a-bits", "8"])
        == 0
    )
    return path


@pytest.fixture(scope="module")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "SetTwo", ["a.png", "b.png"], 40, 36)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, without `error: `; nothing is on stdout."""
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err.removeprefix("error: ").rstrip()


def usage_code(arguments: list[str]) -> int:
    """Exit code, whether it is returned or raised by the parser."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        assert isinstance(leaving.code, int)
        return leaving.code


# ---- help and usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_documentation_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_code([command, "--help"]) == 0
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out)) - {"--help"}
    section = DOCS.read_text(encoding="utf-8").split(f"## bitsr {command}\n")[1].split("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("| `"))
    documented = set(re.findall(r"`(--[a-z-]+)`", table))
    assert options - {"--debug"} == documented


def test_help_names_every_method() -> None:
    """Of those that can be packed."""
    (told,) = re.findall(r"method: (.*?); left out: (\w+)", " ".join(str(compress.__doc__).split()))
    assert {*told[0].split(", "), told[1]} == {name for name, kind in METHODS.items() if not kind().unpackable(False)}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["info"],
        ["compress", "a.pth"],
        ["compress", "a.pth", "-o", "b.pth"],
        ["compress", "a.pth", "-o", "b.bitsr", "--bits", "four"],
        ["compress", "a.pth", "-o", "b.bitsr", "--set", "groups"],
        ["compress", "a.pth", "-o", "b.bitsr", "--bits", "4", "--w-bits", "4", "--a-bits", "8"],
        ["compress", "a.pth", "-o", "b.bitsr", "--config", "c.yaml", "--bits", "4"],
        ["eval", "--data", "Set5"],
        ["eval", "bicubic", "--data", ","],
        ["eval", "bicubic", "--data", "Set5", "--limit", "0"],
        ["eval", "bicubic", "--data", "Set5", "--backend", "abacus"],
        ["upscale", "-o", "out", "--model", "m.bitsr"],
        ["upscale", "a.png", "-o", "out", "--model", "m.bitsr", "--tile", "-3"],
        ["data", "get"],
        ["data", "bake", "Set5"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_code(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err


def test_module_entry_and_closed_pipe(checkpoint: Path) -> None:
    """`python -m bitsr` in a process of its own, without a terminal: the result alone, also when nobody reads it."""
    done = subprocess.run([sys.executable, "-m", "bitsr", "data", "list"], capture_output=True, text=True)
    assert done.returncode == 0 and "Urban100" in done.stdout and done.stderr == ""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "bitsr", "info", str(checkpoint)], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.stderr == b""


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_of_a_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["arch"], content["scale"], content["kind"]) == ("msrresnet", 2, "checkpoint")
    assert content["file_bytes"] == checkpoint.stat().st_size
    assert {(layer["w_bits"], layer["a_bits"]) for layer in content["layers"]} == {(32, 32)}
    assert sum(layer["bytes"] for layer in content["layers"]) == 4 * content["parameters"]


def test_info_of_a_packed_file(packed: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(packed), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert main(["info", str(checkpoint), "--json"]) == 0
    original = json.loads(capsys.readouterr().out)
    assert (content["arch"], content["scale"], content["kind"]) == ("msrresnet", 2, "packed")
    assert content["file_bytes"] == packed.stat().st_size
    assert content["parameters"] == original["parameters"]
    assert len(content["layers"]) == len(original["layers"])
    bits = [(layer["w_bits"], layer["a_bits"]) for layer in content["layers"]]
    assert bits[0] == (8, 8) and (4, 8) in bits  # the first convolution of a CNN keeps 8 bits
    first = content["layers"][0]
    assert set(first) == {"name", "kind", "w_bits", "a_bits", "bytes", "macs", "bit_ops"}
    outputs = original["layers"][0]["bytes"] / 4 / (3 * 9 + 1)  # of a 3x3 convolution of RGB, with a bias each
    assert first["macs"] == outputs * 3 * 9 and first["bit_ops"] == 64 * first["macs"]


def test_info_in_words(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(packed)]) == 0
    out = capsys.readouterr().out
    assert "msrresnet" in out and "W4A8" in out and "counted" in out and "measured" in out and "method=minmax" in out


def test_info_of_strange_words(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever wrote a file wrote its metadata too: nothing in them reaches the terminal as it is."""
    program = read_program(packed)
    for compression, shown in (("abc", ""), ([1], ""), ({"method": "\x1b[31mred\n"}, "'method=\\x1b[31mred\\n'")):
        write_program(dataclasses.replace(program, meta={"compression": compression}), tmp_path / "a.bitsr")
        assert main(["info", str(tmp_path / "a.bitsr")]) == 0
        out = capsys.readouterr().out
        assert shown in out and "\x1b" not in out


def test_packed_files_need_no_torch(packed: Path, benchmark_folder: Path, tmp_path: Path) -> None:
    commands = [
        ["info", str(packed)],
        ["eval", str(packed), "--data", str(benchmark_folder), "--limit", "1"],
        ["upscale", str(benchmark_folder), "-o", str(tmp_path), "--model", str(packed)],
    ]
    done = run_without_torch(f"from bitsr.cli.main import main\nprint([main(words) for words in {commands!r}])")
    assert done.stdout.endswith("[0, 0, 0]\n"), done.stderr
    assert "native" in done.stdout or "reference" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_checkpoints_without_torch_say_what_is_missing(checkpoint: Path) -> None:
    done = run_without_torch(f"from bitsr.cli.main import main\nsys.exit(main(['info', {str(checkpoint)!r}]))")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "pip install 'bitsr[torch]'" in done.stderr


# ---- compress --------------------------------------------------------------------------------------------------------


def test_compress_reports_and_repeats(
    packed: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config file with an override says the same as options; equal input gives equal bytes; folders are made."""
    config = tmp_path / "config.yaml"
    config.write_text("method: minmax\nw_bits: 3\na_bits: 8\n", encoding="utf-8")
    again = tmp_path / "new" / "again.bitsr"
    assert main(["compress", str(checkpoint), "-o", str(again), "--config", str(config), "--set", "w_bits=4"]) == 0
    assert again.read_bytes() == packed.read_bytes()
    out = capsys.readouterr().out
    assert "minmax" in out and "W4A8" in out


def test_compress_options_reach_the_method(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.bitsr"
    pictures = write_pictures(tmp_path / "calib", ["a.png"], 140, 140)
    words = ["--bits", "3", "--effort", "fast", "--set", "learn_steps=1", "--set", "groups=1", "--calib", str(pictures)]
    assert main(["compress", str(checkpoint), "-o", str(out), *words, "--seed", "7", "--scope", "paper"]) == 0
    capsys.readouterr()
    assert main(["info", str(out), "--json"]) == 0
    compression = json.loads(capsys.readouterr().out)["meta"]["compression"]
    expected = {
        "method": "best",
        "effort": "fast",
        "w_bits": 3,
        "a_bits": 3,
        "learn_steps": 1,
        "groups": 1,
        "seed": 7,
        "scope": "paper",
    }
    assert {key: compression[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--bits", "1"], "needs training"),
        (["--bits", "5"], "2, 3, 4, 6, 8"),
        (["--method", "magic"], "unknown method 'magic'"),
        (["--set", "nonsense=1"], "no field 'nonsense'"),
        (["--method", "percentile", "--set", "tail=2"], "tail"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--calib", "missing"], "missing: no such folder"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_compress_errors(
    words: list[str], complaint: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.bitsr"
    assert main(["compress", str(checkpoint), "-o", str(out), *words]) == 1
    assert complaint in error_of(capsys)
    assert not out.exists()


def test_compress_refuses_packed_files(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(packed), "-o", str(tmp_path / "x.bitsr")]) == 1
    assert "packed already" in error_of(capsys)


def test_compress_on_a_device(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", str(checkpoint), "-o", str(tmp_path / "x.bitsr"), "--method", "minmax", "--device", "cuda"]
    if torch.cuda.is_available():
        assert main(words) == 0
        assert main(["info", str(tmp_path / "x.bitsr")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(words) == 1
    assert error_of(capsys) == "--device cuda: torch sees no CUDA device here"


# ---- errors of files -------------------------------------------------------------------------------------------------


def test_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "missing.pth"]) == 1
    assert error_of(capsys) == "missing.pth: no such file"


def test_unknown_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import save_file

    save_file({"some.weight": np.zeros((3, 3), np.float32)}, tmp_path / "other.safetensors")
    assert main(["info", str(tmp_path / "other.safetensors")]) == 1
    assert "other.safetensors" in error_of(capsys)


@pytest.mark.parametrize("suffix", [".safetensors", ".bitsr"])
def test_truncated_file(
    suffix: str, checkpoint: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {".safetensors": checkpoint, ".bitsr": packed}[suffix]
    half = tmp_path / f"half{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert main(["info", str(half)]) == 1
    assert f"half{suffix}" in error_of(capsys)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no such file"):
        main(["info", "missing.pth", "--debug"])


# ---- eval ------------------------------------------------------------------------------------------------------------


def test_eval_json(packed: Path, checkpoint: Path, benchmark_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every model on every folder, in the order given; bicubic takes the scale of the others."""
    folders = f"{benchmark_folder},{benchmark_folder}"
    assert main(["eval", "bicubic", str(packed), str(checkpoint), "--data", folders, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    results = json.loads(captured.out)["results"]
    assert [r["model"] for r in results] == ["bicubic"] * 2 + [str(packed)] * 2 + [str(checkpoint)] * 2
    keys = {"model", "dataset", "scale", "images", "psnr_y", "ssim_y", "backend", "seconds", "file_bytes"}
    assert all(set(r) == keys and r["scale"] == 2 and r["images"] == 2 and r["dataset"] == "SetTwo" for r in results)
    assert [r["file_bytes"] for r in results[::2]] == [None, packed.stat().st_size, checkpoint.stat().st_size]
    assert results[4]["backend"] == "eager"


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_eval_backends_agree(
    backend: str, packed: Path, benchmark_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", str(packed), "--data", str(benchmark_folder), "--limit", "1", "--json", "--backend"]
    results = []
    for name in (backend, "auto"):
        assert main([*words, name]) == 0
        results.append(json.loads(capsys.readouterr().out)["results"][0])
    assert results[0]["backend"] == backend
    assert results[0]["images"] == 1
    assert results[0]["psnr_y"] == pytest.approx(results[1]["psnr_y"], abs=0.01)


def test_eval_table(benchmark_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "bicubic", "--data", str(benchmark_folder), "--scale", "2"]) == 0
    out, err = capsys.readouterr()
    assert "PSNR-Y" in out and "SetTwo" in out and err == ""


def test_eval_errors(packed: Path, benchmark_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, complaint in [
        (["bicubic", "--data", str(benchmark_folder)], "bicubic needs --scale"),
        (["bicubic", "--data", str(tmp_path / "nowhere"), "--scale", "2"], "nowhere: no such folder"),
        (["bicubic", "--data", str(tmp_path / "empty"), "--scale", "2"], "empty"),
        (["missing.bitsr", "--data", str(benchmark_folder)], "missing.bitsr: no such file"),
        ([str(packed), "--data", str(benchmark_folder), "--scale", "4"], "upscales by 2, not by 4"),
    ]:
        assert main(["eval", *arguments, "--json"]) == 1
        assert complaint in error_of(capsys)
