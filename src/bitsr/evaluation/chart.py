"""The sheet that reports are drawn on: one look for `bitsr bench` and `bitsr analyze`."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bitsr.data.files import write_atomically

WIDTH, MARGIN, HEADING = 1600, 48, 96  # pixels
TEXT, SMALL, TITLE = 24, 20, 32
INK, FAINT, PAPER, RULE = "#1f2430", "#6b7280", "#ffffff", "#e5e7eb"


def sheet(content: int, title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White paper with room for ``content`` pixels from y = MARGIN + HEADING on, and its title."""
    image = Image.new("RGB", (WIDTH, MARGIN + HEADING + content + MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), title, INK, font(TITLE))
    return image, draw


def section(draw: ImageDraw.ImageDraw, title: str, y: int, height: int) -> None:
    """A section's title over a rule, in a line of ``height`` pixels."""
    draw.text((MARGIN, y + height // 2), title, INK, font(TEXT), anchor="lm")
    draw.line((MARGIN, y + height - 6, WIDTH - MARGIN, y + height - 6), RULE, 2)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def write_png(image: Image.Image, path: Path) -> None:
    stream = BytesIO()
    image.save(stream, "PNG")
    write_atomically(path, stream.getvalue())
