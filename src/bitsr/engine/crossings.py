"""Where GELU crosses thresholds: for signs of a GELU that need not be worked out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitsr.program.dataflow import binary_layers
from bitsr.program.maps import gelu
from bitsr.program.program import Program
from bitsr.program.reference import NUMPY
from bitsr.program.steps import Activation

Floats = NDArray[np.float32]
VALLEY = -0.7517916  # where GELU is least; it falls up to there and rises from there on
FLAT = 16.0  # beyond it, on both sides, GELU is 0 and the identity
NEVER = np.finfo(np.float32).min


def crossings_of(program: Program) -> dict[str, tuple[str, Floats, Floats]]:
    """For every layer of signs that reads a GELU, by the map that the layer makes: what map the GELU is of, and its
    crossings."""
    gelus = {step.output: step.x for step in program.steps if isinstance(step, Activation) and step.function == "gelu"}
    layers = [step for step in binary_layers(program) if step.x in gelus]
    if not layers:
        return {}
    thresholds = [program.tensor(step.threshold) for step in layers]
    ends = np.cumsum([len(numbers) for numbers in thresholds])[:-1]
    above, below = (np.split(numbers, ends) for numbers in gelu_crossings(np.concatenate(thresholds)))
    return {step.output: (gelus[step.x], a, b) for step, a, b in zip(layers, above, below, strict=True)}


def gelu_crossings(thresholds: Floats) -> tuple[Floats, Floats]:
    """(above, below) of each threshold: GELU(x) >= threshold where x >= above or x <= below.

    The GELU is the interpreter's with its roundings: signs are the same to the last place of x, unless those roundings
    make a GELU fall where it should rise.
    """
    valley = np.full_like(thresholds, VALLEY)
    right = _first(thresholds, valley, np.maximum(thresholds, FLAT))
    left = _first(thresholds, valley, np.full_like(thresholds, -FLAT))
    return np.where(_reaches(valley, thresholds), NEVER, right), left


def _reaches(x: Floats, thresholds: Floats) -> NDArray[np.bool_]:
    reached: NDArray[np.bool_] = gelu(x, NUMPY) >= thresholds
    return reached


def _first(thresholds: Floats, start: Floats, end: Floats) -> Floats:
    """The number from ``start`` to ``end`` where GELU first reaches its threshold; NEVER, if it does not at ``end``."""
    near, far = _places(start), _places(end)
    for _ in range(32):
        middle = (near + far) // 2
        there = _reaches(_at(middle), thresholds)
        near, far = np.where(there, near, middle), np.where(there, middle, far)
    return np.where(_reaches(_at(far), thresholds), _at(far), NEVER)


def _places(x: Floats) -> NDArray[np.int64]:
    """Of each number among all of its type, in their order."""
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _at(places: NDArray[np.int64]) -> Floats:
    bits = np.where(places < 0, -places | 0x80000000, places)
    return bits.astype(np.uint32).view(np.float32)
