"""An analysis as plain values, CSV and lines of a table."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from statistics import median
from typing import Any

from bitsr.analysis.measure import Analysis, Loss

Row = tuple[object, ...]
Headings = tuple[str, ...]


def to_dict(analysis: Analysis) -> dict[str, Any]:
    """Plain values, as JSON takes them."""
    return dataclasses.asdict(analysis)


def losses_csv(analysis: Analysis, model: str) -> str:
    """One line per bits and operand; SRC's gain in dB stands with the activations, which it is for."""
    gains = {gain.bits: gain.psnr_with - gain.psnr_without for gain in analysis.gains}
    columns = ("model", "bits", "operand", "psnr_y", "ssim_y", "psnr_loss", "ssim_loss", "src_gain")
    rows: list[Row] = [(model, 32, "none", f"{analysis.psnr_y:.4f}", f"{analysis.ssim_y:.5f}", "0", "0", "")]
    for loss in analysis.losses:
        gain = f"{gains[loss.bits]:.4f}" if loss.operand == "activations" else ""
        rows.append((model, loss.bits, loss.operand, f"{loss.psnr_y:.4f}", f"{loss.ssim_y:.5f}",
                     f"{loss.psnr_loss:.4f}", f"{loss.ssim_loss:.5f}", gain))  # fmt: skip
    return _csv(columns, rows)


def layers_csv(analysis: Analysis, model: str) -> str:
    """One line per layer and bits: squared errors of the output by its weights and by its inputs alone, and SRC."""
    columns = ("model", "layer", "kind", "bits", "error_weights", "error_activations", "src_size", "src_error_left")
    corrections = {(c.layer, c.bits): c for c in analysis.corrections}
    rows: list[Row] = []
    for name, alone in analysis.sensitivities.items():
        for bits, activations in alone.activations.items():
            weights = f"{alone.weights[bits]:.4e}" if alone.weights else ""
            found = corrections.get((name, bits))
            extra = (f"{found.size:.4f}", f"{found.error_left:.4f}") if found else ("", "")
            rows.append((model, name, alone.kind, bits, weights, f"{activations:.4e}", *extra))
    return _csv(columns, rows)


def loss_table(analysis: Analysis) -> tuple[Headings, list[Row]]:
    """Headings and rows: what is lost by bits and operand, and how many thousandths of SSIM go with each dB."""
    columns = ("bits", "quantized", "PSNR-Y", "lost dB", "SSIM-Y", "lost", "SSIM/dB x 1000")
    rows: list[Row] = [
        (loss.bits, loss.operand, f"{loss.psnr_y:.2f}", f"{loss.psnr_loss:.3f}", f"{loss.ssim_y:.4f}",
         f"{loss.ssim_loss:.4f}", _per_db(loss))
        for loss in analysis.losses
    ]  # fmt: skip
    return columns, rows


def share_table(analysis: Analysis) -> tuple[Headings, list[Row]]:
    """Headings and rows: the share of each kind of layer, by weights and by activations."""
    cells = {(s.bits, s.kind, s.operand): s for s in analysis.shares}
    keys = dict.fromkeys((s.bits, s.kind, s.layers) for s in analysis.shares)
    rows: list[Row] = []
    for bits, kind, layers in keys:
        parts = [cells[bits, kind, operand].share for operand in ("weights", "activations")]
        rows.append((bits, kind, layers, *(f"{part:.1%}" for part in parts), f"{sum(parts):.1%}"))
    return ("bits", "layers of kind", "number", "by weights", "by activations", "of the loss"), rows


def correction_table(analysis: Analysis) -> tuple[Headings, list[Row]]:
    """Headings and rows: how large SRC is, what it leaves of a layer's error (medians), what it gives in dB."""
    rows: list[Row] = []
    for gain in analysis.gains:
        own = [c for c in analysis.corrections if c.bits == gain.bits]
        middle = ("", "")
        if own:
            middle = (f"{median(c.size for c in own):.1%}", f"{median(c.error_left for c in own):.1%}")
        rows.append((gain.bits, *middle, f"{gain.psnr_without:.2f}", f"{gain.psnr_with:.2f}",
                     f"{gain.psnr_with - gain.psnr_without:+.3f}"))  # fmt: skip
    return ("bits", "size of W's", "error left", "PSNR-Y without", "with", "gain dB"), rows


def verdict(losses: Sequence[Loss]) -> list[str]:
    """For each number of bits, what the two claims come to here; nothing where hardly anything is lost."""
    lines = []
    for bits in dict.fromkeys(loss.bits for loss in losses):
        of = {loss.operand: loss for loss in losses if loss.bits == bits}
        weights, activations = of["weights"], of["activations"]
        if min(weights.psnr_loss, activations.psnr_loss) < 0.005:
            continue
        psnr = "weights" if weights.psnr_loss > activations.psnr_loss else "activations"
        ssim = "weights" if weights.ssim_loss > activations.ssim_loss else "activations"
        per_db = max((weights, activations), key=lambda loss: loss.ssim_loss / loss.psnr_loss).operand
        lines.append(f"{bits} bits: {psnr} cost more PSNR, {ssim} more SSIM, {per_db} more SSIM for each dB")
    return lines


def _per_db(loss: Loss) -> str:
    return f"{1000 * loss.ssim_loss / loss.psnr_loss:.1f}" if loss.psnr_loss >= 0.005 else ""


def _csv(columns: Headings, rows: list[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()
