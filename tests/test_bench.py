"""`bitsr bench`: turns, tables, peers that are given the right network, and one that fails without stopping others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitsr.bench import memory, peers, run, timing
from bitsr.bench.case import Case, network_pictures, open_case
from bitsr.bench.job import Job
from bitsr.bench.memory import peak_rss_mib
from bitsr.bench.peers import PEERS, Variant, choose
from bitsr.bench.picture import draw_bars
from bitsr.bench.timing import Times, interleave
from bitsr.cli.main import main
from bitsr.descriptor import Descriptor
from bitsr.errors import BitsrError, ConfigError
from bitsr.format import write_program
from packed_files import PROGRAM

torch = pytest.importorskip("torch")

from bitsr.bench.module import module_of  # noqa: E402
from bitsr.lowering import lower  # noqa: E402
from small_files import write_checkpoint  # noqa: E402
from tiny import BITS, make, quantize_roughly  # noqa: E402

PROMISED = {"model", "backend", "threads", "size", "median_ms", "cpu_ms", "peak_rss_mib", "ratio_vs_eager"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bench") / "net.safetensors", make("msrresnet x3"))


@pytest.fixture(scope="module")
def packed(checkpoint: Path) -> Path:
    path = checkpoint.with_suffix(".bitsr")
    write_program(lower(quantize_roughly(make("msrresnet x3"), BITS["w8a8"])), path)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child processes, short turns."""
    monkeypatch.setattr(run, "peak_rss_mib", lambda job: 12.34)
    monkeypatch.setattr(timing, "TURN", 1e-4)
    monkeypatch.setattr(timing, "PAUSE", 0.0)


