"""Tables of results: what is read, what is joined, and what is written."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bitsr.cli.main import main
from bitsr.errors import ResultsError
from bitsr.evaluation.tables.layout import Section, join, letter, sections
from bitsr.evaluation.tables.markdown import cells, figure, footnotes, signed, to_markdown
from bitsr.evaluation.tables.page import to_html
from bitsr.evaluation.tables.plausible import judge
from bitsr.evaluation.tables.read import read_file, read_results
from bitsr.evaluation.tables.row import FULL_PRECISION
from bitsr.evaluation.tables.seeds import mean_over_seeds
from result_files import MEASURED, PAPER, PUBLISHED, write


@pytest.fixture
def section(tmp_path: Path) -> Section:
    measured = read_file(write(tmp_path / "mine.csv", MEASURED))
    published = judge(read_file(write(tmp_path / "paper.csv", PAPER)))
    (found,) = sections(join(measured, published))
    return found


# --- reading ----------------------------------------------------------------------------------------------------------


def test_measured_rows(tmp_path: Path) -> None:
    full, dobi, harmoq = read_file(write(tmp_path / "mine.csv", MEASURED))
    assert (full.network, full.scale, full.method, full.precision, full.gap) == (
        "tiny_net", 4, FULL_PRECISION, "fp32", None,
    )  # fmt: skip
    assert (dobi.precision, dobi.gap, dobi.file_bytes, dobi.seconds, dobi.source) == ("W4A4", -0.5, 1024, 12.3, "mine")
    assert (dobi.setting, harmoq.setting, harmoq.seed) == ("", "abr_steps=0, scope paper", "1")


@pytest.mark.parametrize(
    ("text", "precision", "fp_psnr"),
    [
        ("network,dataset,psnr_y,bits\nnet,Set5,30,4", "W4A4", None),
        ("network,dataset,psnr_y,bits,gap\nnet,Set5,30,W8A6,-1", "W8A6", 31.0),
        ("network,dataset,psnr_y,bits\nnet,Set5,30,fp16", "fp16", None),
        ("network,dataset,psnr_y,w_bits,a_bits\nnet,Set5,30,,4.79", "W?A4.79", None),
        ("network,dataset,psnr_y,w_bits\nnet,Set5,30,4+8", "W4+8A4+8", None),
        ("model,dataset,psnr_y,method\nnet,Set5,30,bicubic", "", None),
        ('model,dataset,psnr_y,options\nnet,Set5,30,"{""name"": ""bssr""}"', "W1A1", None),
        ('model,dataset,psnr_y,options\nnet,Set5,30,"{""name"": ""binary"", ""binarizer"": ""none""}"', "fp32", None),
        ('model,dataset,psnr_y,options\nnet,Set5,30,"{""method"": {""name"": ""bssr""}}"', "W1A1", None),
        ('model,dataset,psnr_y,options\nnet,Set5,30,"{""method"": {}, ""seed"": 1}"', "fp32", None),
        (
            'model,dataset,psnr_y,options\nnet,Set5,30,"{""method"": {""name"": ""binary"", ""binarizer"": ""none""}}"',
            "fp32",
            None,
        ),
        ("\ufeffmodel,dataset,psnr_y,w_bits\nnet,bsd100,30,4", "W4A4", None),
    ],
)
def test_other_columns_are_understood(text: str, precision: str, fp_psnr: float | None, tmp_path: Path) -> None:
    (row,) = read_file(write(tmp_path / "a.csv", text))
    assert (row.precision, row.fp_psnr_y, row.psnr_y) == (precision, fp_psnr, 30.0)
    assert row.dataset in ("Set5", "B100") and row.scale is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column model or network, dataset, psnr_y"),
        ("model,scan,cpu_seconds\nnet,chunks,1", "no column dataset, psnr_y"),
        ("model,dataset,psnr_y\n", "no rows with a PSNR"),
        ("model,dataset,psnr_y\nnet,Set5,", "no rows with a PSNR"),
        ("model,dataset,psnr_y\nnet,Set5,30\nnet,Set5,high", "line 3: psnr_y 'high' is no number"),
        ("model,dataset,psnr_y\nnet,Set5,nan", "line 2: psnr_y 'nan' is no number"),
        ("model,dataset,psnr_y\n,Set5,30", "line 2: the network has no name"),
        ("model,dataset,psnr_y,bits\nnet,Set5,30,four", "line 2: bits 'four'"),
        ("model,dataset,psnr_y,options\nnet,Set5,30,{oh", "options '{oh' are no JSON"),
        ("model,dataset,psnr_y,bytes\nnet,Set5,30,1.5", "bytes '1.5' is no number"),
    ],
)
def test_a_file_that_is_no_table_is_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=re.escape(words)):
        read_file(write(tmp_path / "a.csv", text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"model,dataset,psnr_y\n\xff\xfe,Set5,30")
    with pytest.raises(ResultsError, match="not a CSV file"):
        read_file(tmp_path / "a.csv")


def test_a_network_trained_on_is_not_the_reference(tmp_path: Path) -> None:
    text = "model,method,dataset,psnr_y,fp_psnr_y,gap\nnet_x4,full precision,Set5,30.5,30.0,0.5"
    (row,) = read_file(write(tmp_path / "a.csv", text))
    assert row.method == "full precision, trained on" and row.gap == 0.5


# --- joining and layout -----------------------------------------------------------------------------------------------


def test_published_rows_of_the_same_network_scale_bits_and_set(section: Section) -> None:
    assert (section.title, section.datasets) == ("Tiny-Net x4", ("Set5",))
    assert [(line.name, line.sources, line.row.precision) for line in section.lines] == [
        ("full precision", ["mine"], "fp32"),
        ("full precision", ["Own"], "fp32"),
        ("Own", ["Own"], "W4A4"),
        ("harmoq, abr_steps=0, scope paper, seed 1", ["mine"], "W4A4"),
        ("dobi", ["mine"], "W4A4"),
    ]


def test_equal_lines_become_one_and_others_do_not(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.csv", MEASURED), write(tmp_path / "two.csv", MEASURED.replace("29.5", "29.4"))
    (found,) = sections(read_results([one, two]))
    assert [line.sources for line in found.lines if line.name == "dobi"] == [["one"], ["two"]]
    assert [line.sources for line in found.lines if line.name == FULL_PRECISION] == [["one", "two"]]


def test_two_figures_for_one_cell_are_two_lines(tmp_path: Path) -> None:
    again = "tiny_net_x4,dobi,4,4,full,0,,Set5,29.1,0.87,30.0,-0.9,1024,12.3\n"
    (found,) = sections(read_file(write(tmp_path / "mine.csv", MEASURED + again)))
    assert [line.cells["Set5"].psnr_y for line in found.lines if line.name == "dobi"] == [29.5, 29.1]


def test_runs_of_other_recipes_are_not_averaged(tmp_path: Path) -> None:
    text = "model,method,seed,lr,options,dataset,psnr_y"
    for seed, lr, surrogate in ((0, "0.001", "tanh"), (1, "0.001", "bireal"), (2, "0.002", "bireal")):
        text += (
            f'\nnet_x4,BSSR+,{seed},{lr},"{{""method"": {{""name"": ""bssr_plus"", ""a"": ""{surrogate}""}}}}",Set5,30'
        )
    assert len(mean_over_seeds(read_file(write(tmp_path / "a.csv", text)))) == 3


def test_runs_that_differ_in_their_seed_become_a_mean(tmp_path: Path) -> None:
    again = "tiny_net_x4,dobi,4,4,full,1,,Set5,29.3,0.87,30.0,-0.7,1030,\n"
    rows = mean_over_seeds(read_file(write(tmp_path / "mine.csv", MEASURED + again)))
    (dobi,) = (row for row in rows if row.method == "dobi")
    assert (dobi.setting, dobi.seed, dobi.seconds, dobi.file_bytes) == ("mean of 2 seeds", "", None, 1027)
    assert (dobi.psnr_y, dobi.ssim_y, dobi.gap, dobi.spread) == pytest.approx((29.4, 0.875, -0.6, 0.1))
    assert len(rows) == 3 and figure(dobi, []) == "29.40 ±0.10 (-0.60 of 30.00) 0.8750"


def test_other_rows_are_not_averaged(tmp_path: Path) -> None:
    other_set = "tiny_net_x4,dobi,4,4,full,1,,Set14,29.3,0.87,30.0,-0.7,1030,\n"
    same_seed = "tiny_net_x4,dobi,4,4,full,0,,Set5,29.3,0.87,30.0,-0.7,1030,\n"
    rows = read_file(write(tmp_path / "mine.csv", MEASURED + other_set + same_seed))
    assert {(r.dataset, r.seed, r.psnr_y) for r in mean_over_seeds(rows)} == {
        (r.dataset, r.seed, r.psnr_y) for r in rows
    }


def test_a_subset_is_another_set(tmp_path: Path) -> None:
    measured = read_file(write(tmp_path / "mine.csv", MEASURED.replace("Set5", "Set5 (first 2)")))
    (found,) = sections(join(measured, read_file(write(tmp_path / "paper.csv", PAPER))))
    assert all(not line.row.published for line in found.lines)


def test_letters() -> None:
    assert [letter(n) for n in (0, 25, 26, 27)] == ["a", "z", "aa", "bb"]


# --- text, page, files ------------------------------------------------------------------------------------------------


def test_cells_and_footnotes(section: Section) -> None:
    table = cells(section)
    assert table[0] == ["full precision", "mine", "fp32", "30.00 0.9000", "4", ""]
    assert table[2] == ["Own", "Own", "W4A4", "32.10 (+0.10 of 32.00) 0.9400 !a", "", ""]
    assert table[4] == ["dobi", "mine", "W4A4", "29.50 (-0.50 of 30.00) 0.8800", "1", "12"]
    assert footnotes(section) == ["!a: above full precision"]


@pytest.mark.parametrize(("gap", "text"), [(-0.061, "-0.06"), (-0.004, "+0.00"), (0.0, "+0.00"), (1.2, "+1.20")])
def test_gaps_have_a_sign(gap: float, text: str) -> None:
    assert signed(gap) == text


def test_markdown_keeps_its_columns(section: Section) -> None:
    text = to_markdown([section])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(section.lines)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {7}
    assert "abr\\_steps=0" in text and "- !a: above full precision" in text


class Page(HTMLParser):
    """Counts tags, collects text and what would be loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_whole_and_loads_nothing(section: Section) -> None:
    text = to_html([section])
    page = Page(text)
    assert page.open == [] and page.links == [] and "@import" not in text and "url(" not in text
    assert page.count["tr"] == 2 + len(section.lines)
    assert 'title="above full precision: 32.10 dB above 32.00; seen"' in text
    assert {"32.10", "+0.10 ", "of 32.00", "0.9400"} <= set(page.words)
    assert text.count("<td") == len(section.lines) * 8


