"""Published figures: the rules that find implausible ones, and what the repository holds of the papers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsr.errors import ResultsError
from bitsr.evaluation.tables.plausible import judge
from bitsr.evaluation.tables.read import read_file, read_published
from bitsr.evaluation.tables.row import Row
from result_files import MEASURED, PAPER, PUBLISHED, write


def printed(text: str, tmp_path: Path) -> list[Row]:
    """Published rows with their doubts; each line is method,bits,dataset,psnr,ssim[,network] of the paper P at x4."""
    lines = ["paper,network,scale,method,bits,dataset,psnr_y,ssim_y"]
    for line in text.strip().splitlines():
        method, bits, dataset, psnr, ssim, *network = line.split(",")
        lines.append(f"P,{network[0] if network else 'Net'},4,{method},{bits},{dataset},{psnr},{ssim}")
    return judge(read_file(write(tmp_path / "p.csv", "\n".join(lines))))


def reasons(rows: list[Row]) -> dict[tuple[str, str], list[str]]:
    return {(r.method, r.w_bits): [d.reason for d in r.doubts] for r in rows if r.doubts}


def test_published_gaps_are_relative_to_the_paper(tmp_path: Path) -> None:
    rows = read_published(write(tmp_path / "paper.csv", PAPER))
    assert [r.dataset for r in rows][0] == "B100"
    gaps = {(r.network, r.scale, r.w_bits): r.gap for r in rows if r.method == "Own"}
    assert gaps["Tiny-Net", 4, "4"] == pytest.approx(0.1)
    assert gaps["Tiny-Net", 2, "4"] is None and gaps["Other", 4, "4"] is None


def test_measured_rows_are_not_published(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no published rows"):
        read_published(write(tmp_path / "mine.csv", MEASURED))


def test_doubts_need_a_cause(tmp_path: Path) -> None:
    sound = printed(
        "full precision,32,Set5,32.00,0.90\nP,4,Set5,31.50,0.89\nP,2,Set5,31.00,0.88\nA,4,Set5,31.4,0.88", tmp_path
    )
    assert reasons(sound) == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("full precision,32,Set5,32.00,0.90\nA,4,Set5,32.01,0.89", {("A", "4"): "above full precision"}),
        ("full precision,32,Set5,32.00,0.90\nA,4,Set5,31.00,0.91", {("A", "4"): "above full precision"}),
        (
            "A,3,Set5,31.00,0.90\nA,2,Set5,31.50,0.80",
            {("A", "3"): "fewer bits are better", ("A", "2"): "fewer bits are better"},
        ),
        ("2DQuant,2,Set5,31.00,0.90\nDOBI,2,Set5,31.20,0.80", {("2DQuant", "2"): "below the method's own first stage"}),
        ("P,2,Set5,31.00,0.90\nA,2,Set5,31.20,0.80", {("P", "2"): "the paper's own method, but not its best row"}),
        ("Bicubic,,Set5,27.56,0.78", {("Bicubic", ""): "not MATLAB's bicubic"}),
        (
            "A,2,Set5,31.01,0.90\nB,2,Set5,31.01,0.90\nA,2,Set14,28.01,0.8\nB,2,Set14,28.01,0.8",
            {("A", "2"): "equal to another row, digit for digit", ("B", "2"): "equal to another row, digit for digit"},
        ),
    ],
)
def test_rules(text: str, found: dict[tuple[str, str], str], tmp_path: Path) -> None:
    doubts = reasons(printed(text, tmp_path))
    assert {key: set(words) for key, words in doubts.items()} == {key: {word} for key, word in found.items()}


def test_one_equal_cell_may_be_chance(tmp_path: Path) -> None:
    assert not reasons(printed("A,2,Set5,31.01,0.90\nB,2,Set5,31.01,0.90\nA,2,Set14,28.01,0.8", tmp_path))


def test_too_many_round_numbers(tmp_path: Path) -> None:
    eight = [f"A,2,Set{n},{30 + n * 0.05:.2f},0.9{n}" for n in range(8)]
    assert all("multiples of 0.05" in r.doubts[0].reason for r in printed("\n".join(eight), tmp_path))
    assert not reasons(printed("\n".join(eight[:-1]), tmp_path))
    assert not reasons(printed("\n".join([*eight[:-1], "A,2,Set9,30.01,0.9"]), tmp_path))


def test_generative_networks_may_lose_psnr(tmp_path: Path) -> None:
    text = "full precision,32,RealSR,26.51,0.73,SinSR\nXNOR,1,RealSR,26.84,0.76,SinSR"
    assert not reasons(printed(text, tmp_path))


def test_measured_rows_are_never_doubted(tmp_path: Path) -> None:
    rows = read_file(write(tmp_path / "mine.csv", MEASURED.replace("29.5,", "31.5,")))
    assert judge(rows) == rows


def test_what_the_repository_holds_of_papers() -> None:
    """The figures of the papers are there, and the known misfits among them are found by the rules."""
    rows = judge(read_published(PUBLISHED))
    cells = {(r.source, r.network, r.scale, r.method, r.w_bits, r.dataset): r for r in rows}
    assert len(cells) == len(rows) > 800
    harmoq = cells["HarmoQ", "SwinIR-light", 2, "HarmoQ", "3", "Set14"]
    assert (harmoq.psnr_y, harmoq.fp_psnr_y) == (34.04, 33.86)
    assert "above full precision" in {d.reason for d in harmoq.doubts}
    assert cells["HarmoQ", "SwinIR-light", 2, "HarmoQ", "2", "Set5"].doubts == ()
    assert any("0.05" in d.reason for d in cells["HarmoQ", "HAT-S", 4, "Granular-DQ", "2", "Set5"].doubts)
    assert any("26.89" in d.detail for d in cells["HarmoQ", "HAT-S", 4, "HarmoQ", "3", "Urban100"].doubts)
    assert cells["BSSR", "MambaIRv2-light", 4, "BSSR", "1", "Set5"].gap == pytest.approx(-1.00)
    assert cells["BSSR", "SwinIR-light", 4, "BHViT + Bi-Mask", "1", "B100"].doubts
    assert cells["BiMaCoSR", "SinSR", 4, "BiMaCoSR", "1", "DRealSR"].doubts
    assert not cells["BiMaCoSR", "SinSR", 4, "BiMaCoSR", "1", "RealSR"].doubts
    assert len(read_published(PUBLISHED / "ablations")) > 50
