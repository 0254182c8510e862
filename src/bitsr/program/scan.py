"""Classes of pixels, the order that they give, and the state-space scan that follows it."""

from __future__ import annotations

import numpy as np

from bitsr.program import steps
from bitsr.program.arrays import Array
from bitsr.program.frame import Frame


def argmax(step: steps.ArgMax, frame: Frame) -> Array:
    return frame.arrays.floats(frame.arrays.argmax(frame.values[step.x], 2))


def lookup(step: steps.Lookup, frame: Frame) -> Array:
    table = frame.tensor(step.table)
    return table[frame.arrays.whole(frame.values[step.x][..., 0], table.shape[0])]


def reorder(step: steps.Reorder, frame: Frame) -> Array:
    x = frame.values[step.x]
    order = frame.arrays.argsort(frame.arrays.whole(frame.values[step.classes].reshape(-1), step.count))
    if step.back:
        order = frame.arrays.argsort(order)
    return x.reshape(-1, x.shape[2])[order].reshape(x.shape)


def selective_scan(step: steps.SelectiveScan, frame: Frame) -> Array:
    """Row by row what needs no state, pixel by pixel what does."""
    arrays = frame.arrays
    x, delta, b, c = (frame.values[name] for name in (step.x, step.delta, step.b, step.c))
    decay, skip = frame.tensor(step.decay), frame.tensor(step.skip)
    h = arrays.array(np.zeros(decay.shape, np.float32))
    rows = []
    for i in range(x.shape[0]):
        kept = arrays.exp_(delta[i, :, :, None] * decay)
        added = (delta[i] * x[i])[..., None] * b[i, :, None]
        states = []
        for j in range(x.shape[1]):
            h = kept[j] * h + added[j]
            states.append(h[None])
        rows.append(arrays.sum(arrays.concatenate(states, 0) * c[i, :, None], 2)[None, ..., 0] + x[i] * skip)
    return arrays.concatenate(rows, 0)