def test_names_are_escaped(tmp_path: Path) -> None:
    name = '"Set<5 & ""6"""'
    text = f"model,method,bits,dataset,psnr_y\n<b>net,<script>alert(1)</script>|x,4,{name},30\n"
    paper = f'paper,network,bits,dataset,psnr_y,doubt\n"<i>""P",<b>net,4,{name},31,"""><script>"\n'
    found = sections(
        join(read_file(write(tmp_path / "a.csv", text)), judge(read_file(write(tmp_path / "p.csv", paper))))
    )
    page = Page(to_html(found))
    assert page.open == [] and page.count["script"] == 1 and "b" not in page.count and "i" not in page.count
    assert "<script>alert(1)</script>|x" in page.words
    markdown = to_markdown(found)
    assert "\\<script>alert(1)\\</script>\\|x" in markdown


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write(tmp_path / "mine.csv", MEASURED)
    (tmp_path / "published").mkdir()
    write(tmp_path / "published" / "paper.csv", PAPER)
    assert main(["table", str(results), "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "32.10 (+0.10 of 32.00) 0.9400 !a" in out and "!a: above full precision" in out
    with open(tmp_path / "out" / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["method"], r["kind"], r["gap"], r["doubts"]) for r in rows[2:4]] == [
        ("Own", "published", "0.1", "above full precision: 32.10 dB above 32.00"),
        ("harmoq", "measured", "-0.2", ""),
    ]
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8").startswith("# Tables")
    assert (tmp_path / "out" / "table.html").read_text(encoding="utf-8").startswith("<!doctype html>")

    assert main(["table", str(results), "--published", "none", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in content["rows"]] == ["measured"] * 3
    assert content["rows"][1]["fp_psnr_y"] == 30.0 and content["rows"][0]["gap"] is None


def test_published_rows_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(PUBLISHED / "harmoq.csv"), "--published", "none"]) == 0
    out = capsys.readouterr().out
    assert "HAT-S x2" in out and "SwinIR-light x4" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["table"], 2, "at least one file"),
        (["table", "missing.csv"], 1, "missing.csv: No such file"),
        (["table", "mine.csv", "--published", "missing"], 1, "missing: No such file"),
        (["table", "mine.csv", "--published", "."], 1, "no published rows"),
        (["table", "other.csv"], 1, "other.csv: has no column dataset, psnr_y; a table needs"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, words: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(Path("mine.csv"), MEASURED)
    if "other.csv" in arguments:
        write(Path("other.csv"), "model,seconds\nnet,3")
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err