def bench(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    """The JSON that the command prints."""
    assert main(["bench", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ---- time and memory ------------------------------------------------------------------------------------------------


def test_variants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TURN", 0.0)
    calls: list[str] = []
    times = interleave({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert calls == [*"aabb", *"ababab"]
    assert [len(t.wall) for t in times.values()] == [3, 3] and all(x > 0 for x in times["a"].wall)


def test_spread_is_in_quartiles() -> None:
    numbers = Times([0.001, 0.002, 0.003, 0.004, 0.005], [0.01] * 5).milliseconds()
    assert numbers == pytest.approx({"median_ms": 3, "q1_ms": 2, "q3_ms": 4, "min_ms": 1, "cpu_ms": 10})


def test_memory_is_that_of_a_process_of_its_own(packed: Path) -> None:
    held = np.ones(300 << 17)  # 300 MiB here are not counted there
    job = Job("ours", str(packed), 8, 8, 3, 1, "reference")
    assert Job.from_json(job.to_json()) == job
    assert 15 < peak_rss_mib(job) < 200 < memory.own_peak_mib() and held.any()
    with pytest.raises(BitsrError, match="process failed: .*No such file"):
        peak_rss_mib(Job("ours", "none.bitsr", 8, 8, 3, 1, "reference"))


# ---- cases and peers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 9), (128, 40), (200, 300)])
def test_pictures_are_of_any_size(size: tuple[int, int]) -> None:
    x, y = network_pictures(Descriptor("net", 2, "y"), *size, 2)
    assert x.shape == y.shape == (*size, 1) and x.dtype == np.float32 and not np.array_equal(x, y)


@pytest.mark.parametrize("name", ["swinir light x4", "swinir real x4", "rfdn 0..255", "imdn", "msrresnet x3"])
def test_a_packed_file_becomes_a_module_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.bitsr"
    write_program(lower(quantize_roughly(make(name), BITS["w4a4"], input_scales=True)), path)
    module = module_of(open_case(path, 16, 16))
    assert type(module) is type(make(name))


def test_a_network_of_the_users_own_has_no_module(tmp_path: Path) -> None:
    write_program(PROGRAM, tmp_path / "own.bitsr")
    with pytest.raises(ConfigError, match="no network that bitsr can load"):
        module_of(open_case(tmp_path / "own.bitsr", 16, 16))


def test_peers_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [v.name for v in choose(["eager"])] == ["eager"] and choose([]) == []
    with pytest.raises(ConfigError, match="unknown peer 'tensorrt'"):
        choose(["tensorrt"])
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "openvino" else name)
    assert not [v for v in choose(None) if v.name.startswith("openvino")]
    with pytest.raises(ConfigError, match=r"needs openvino.*bitsr\[torch,bench\]"):
        choose(["openvino"])


@pytest.mark.parametrize("family", ["onnxruntime", "openvino"])
def test_runtimes_compute_the_network(
    family: str, checkpoint: Path, packed: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in {package for variant in PEERS[family] for package in variant.packages}:
        pytest.importorskip(package)
    options = ("--against", family, "--backends", "reference", "--rounds", 1, "--size", "20x12")
    rows = bench(capsys, checkpoint, packed, *map(str, options))["results"]
    near = {row["backend"]: row["agreement_db"] for row in rows if not row["ours"]}
    assert near.pop(family) > 100 and near.pop(f"{family}-codes") > 30 and near.pop(f"{family}-int8") > 20
    assert all(value > 30 for value in near.values())


# ---- the command ----------------------------------------------------------------------------------------------------


def test_files_of_one_network_are_timed_together(
    checkpoint: Path, packed: Path, quick: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other.safetensors")
    words = ("--backends", "reference,torch", "--against", "eager", "--rounds", "2", "--size", "20x12", "-o", tmp_path)
    content = bench(capsys, checkpoint, packed, other, *words)
    rows = content["results"]
    assert content["skipped"] == [] and content["machine"]["versions"]["torch"]
    assert all(set(row) > PROMISED for row in rows)
    first = [row for row in rows if row["network"] == str(checkpoint)]
    assert [(Path(row["model"]).name, row["backend"]) for row in first] == [
        ("net.safetensors", "reference"), ("net.safetensors", "torch"), ("net.bitsr", "reference"),
        ("net.bitsr", "torch"), ("net.safetensors", "eager"),
    ]  # fmt: skip
    assert len(rows) == 8 and all(row["size"] == "20x12" and row["threads"] == 1 for row in rows)
    eager = first[-1]
    assert eager["ratio_vs_eager"] == eager["ratio_vs_best_peer"] == 1 and eager["agreement_db"] > 100
    assert first[0]["ratio_vs_eager"] == pytest.approx(eager["median_ms"] / first[0]["median_ms"], rel=0.05)
    assert json.loads((tmp_path / "bench.json").read_text()) == content
    assert Image.open(tmp_path / "bench.png").width == draw_bars(rows, "here").width


def test_peers_run_the_checkpoint_whatever_comes_first(
    checkpoint: Path, packed: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--backends", "reference", "--against", "eager", "--rounds", "1", "--size", "12x12")
    rows = bench(capsys, packed, checkpoint, *words)["results"]
    assert {row["network"] for row in rows} == {str(checkpoint)}
    near = {(Path(row["model"]).suffix, row["backend"]): row["agreement_db"] for row in rows}
    assert near[".safetensors", "reference"] > 100 and near[".safetensors", "eager"] > 100
    assert 20 < near[".bitsr", "reference"] < 100


def test_a_peer_that_fails_stops_no_other(
    packed: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(case: Case, folder: Path) -> Path:
        raise RuntimeError("it\nbroke")

    monkeypatch.setitem(PEERS, "eager", (Variant("eager", "torch", fails, "eager"),))
    words = [str(packed), "--backends", "reference", "--against", "eager", "--rounds", "1", "--size", "8x8"]
    content = bench(capsys, *words)
    assert content["skipped"] == [{"model": str(packed), "backend": "eager", "reason": "it broke"}]
    assert [row["ratio_vs_eager"] for row in content["results"]] == [None]
    assert main(["bench", *words]) == 0
    assert "skipped: eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--size", "12"], 2, "as in 128x96"),
        (["--size", "0x8"], 2, "as in 128x96"),
        (["--rounds", "0"], 2, "at least 1"),
        (["--backends", "cuda"], 2, "--backends cuda"),
        (["--against", "tensorrt"], 1, "unknown peer"),
        (["none.bitsr"], 1, "no such file"),
    ],
)
def test_bad_requests(words: list[str], code: int, text: str, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(packed), *words]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and text in err and err.count("\n") == 1
