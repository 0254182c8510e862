"""Which operands of attention are quantized, and how: cases for every implementation of it."""

from __future__ import annotations

from typing import Any

from bitsr.program.steps import Quantizer

OPERANDS: dict[str, dict[str, Any]] = {
    "float": {},
    "8 bit": {
        "q": Quantizer(8, -2.0, 1 / 64), "k": Quantizer(8, -2.5, 1 / 32), "attention": Quantizer(8, 0.0, 1 / 512),
        "v": Quantizer(8, -3.0, 1 / 32),
    },
    "4 bit, attention from below 0": {
        "q": Quantizer(4, -1.5, 0.25), "k": Quantizer(4, -2.25, 0.25), "attention": Quantizer(4, -0.0625, 1 / 64),
        "v": Quantizer(4, -3.0, 0.375),
    },
    "symmetric q, 2 bit": {
        "q": Quantizer(2, 0.0, 0.5), "k": Quantizer(2, -1.0, 0.75), "attention": Quantizer(2, 0.0, 0.125),
        "v": Quantizer(2, 0.0, 0.5),
    },
    "scores alone": {"q": Quantizer(4, -1.5, 0.25), "k": Quantizer(4, -2.25, 0.25)},
    "8 bit, attention of 5 bit, a scale per query": {
        "q": Quantizer(8, -2.0, 1 / 64), "k": Quantizer(8, -2.5, 1 / 32), "attention": Quantizer(5, 0.0, 1 / 32),
        "v": Quantizer(8, -3.0, 1 / 32), "row_scale": True,
    },
    "4 bit, attention from below 0, a scale per query": {
        "q": Quantizer(4, -1.5, 0.25), "k": Quantizer(4, -2.25, 0.25), "attention": Quantizer(4, -0.0625, 9 / 128),
        "v": Quantizer(4, -3.0, 0.375), "row_scale": True,
    },
    "values alone, 2 bit, a scale per query": {
        "attention": Quantizer(2, 0.0, 0.25), "v": Quantizer(2, 0.0, 0.5), "row_scale": True
    },
    "q and v alone": {"q": Quantizer(4, -1.5, 0.25), "v": Quantizer(4, -3.0, 0.375)},
}  # fmt: skip
