"""The interpreter as a whole: every step has a function, maps are dropped, traces, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitsr.errors import PictureError
from bitsr.program import steps
from bitsr.program.dataflow import releases
from bitsr.program.program import Program
from bitsr.program.reference import FUNCTIONS, run
from reference_steps import close, program_of, random_map

pytest.importorskip("torch")

from bitsr.lowering.torch_arrays import TorchArrays  # noqa: E402


def test_every_step_has_a_function() -> None:
    assert set(FUNCTIONS) == set(steps.STEPS.values())


def chain() -> Program:
    doubled = steps.Affine("a", "input", 2.0), steps.Affine("b", "a", 2.0)
    return program_of(*doubled, steps.Add("c", "a", "b"), steps.Add("d", "c", "input"))


def test_maps_are_dropped_after_their_last_use() -> None:
    assert [set(names) for names in releases(chain())] == [set(), set(), {"a", "b"}, {"c", "input"}]


def test_run_and_trace() -> None:
    x = random_map(3, 2, 3)
    trace: Any = {}
    close(run(chain(), x.astype(np.float64), trace=trace), 7 * x)
    assert list(trace) == ["a", "b", "c", "d"]
    close(trace["c"]["output"], 6 * x)
    close(run(chain(), x, TorchArrays()), 7 * x)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (0, 4, 3), (4, 4, 3, 1)])
def test_pictures_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match="takes HxWx3"):
        run(chain(), np.zeros(shape, np.float32))


def test_pictures_that_are_too_small_are_refused() -> None:
    program = program_of(steps.MaxPool("y", "input", 7, 3))
    with pytest.raises(PictureError, match="cannot take a picture of 6x9 pixels: step 'y'"):
        run(program, np.zeros((6, 9, 3), np.float32))
