"""The report as a picture: one bar for each variant, shorter is faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from bitsr.evaluation.chart import FAINT, HEADING, INK, MARGIN, SMALL, TEXT, WIDTH, font, section, sheet, write_png

LINE, BAR = 56, 30  # pixels
OURS, PEER = "#2563eb", "#b6bdc9"


def write_picture(results: list[dict[str, Any]], subtitle: str, path: Path) -> None:
    """Draw ``results``, rows of `bitsr.bench.run.row`, as a PNG; ``subtitle`` says where they were measured."""
    write_png(draw_bars(results, subtitle), path)


def draw_bars(results: list[dict[str, Any]], subtitle: str) -> Image.Image:
    """Fastest first, ours in colour; a thin line spans the quartiles."""
    sections = _sections(results)
    image, draw = sheet(sum(LINE * (len(rows) + 1) for _, rows in sections), "Time for one picture")
    draw.text((MARGIN, MARGIN + 46), subtitle, FAINT, font(SMALL))
    names = [_label(row, rows) for _, rows in sections for row in rows]
    left = MARGIN + round(max(font(TEXT).getlength(name) for name in names)) + 24
    right = WIDTH - MARGIN - 330  # room for the numbers
    y = MARGIN + HEADING
    for title, rows in sections:
        section(draw, title, y, LINE)
        y += LINE
        scale = (right - left) / max(row["q3_ms"] for row in rows)
        for row in rows:
            _draw_row(draw, row, _label(row, rows), left, y + LINE // 2, scale)
            y += LINE
    return image


def _sections(results: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """A title and the rows, fastest first, of each network."""
    networks: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        networks.setdefault(row["network"], []).append(row)
    return [(_title(rows), sorted(rows, key=lambda row: row["median_ms"])) for rows in networks.values()]


def _title(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    threads = "1 thread" if first["threads"] == 1 else f"{first['threads']} threads"
    return f"{Path(first['network']).name}, {first['size']} pixels, {threads}"


def _label(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The backend, with its file where several files are compared."""
    several = len({row["model"] for row in rows}) > 1
    return f"{row['backend']}  ({Path(row['model']).name})" if several and row["ours"] else str(row["backend"])


def _draw_row(draw: ImageDraw.ImageDraw, row: dict[str, Any], label: str, left: int, y: int, scale: float) -> None:
    end = left + max(2, row["median_ms"] * scale)
    draw.text((left - 24, y), label, INK, font(TEXT), anchor="rm")
    draw.rounded_rectangle((left, y - BAR // 2, end, y + BAR // 2), 4, OURS if row["ours"] else PEER)
    draw.line((left + row["q1_ms"] * scale, y, left + row["q3_ms"] * scale, y), INK, 2)
    numbers = f"{row['median_ms']:.3g} ms" if row["median_ms"] < 1000 else f"{row['median_ms']:.0f} ms"
    if row["ratio_vs_eager"] is not None:
        numbers += f"   {row['ratio_vs_eager']:.2f}x eager"
    draw.text((max(end, left + row["q3_ms"] * scale) + 14, y), numbers, INK, font(SMALL), anchor="lm")
