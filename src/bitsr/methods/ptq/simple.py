"""Bounds and nearest rounding, nothing else: MinMax, Percentile and DOBI alone."""

from __future__ import annotations

from torch import Tensor

from bitsr.methods.ptq.bounds import Bounds, dobi, minmax, percentile
from bitsr.methods.ptq.config import Dobi, Percentile, PTQConfig
from bitsr.methods.ptq.pipeline import Stage, simple_stages


def stages(config: PTQConfig) -> list[Stage]:
    match config:
        case Dobi():

            def search(v: Tensor, bits: int) -> Bounds:
                return dobi(v, bits, config.candidates)

            return simple_stages(search, weights=search)
        case Percentile():
            return simple_stages(lambda v, bits: percentile(v, bits, config.tail))
    return simple_stages(minmax)
