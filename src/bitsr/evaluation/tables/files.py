"""The files of a table: long CSV, Markdown, and a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bitsr.data.files import write_atomically
from bitsr.evaluation.tables.layout import Section
from bitsr.evaluation.tables.markdown import to_markdown
from bitsr.evaluation.tables.page import to_html
from bitsr.evaluation.tables.row import Row


def records(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """One record per cell, as ``--json`` prints it; what is not known is None or ''."""
    return [
        record(line.cells[name], line.sources)
        for section in sections
        for line in section.lines
        for name in section.datasets
        if name in line.cells
    ]


def record(cell: Row, sources: Sequence[str]) -> dict[str, Any]:
    return {
        "network": cell.network,
        "scale": cell.scale,
        "method": cell.method,
        "setting": cell.setting,
        "seed": cell.seed,
        "w_bits": cell.w_bits,
        "a_bits": cell.a_bits,
        "dataset": cell.dataset,
        "psnr_y": cell.psnr_y,
        "ssim_y": cell.ssim_y,
        "spread": None if cell.spread is None else round(cell.spread, 4),
        "fp_psnr_y": cell.fp_psnr_y,
        "gap": None if cell.gap is None else round(cell.gap, 4),
        "file_bytes": cell.file_bytes,
        "seconds": cell.seconds,
        "evaluated": cell.evaluated,
        "kind": "published" if cell.published else "measured",
        "source": ", ".join(sources),
        "doubts": "; ".join(map(str, cell.doubts)),
        "note": cell.note,
    }


def to_csv(sections: Iterable[Section]) -> str:
    """One line per cell."""
    out = io.StringIO()
    content = records(sections)
    writer = csv.DictWriter(out, list(content[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
    return out.getvalue()


def write_tables(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Write table.csv, table.md and table.html; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in (
        ("table.csv", to_csv(sections)), ("table.md", to_markdown(sections)), ("table.html", to_html(sections)),
    ):  # fmt: skip
        write_atomically(folder / name, text.encode())
        written.append(folder / name)
    return written
