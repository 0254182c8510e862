"""One cell of a table: a network, a method and a precision on one benchmark set."""

from __future__ import annotations

import re
from dataclasses import dataclass

FULL_PRECISION = "full precision"


@dataclass(frozen=True)
class Doubt:
    """Why a published figure is not to be relied on: ``reason`` is a short sentence, ``detail`` has its numbers."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class Row:
    """What was measured, or what a paper prints.

    Attributes:
        network: its name without the scale.
        scale: upscaling factor; None where the file does not tell it.
        w_bits, a_bits: of weights and activations, as written: '4', '4.79' (a mean), '4+8' (mixed), '' (not told).
        dataset: benchmark set, full unless its name says 'first N'.
        psnr_y, ssim_y: means over the set, PSNR in dB; None where the paper's cell is lost.
        fp_psnr_y: PSNR-Y in dB of the same network in full precision, from the same source.
        source: name of the file of results without its ending, or the paper.
        published: whether a paper prints it.
        setting: options and budget where they are not the usual ones.
        recipe: what else two runs of one method may differ in; not shown.
        seed: of the one run, or '' for a mean.
        spread: half of the way between the least and the largest PSNR of a mean over seeds, in dB.
        evaluated: what ran: simulation, native, ...
        file_bytes, seconds: size on disk, and time to compress or train; both measured.
        table: number of the paper's table.
    """

    network: str
    scale: int | None
    method: str
    w_bits: str
    a_bits: str
    dataset: str
    psnr_y: float | None
    ssim_y: float | None
    source: str
    fp_psnr_y: float | None = None
    published: bool = False
    setting: str = ""
    recipe: str = ""
    seed: str = ""
    spread: float | None = None
    evaluated: str = ""
    file_bytes: int | None = None
    seconds: float | None = None
    table: str = ""
    doubts: tuple[Doubt, ...] = ()
    note: str = ""

    @property
    def gap(self) -> float | None:
        """PSNR-Y in dB less that of full precision; None for full precision itself and where one of them is missing."""
        if self.psnr_y is None or self.fp_psnr_y is None or self.method == FULL_PRECISION:
            return None
        return self.psnr_y - self.fp_psnr_y

    @property
    def key(self) -> tuple[str, int | None]:
        """The network and the scale, however the name is spelt: SwinIR-light and swinir_light are one."""
        return re.sub(r"[^a-z0-9]", "", self.network.lower()), self.scale

    @property
    def precision(self) -> str:
        """'fp32', 'W4A4', 'W?A5.34', or '' where nothing is told."""
        if not self.w_bits and not self.a_bits:
            return ""
        if self.w_bits == self.a_bits and self.w_bits in ("16", "32"):
            return f"fp{self.w_bits}"
        return f"W{self.w_bits or '?'}A{self.a_bits or '?'}"

    @property
    def bits(self) -> tuple[float, float]:
        """Weights and activations as numbers to sort and compare by; mixed bits by their least, 0 for untold ones."""
        weights, activations = (float(word.partition("+")[0] or 0) for word in (self.w_bits, self.a_bits))
        return weights, activations
