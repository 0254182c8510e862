"""An analysis as a picture: bars for what is lost by weights and by activations, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image, ImageDraw

from bitsr.analysis.measure import Analysis
from bitsr.evaluation.chart import FAINT, HEADING, INK, MARGIN, SMALL, WIDTH, font, section, sheet, write_png

LINE, BAR = 44, 26  # pixels
LABELS, NUMBERS = 320, 200  # to the left and to the right of the bars
COLOURS = {"weights": "#2563eb", "activations": "#d97706", "both": "#9ca3af", "SRC": "#059669"}


@dataclass(frozen=True)
class Bar:
    """``parts``: lengths and their colours, one behind the other; ``text`` says the number."""

    label: str
    parts: tuple[tuple[float, str], ...]
    text: str


Section = tuple[str, list[Bar]]


def write_picture(analysis: Analysis, title: str, path: Path) -> None:
    """Draw ``analysis`` as a PNG."""
    write_png(draw_sections(sections(analysis), title), path)


def sections(analysis: Analysis) -> list[Section]:
    """What is drawn: PSNR and SSIM lost, the share of each kind of layer, and what SRC leaves of layers' errors."""
    psnr = [Bar(f"{loss.bits} bits, {loss.operand}", ((max(0.0, loss.psnr_loss), loss.operand),),
                f"{loss.psnr_loss:.3f} dB") for loss in analysis.losses]  # fmt: skip
    ssim = [Bar(f"{loss.bits} bits, {loss.operand}", ((max(0.0, loss.ssim_loss), loss.operand),),
                f"{loss.ssim_loss:.4f}") for loss in analysis.losses]  # fmt: skip
    share = []
    for bits, kind in dict.fromkeys((s.bits, s.kind) for s in analysis.shares):
        parts = tuple((s.share, s.operand) for s in analysis.shares if (s.bits, s.kind) == (bits, kind))
        share.append(Bar(f"{bits} bits, {kind}", parts, f"{sum(length for length, _ in parts):.1%}"))
    left = []
    for bits in dict.fromkeys(c.bits for c in analysis.corrections):
        middle = median(c.error_left for c in analysis.corrections if c.bits == bits)
        left.append(Bar(f"{bits} bits", ((middle, "SRC"),), f"{middle:.1%}"))
    found = [
        ("PSNR-Y lost", psnr), ("SSIM-Y lost", ssim), ("Share of the loss by kind of layer", share),
        ("What SRC leaves of a layer's error (median)", left),
    ]  # fmt: skip
    return [(heading, bars) for heading, bars in found if bars]


def draw_sections(content: Sequence[Section], title: str) -> Image.Image:
    """Each section has a scale of its own."""
    image, draw = sheet(sum(LINE * (len(bars) + 1) + LINE // 2 for _, bars in content), title)
    x = MARGIN
    for name, colour in COLOURS.items():
        draw.rectangle((x, MARGIN + 52, x + 18, MARGIN + 70), colour)
        draw.text((x + 28, MARGIN + 61), name, FAINT, font(SMALL), anchor="lm")
        x += 60 + round(font(SMALL).getlength(name))
    y = MARGIN + HEADING
    for heading, bars in content:
        section(draw, heading, y, LINE)
        y += LINE
        longest = max(sum(length for length, _ in bar.parts) for bar in bars) or 1.0
        for bar in bars:
            _draw_bar(draw, bar, y + LINE // 2, (WIDTH - 2 * MARGIN - LABELS - NUMBERS) / longest)
            y += LINE
        y += LINE // 2
    return image


def _draw_bar(draw: ImageDraw.ImageDraw, bar: Bar, y: int, scale: float) -> None:
    x = float(MARGIN + LABELS)
    draw.text((x - 24, y), bar.label, INK, font(SMALL), anchor="rm")
    for length, colour in bar.parts:
        draw.rectangle((x, y - BAR // 2, x + max(2.0, length * scale), y + BAR // 2), COLOURS[colour])
        x += max(2.0, length * scale)
    draw.text((x + 14, y), bar.text, INK, font(SMALL), anchor="lm")
