"""Sections as text: the cells of a table, and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bitsr.evaluation.tables.layout import Line, Section, doubts_of, letter
from bitsr.evaluation.tables.row import Row

LEGEND = (
    "Each cell: PSNR-Y in dB, in brackets the gap and the full precision that it is relative to, then SSIM-Y; ± is "
    "half of the way between the seeds of a mean. Rows from a file are measured, rows from a paper are as printed "
    "there, with the gap to its own full precision. A trained network is beside the checkpoint that it started from, "
    "which full precision passes, too, when it is trained on. KiB are on disk, seconds to compress or to train. A "
    "figure with ! is doubtful; the reason is below the table."
)


def headings(section: Section) -> list[str]:
    return ["method", "from", "bits", *section.datasets, "KiB (measured)", "s (measured)"]


def cells(section: Section) -> list[list[str]]:
    """One list of texts per line, under :func:`headings`."""
    reasons = section.reasons
    return [
        [
            line.name,
            source(line),
            line.row.precision,
            *(figure(line.cells.get(name), reasons) for name in section.datasets),
            *measures(line),
        ]
        for line in section.lines
    ]


def source(line: Line) -> str:
    """The paper, or the file and what was run."""
    names = ", ".join(line.sources)
    return f"{names} ({line.row.evaluated})" if line.row.evaluated else names


def figure(cell: Row | None, reasons: Sequence[str]) -> str:
    """'30.64 (-0.06 of 30.70) 0.8673'; doubtful: '34.04 (+0.18 of 33.86) 0.9220 !a'."""
    if cell is None:
        return ""
    words = ["?" if cell.psnr_y is None else f"{cell.psnr_y:.2f}"]
    if cell.spread is not None:
        words.append(f"±{cell.spread:.2f}")
    if cell.gap is not None:
        words.append(f"({signed(cell.gap)} of {cell.fp_psnr_y:.2f})")
    words.append("" if cell.ssim_y is None else f"{cell.ssim_y:.4f}")
    words.append(f"!{doubts_of(cell, reasons)}" if cell.doubts else "")
    return " ".join(word for word in words if word)


def signed(gap: float) -> str:
    """'-0.06', and '+0.00' for whatever rounds to nothing."""
    return f"{round(gap, 2) + 0:+.2f}"


def measures(line: Line) -> tuple[str, str]:
    """The size on disk in KiB and the seconds, where they were measured."""
    size, seconds = line.row.file_bytes, line.row.seconds
    return "" if size is None else f"{size / 1024:.0f}", "" if seconds is None else f"{seconds:.0f}"


def footnotes(section: Section) -> list[str]:
    """'!a: above full precision', in the order of the letters."""
    return [f"!{letter(number)}: {reason}" for number, reason in enumerate(section.reasons)]


def to_markdown(sections: Sequence[Section]) -> str:
    """One table for each section, and what its marks mean."""
    blocks = ["# Tables", LEGEND]
    for section in sections:
        table = [headings(section), ["---"] * len(headings(section)), *cells(section)]
        blocks.append(f"## {escape(section.title)}")
        blocks.append("\n".join("| " + " | ".join(map(escape, row)) + " |" for row in table))
        if notes := footnotes(section):
            blocks.append("\n".join(f"- {escape(note)}" for note in notes))
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """Keep a cell in its column and its text as it is."""
    for mark in "\\|*_`<":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
