"""Programs of a few steps on maps of any size, and the native engine compared with the interpreter on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bitsr.engine.engine as engine_module
from bitsr.descriptor import Descriptor
from bitsr.engine.engine import Engine
from bitsr.program.program import Program
from bitsr.program.reference import run
from bitsr.program.steps import Step

Map = NDArray[np.float32]


@pytest.fixture
def any_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine takes programs that no descriptor fits: of any number of channels, and of any size."""
    monkeypatch.setattr(engine_module, "check_program", lambda program: None)


def random_map(height: int, width: int, channels: int, seed: int = 0) -> Map:
    return np.random.default_rng(seed).normal(0.2, 1, (height, width, channels)).astype(np.float32)


def program_of(channels: int, *made: Step, **tensors: Any) -> Program:
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    return Program(made, arrays, Descriptor("test", 1), output=made[-1].output, channels=channels)


def error(ours: Map, theirs: Map) -> float:
    """The largest difference as a share of the range."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32
    assert np.isfinite(ours).all()
    return float(np.abs(ours - theirs).max() / max(np.ptp(theirs), np.abs(theirs).max(), 1e-30))


def relative_rms(ours: Map, theirs: Map) -> float:
    assert ours.shape == theirs.shape
    return float(np.sqrt(np.mean((ours - theirs) ** 2) / max(np.mean(theirs**2), 1e-30)))


def compare(program: Program, x: Map, most: float = 1e-5) -> None:
    """Fused and step by step, on one thread and on three, within ``most`` of the range; bf16 within 2^-7 (rms)."""
    expected = run(program, x)
    fused = Engine(program)(x)
    assert error(fused, expected) <= most
    np.testing.assert_array_equal(Engine(program, fuse=False)(x, threads=3), fused)
    assert relative_rms(Engine(program, "bf16")(x), expected) <= 2**-7
