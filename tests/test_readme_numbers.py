"""Every number in the tables of the README is that of a file of results, rounded; docs/tables are made from those."""

from __future__ import annotations

import csv
import importlib
import re
from pathlib import Path

import pytest

from bitsr.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
NETWORKS = {"IMDN": "imdn_x4", "RFDN": "rfdn_x4", "SwinIR-light": "swinir_light_x4"}

pytestmark = pytest.mark.skipif(not (RESULTS / "ptq.csv").exists(), reason="the results are not part of this copy")


def rows_of(name: str, **values: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in values.items())]


def table_after(words: str) -> list[dict[str, str]]:
    """The first table behind ``words``, a dictionary a line."""
    lines = README.split(words)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("*") for cell in line.strip("|").split("|")])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def measured(model: str, column: str) -> dict[str, str]:
    """The row of results that a cell of the first table stands for."""
    common = {"model": model, "dataset": "Set5"}
    if column == "full precision":
        (row,) = rows_of("ptq", method="fp", **common)
    elif "--max-drop" in column:
        wide = rows_of("mixed_precision", goal="drop 0.05", options="", **common)
        (row,) = wide or rows_of("ptq", method="best", w_bits="8", a_bits="8", options="crops=128", **common)
    else:
        common |= {"method": "dobi" if column.endswith("DOBI") else "best", "options": "crops=128", "seed": "0"}
        (row,) = rows_of("ptq", w_bits=column[1], a_bits=column[3], **common)
    return row


def test_quality_and_size() -> None:
    compared = 0
    for line in table_after("PSNR-Y on Set5"):
        model = NETWORKS[line.pop("network").split()[0]]
        for column, cell in line.items():
            row = measured(model, column)
            psnr, gap, size = re.match(r"([\d.]+)(?: \((-[\d.]+)\))?(?:, (\d+) KiB)?", cell).groups()
            assert psnr == f"{float(row['psnr_y']):.2f}", (model, column)
            assert gap is None or gap == f"{float(row['gap']):.2f}", (model, column)
            assert size is None or size == f"{int(row['bytes']) / 1024:.0f}", (model, column)
            compared += 1
    assert compared == 15


def test_sentences_below_the_table() -> None:
    common = {"dataset": "Set5", "options": "crops=128", "model": "mambairv2light_x4", "w_bits": "4"}
    (ours,), (dobi,), (harmoq,) = (rows_of("ptq", method=method, **common) for method in ("best", "dobi", "harmoq"))
    (signs,) = rows_of("binary", method="BSSR+", dataset="Set5", model="swinir_light_x4", steps="2000", crop="24")
    mixed, both = (
        row
        for goal in ("bytes", "bytes and BitOps")
        for row in rows_of("mixed_precision", model="rfdn_x4", method="best", goal=goal, w_bits="4", dataset="Set5")
    )
    for told in (
        f"takes {int(ours['bytes']) / 1024:.0f} KiB and loses {-float(ours['gap']):.2f} dB at W4A4, ",
        f"HarmoQ, without, loses {-float(harmoq['gap']):.2f} and DOBI {-float(dobi['gap']):.2f}.",
        f"SwinIR-light takes {int(signs['bytes']) / 1024:.0f} KiB and is {-float(signs['gap']):.2f} dB below",
        f"{float(signs['train_seconds']) / 60:.0f} minutes on one CPU thread",
        f"in the bytes and BitOps of W4A4 RFDN loses {-float(both['gap']):.2f} dB, in the "
        f"{int(mixed['bytes']) / 1024:.0f} KiB alone {-float(mixed['gap']):.2f} ",
    ):
        assert told in " ".join(README.split()), told


def test_times() -> None:
    files = {"bitsr W8A8": ("native", "W8A8"), "bitsr fp32": ("native", "fp32"), "OpenVINO INT8": ("openvino-int8",)}
    files |= {"OpenVINO fp32": ("openvino",), "ONNX Runtime fp32": ("onnxruntime",)}
    for line in table_after("Milliseconds for a picture"):
        model = NETWORKS[line.pop("network").split()[0]]
        found = (row for row in rows_of("engine", model=model) if "Xeon" in row["cpu"])
        rows = {(row["backend"], row["file"], row["threads"]): row for row in found}
        ours = [rows["native", "W8A8", threads]["ratio_vs_best_peer"] for threads in "12"]
        for told, ratio in zip((line.pop("W8A8 ahead"), line.pop("at 2 threads")), ours, strict=True):
            assert told.endswith("x") and float(told[:-1]) == round(float(ratio), len(told.partition(".")[2]) - 1)
        fastest = min(float(rows[name, "fp32", "1"]["median_ms"]) for name in ("eager", "compile"))
        assert line.pop("torch") == f"{fastest:.0f}"
        for column, cell in line.items():
            backend, file = (*files[column], "fp32")[:2]
            assert cell == f"{float(rows[backend, file, '1']['median_ms']):.0f}", (model, column)


@pytest.mark.parametrize("name", ["table.csv", "table.md", "table.html"])
def test_tables_are_those_of_the_results(name: str, tables: Path) -> None:
    """Made by the command that docs/results.md names."""
    assert (tables / name).read_bytes() == (REPOSITORY / "docs" / "tables" / name).read_bytes()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What that command writes."""
    folder = tmp_path_factory.mktemp("tables")
    page = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"^    bitsr (table results/.*) -o docs/tables$", page, re.MULTILINE)
    names = [str(REPOSITORY / word) if "/" in word else word for word in words.split()]
    assert main([*names, "-o", str(folder)]) == 0
    return folder


def test_tables_of_pages_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `benchmarks/results_page.py` and `binary_page.py` fill them."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    signs, others = importlib.import_module("binary_page"), importlib.import_module("results_page")
    rows = others.Rows()
    pages = {"binary": [signs.lines()], "results": [others.of_methods(rows), others.of_networks(rows)]}
    for page, tables in pages.items():
        text = (REPOSITORY / f"docs/{page}.md").read_text(encoding="utf-8")
        for lines in tables:
            assert "\n".join(lines) in text, f"{page}: {lines[0]}"
