"""Sections as one HTML file: nothing is loaded from elsewhere, columns sort by a click, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bitsr.evaluation.tables.layout import Line, Section, doubts_of
from bitsr.evaluation.tables.markdown import footnotes, measures, signed, source
from bitsr.evaluation.tables.row import Row

STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --faint: #6b7280; --paper: #fff; --rule: #e5e7eb; --mark: #b45309 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --faint: #9ca3af; --paper: #14171d; --rule: #2d3340; --mark: #f59e0b }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 90rem; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--rule) }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
thead th[data-sort] { cursor: pointer } thead th[data-sort]:hover { text-decoration: underline }
tr.published { color: var(--faint) } small, p, ul { color: var(--faint) }
.doubt { color: var(--mark); cursor: help } .doubt sup { font-size: .7em }
"""
SCRIPT = """
for (const head of document.querySelectorAll('th[data-sort]')) head.onclick = () => {
  const body = head.closest('table').tBodies[0], column = +head.dataset.sort, down = head.dataset.down !== 'true'
  const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent
  const order = (a, b) => a === b ? 0 : a === '' ? 1 : b === '' ? -1 :
    (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b) * (down ? -1 : 1)
  head.dataset.down = down
  body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))))
}
"""
LEGEND = (
    "PSNR and SSIM on Y. Rows in full ink are measured here, faint rows are as papers print them; a gap is relative to "
    "the full precision beside it, which is the paper's own for published rows; ± is half of the way between the seeds "
    "of a mean. A trained network is beside the checkpoint that it started from, which full precision passes, too, "
    "when it is trained on. KiB are on disk, seconds to compress or to train. Marked figures are doubtful: the reason "
    "is under the pointer and below the table. A click on a heading sorts."
)
FIGURES = ("PSNR-Y dB", "gap dB", "SSIM-Y")


def to_html(sections: Sequence[Section], title: str = "Tables") -> str:
    """The page."""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n<p>{LEGEND}</p>\n"
        + "\n".join(map(block, sections))
        + f"\n<script>{SCRIPT}</script>\n</html>\n"
    )


def block(section: Section) -> str:
    """One section: heading, table, reasons."""
    rows = "\n".join(table_row(line, section) for line in section.lines)
    notes = "".join(f"<li>{escape(note)}</li>" for note in footnotes(section))
    return (
        f'<h2>{escape(section.title)}</h2>\n<div class="scroll"><table>\n<thead>{head(section)}</thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n" + (f"<ul>{notes}</ul>" if notes else "")
    )


def head(section: Section) -> str:
    """Two rows: the sets, and under each of them its figures, which sort."""
    names = ["method", "from", "bits"]
    sets = "".join(f'<th colspan="{len(FIGURES)}">{escape(name)}</th>' for name in section.datasets)
    columns = [*names, *FIGURES * len(section.datasets), "KiB (measured)", "s (measured)"]
    sorting = "".join(f'<th data-sort="{number}">{name}</th>' for number, name in enumerate(columns))
    return f'<tr><th colspan="{len(names)}"></th>{sets}<th colspan="2"></th></tr><tr>{sorting}</tr>'


def table_row(line: Line, section: Section) -> str:
    texts = [f"<td>{escape(text)}</td>" for text in (line.name, source(line))]
    texts.append(f'<td data-v="{line.row.bits[0]}">{escape(line.row.precision)}</td>')
    texts += [figures(line.cells.get(name), section.reasons) for name in section.datasets]
    texts += [f"<td>{text}</td>" for text in measures(line)]
    return f'<tr class="{"published" if line.row.published else "measured"}">{"".join(texts)}</tr>'


def figures(cell: Row | None, reasons: Sequence[str]) -> str:
    """PSNR, gap and SSIM of one set; doubts are marked at the PSNR, remarks are under the pointer."""
    if cell is None:
        return "<td></td>" * len(FIGURES)
    psnr = "?" if cell.psnr_y is None else f"{cell.psnr_y:.2f}"
    psnr += "" if cell.spread is None else f" <small>±{cell.spread:.2f}</small>"
    remarks = escape("; ".join([*map(str, cell.doubts), cell.note]).strip("; "))
    if cell.doubts:
        psnr = f'<span class="doubt" title="{remarks}">{psnr}<sup>{doubts_of(cell, reasons)}</sup></span>'
    elif remarks:
        psnr = f'<span title="{remarks}">{psnr}</span>'
    gap = "" if cell.gap is None else f"{signed(cell.gap)} <small>of {cell.fp_psnr_y:.2f}</small>"
    ssim = "" if cell.ssim_y is None else f"{cell.ssim_y:.4f}"
    return "".join(
        f'<td data-v="{"" if value is None else value}">{text}</td>'
        for value, text in ((cell.psnr_y, psnr), (cell.gap, gap), (cell.ssim_y, ssim))
    )
