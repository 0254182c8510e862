"""What `bitsr compress` says of the file it wrote: PSNR on crops of the pictures at hand, beside bicubic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import bitsr
from bitsr.cli.console import warn
from bitsr.data.calibration import Pictures, pair_per_picture, split
from bitsr.errors import PictureError
from bitsr.evaluation.evaluate import Bicubic, psnr_of_pairs

PICTURES = 16  # at most, one crop each

Role = Literal["unseen", "bits chosen", "calibrated"]
IN_WORDS: dict[Role, str] = {
    "unseen": "pictures that were not calibrated on",
    "bits chosen": "pictures on which bits were chosen",
    "calibrated": "pictures that were calibrated on",
}


@dataclass(frozen=True)
class Judges:
    """HR pictures to measure on, and what they were in the compression."""

    pictures: Pictures
    role: Role


@dataclass(frozen=True)
class Quality:
    """Means of PSNR-Y in dB over so many ``pictures``: of the packed file, of full precision, and of bicubic."""

    psnr_y: float
    fp_psnr_y: float
    bicubic_psnr_y: float
    pictures: int
    role: Role

    @property
    def below_bicubic(self) -> bool:
        """Bicubic is better than the file, but not than full precision, as it is where networks are trained to please
        the eye."""
        return self.psnr_y < self.bicubic_psnr_y <= self.fp_psnr_y

    def __str__(self) -> str:
        return (
            f"PSNR-Y: {self.fp_psnr_y:.2f} dB in full precision, {self.psnr_y:.2f} packed, {self.bicubic_psnr_y:.2f} "
            f"bicubic (crops of {self.pictures} {IN_WORDS[self.role]})"
        )


def judges_beside(calib: Path | None, rest: list[Path]) -> Judges:
    """The pictures that calibration left over, or else its own."""
    return Judges(rest, "unseen") if rest else Judges(calib, "calibrated")


def judges_of_choice(calib: Path | None) -> Judges:
    """The pictures on which bits are chosen, where those are others than calibration's."""
    calibration, held = split(calib)
    return Judges(held, "calibrated" if held == calibration else "bits chosen")


def measure_quality(packed: Path, module: Any, judges: Judges, seed: int, threads: int | None) -> Quality | None:
    """Of the file as it runs here, and of the ``module`` it was made from.

    None where there is nothing to measure: the network does not upscale, or, with a warning, no picture is sound and
    large enough.
    """
    scale = module.descriptor.scale
    if scale == 1:
        return None
    try:
        pairs = pair_per_picture(judges.pictures, scale, PICTURES, seed=seed)
    except PictureError as error:
        warn(f"what was lost is not measured: {error}")
        return None
    device = next(module.parameters()).device
    upscalers = (bitsr.open(packed, threads=threads), bitsr.ModuleUpscaler(module, device), Bicubic(scale))
    packed_psnr, full, bicubic = (float(np.mean(psnr_of_pairs(upscaler, pairs, scale))) for upscaler in upscalers)
    return Quality(packed_psnr, full, bicubic, len(pairs), judges.role)
