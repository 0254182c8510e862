"""Tables of results, with the gap to a full-precision row."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bitsr.errors import ConfigError
from bitsr.evaluation.evaluate import Result

COLUMNS = ("model", "dataset", "scale", "images", "psnr_y", "ssim_y", "gap_db", "file_bytes", "seconds", "backend")


def gap(result: Result, results: Sequence[Result], reference: str | None) -> float | None:
    """PSNR-Y in dB of ``result`` less that of the model ``reference`` on the same set and scale, where there is one."""
    for other in results:
        if (other.model, other.dataset, other.scale) == (reference, result.dataset, result.scale):
            return result.psnr_y - other.psnr_y
    return None


def to_csv(results: Sequence[Result], reference: str | None = None) -> str:
    """One line per result; ``gap_db`` is against the model called ``reference``."""
    _check(results, reference)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for r in results:
        difference = gap(r, results, reference)
        writer.writerow(
            [
                *(r.model, r.dataset, r.scale, r.images, f"{r.psnr_y:.4f}", f"{r.ssim_y:.5f}"),
                "" if difference is None else f"{difference:+.4f}",
                *("" if r.file_bytes is None else r.file_bytes, f"{r.seconds:.3f}", r.backend),
            ]
        )
    return out.getvalue()


def to_markdown(results: Sequence[Result], reference: str | None = None) -> str:
    """One row per model, one column per set and scale: "PSNR / SSIM (gap)"; bytes on disk where a file was run."""
    _check(results, reference)
    sets = list(dict.fromkeys((r.dataset, r.scale) for r in results))
    cells = {(r.model, r.dataset, r.scale): r for r in results}
    lines = [
        "| model | " + " | ".join(f"{dataset} x{scale}" for dataset, scale in sets) + " | bytes (measured) |",
        "|---|" + "---|" * (len(sets) + 1),
    ]
    for model in dict.fromkeys(r.model for r in results):
        row = [cells.get((model, *key)) for key in sets]
        size = next((r.file_bytes for r in row if r and r.file_bytes is not None), None)
        texts = ["-" if r is None else _cell(r, results, reference) for r in row]
        lines.append(f"| {model} | " + " | ".join(texts) + f" | {'-' if size is None else f'{size:,}'} |")
    return "\n".join(lines) + "\n"


def _cell(result: Result, results: Sequence[Result], reference: str | None) -> str:
    text = f"{result.psnr_y:.2f} / {result.ssim_y:.4f}"
    difference = gap(result, results, reference)
    return text if difference is None or result.model == reference else f"{text} ({difference:+.2f})"


def _check(results: Sequence[Result], reference: str | None) -> None:
    if reference is not None and all(r.model != reference for r in results):
        raise ConfigError(f"no result of the model {reference!r} to compare with")
