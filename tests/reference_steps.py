"""One step of the interpreter on maps, with NumPy and with torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitsr.descriptor import Descriptor
from bitsr.program.arrays import NumpyArrays
from bitsr.program.program import Program
from bitsr.program.reference import execute
from bitsr.program.steps import Step

torch = pytest.importorskip("torch")

from bitsr.lowering.torch_arrays import TorchArrays  # noqa: E402

SIZES = [(1, 1), (1, 7), (5, 3), (8, 8), (13, 9)]
Map = NDArray[np.float32]


def random_map(height: int, width: int, channels: int, seed: int = 0) -> Map:
    return np.random.default_rng(seed).normal(0.2, 1, (height, width, channels)).astype(np.float32)


def program_of(*made: Step, channels: int = 3, **tensors: Any) -> Program:
    arrays = {name.replace("__", "."): np.asarray(value) for name, value in tensors.items()}
    return Program(made, arrays, Descriptor("test", 1), output=made[-1].output, channels=channels)


def both(step: Step, maps: dict[str, Map], **tensors: Any) -> Map:
    """The step's output with NumPy, after comparing it and its integers with torch."""
    program = program_of(step, **tensors)
    ours: dict[str, list[Any]] = {}
    theirs: dict[str, list[Any]] = {}
    y = execute(step, maps, program, NumpyArrays(), ours)
    t = TorchArrays()
    z = t.numpy(execute(step, {name: t.array(x) for name, x in maps.items()}, program, t, theirs))
    assert y.dtype == z.dtype == np.float32
    close(z, y)
    assert ours.keys() == theirs.keys()
    for name, pieces in ours.items():
        for a, b in zip(pieces, theirs[name], strict=True):
            assert a.dtype == t.numpy(b).dtype and np.issubdtype(a.dtype, np.integer)
            if name not in ("attention", "values"):  # behind a softmax
                np.testing.assert_array_equal(a, t.numpy(b))
    return np.asarray(y)


def nchw(x: Map) -> Any:
    return torch.from_numpy(x.copy()).permute(2, 0, 1)[None]


def hwc(x: Any) -> Map:
    return x[0].permute(1, 2, 0).numpy()


def close(ours: Any, theirs: Any, share: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= share * max(np.ptp(theirs), np.abs(theirs).max(), 1e-30)
