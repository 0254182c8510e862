"""The plain interpreter: it defines what a program means.

Every other way to run a program is tested against this one, step by step.  It works on one picture, keeps integers as
integers, and is written over an array namespace: the same lines run on NumPy and on torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.errors import PictureError
from bitsr.program import attention, binary, layers, maps, scan, sparse, steps
from bitsr.program.arrays import Array, Arrays, NumpyArrays
from bitsr.program.dataflow import releases
from bitsr.program.frame import Frame, Notes
from bitsr.program.program import Program
from bitsr.program.shapes import map_shapes
from bitsr.program.steps import Step
from bitsr.program.validate import BadProgram

__all__ = ["NumpyArrays", "execute", "run"]

FUNCTIONS: dict[type[Step], Callable[[Any, Frame], Array]] = {
    steps.BinaryLinear: binary.linear,
    steps.BinaryConv2d: binary.conv2d,
    steps.Linear: layers.linear,
    steps.SparseLinear: sparse.linear,
    steps.Conv2d: layers.conv2d,
    steps.WindowAttention: attention.window_attention,
    steps.OverlappingAttention: attention.overlapping_attention,
    steps.LayerNorm: maps.layer_norm,
    steps.Activation: maps.activation,
    steps.PReLU: maps.prelu,
    steps.Add: maps.add,
    steps.Mul: maps.mul,
    steps.Affine: maps.affine,
    steps.Concat: maps.concat,
    steps.Slice: maps.slice_channels,
    steps.PixelShuffle: maps.pixel_shuffle,
    steps.PixelUnshuffle: maps.pixel_unshuffle,
    steps.Resize: maps.resize,
    steps.MaxPool: maps.max_pool,
    steps.GlobalPool: maps.global_pool,
    steps.ArgMax: scan.argmax,
    steps.Lookup: scan.lookup,
    steps.Reorder: scan.reorder,
    steps.SelectiveScan: scan.selective_scan,
    steps.Pad: maps.pad,
    steps.Crop: maps.crop,
}

NUMPY = NumpyArrays()
Trace = dict[str, dict[str, NDArray[Any]]]  # map -> quantity -> value


def execute(
    step: Step, values: Mapping[str, Array], program: Program, arrays: Arrays = NUMPY, notes: Notes | None = None
) -> Array:
    """The map that ``step`` writes, from the maps it reads (HxWxC float32 arrays of the namespace).

    ``notes``, an empty dict where given, receives the step's integers as lists of pieces, see :func:`run`.
    """
    return FUNCTIONS[type(step)](step, Frame(program, arrays, values, notes))


def run(program: Program, x: NDArray[Any], arrays: Arrays = NUMPY, trace: Trace | None = None) -> NDArray[np.float32]:
    """Run ``program`` on one picture.  Maps are dropped after their last use.

    Args:
        x: HxWxC in the range of the network's colours; converted to float32.
        trace: receives, for each map by name, its value as "output" and the integers behind it: "codes" of the input,
            "accumulator" (and "sums", where the weights have mids) of a layer, of a binary one those of all groups one
            after the other; "q", "k", "scores", "attention", "v", "values" of an attention step (windows x heads x
            ...).  It keeps all maps alive.

    Returns:
        the output map, H'xW'xC' float32.

    Raises:
        PictureError: the program cannot take a picture of that shape.
    """
    _check_picture(program, x)
    values = {program.input: arrays.array(np.ascontiguousarray(x, dtype=np.float32))}
    for step, released in zip(program.steps, releases(program), strict=True):
        notes: Notes | None = None if trace is None else {}
        values[step.output] = execute(step, values, program, arrays, notes)
        if trace is not None:
            notes = {**(notes or {}), "output": [values[step.output]]}
            trace[step.output] = {
                name: np.concatenate([arrays.numpy(piece) for piece in pieces]) for name, pieces in notes.items()
            }
        for name in released:
            del values[name]
    return arrays.numpy(values[program.output])


def _check_picture(program: Program, x: NDArray[Any]) -> None:
    shape = np.shape(x)
    if len(shape) != 3 or shape[2] != program.channels or 0 in shape:
        raise PictureError(f"the network takes HxWx{program.channels} pictures, got the shape {shape}")
    try:
        map_shapes(program, shape[0], shape[1])
    except BadProgram as error:
        raise PictureError(f"the network cannot take a picture of {shape[0]}x{shape[1]} pixels: {error}") from None
