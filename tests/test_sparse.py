"""Linear layers of few weights: what they compute, store and cost, and what contradicts itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bitsr.format import BadProgram
from bitsr.format.reader import read_bytes
from bitsr.format.writer import to_bytes as to_file
from bitsr.program import steps
from bitsr.program.counting import count_layers
from bitsr.program.program import Program
from bitsr.program.reference import run
from bitsr.program.sparse import dense, to_bytes
from bitsr.program.validate import check_program
from engine_programs import compare, program_of, random_map

PLACES = np.array([1, 4, 9, 10, 14])  # of 5 x 3: no entry in the third row, three in the last two
VALUES = np.array([2, -1, 0.5, 3, -4], np.float16)


def sparse_program(places: Any = PLACES, values: Any = VALUES, **fields: Any) -> Program:
    """3 channels become 5."""
    step = steps.SparseLinear("y", "input", "values", "places", 5, 3)
    tensors = {"values": values, "places": to_bytes(np.asarray(places))}
    return program_of(3, replace(step, **fields), **tensors)


def test_entries_are_where_their_places_say() -> None:
    program = sparse_program()
    (step,) = (step for step in program.steps if isinstance(step, steps.SparseLinear))
    expected = [[0, 2, 0], [0, -1, 0], [0, 0, 0], [0.5, 3, 0], [0, 0, -4]]
    assert dense(step, program).tolist() == expected
    x = random_map(4, 70, 3)
    np.testing.assert_allclose(run(program, x)[..., :5], x @ np.array(expected, np.float32).T, rtol=1e-6)
    assert to_bytes(np.array([0x123456])).tolist() == [[0x56, 0x34, 0x12]]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (3, 131)])
def test_engine(size: tuple[int, int]) -> None:
    pytest.importorskip("bitsr._native", reason="the native engine was not built")
    compare(with_three_channels(sparse_program()), random_map(*size, 3))


def test_cost() -> None:
    (layer,) = (layer for layer in count_layers(sparse_program(), 2, 3) if layer.kind == "sparselinear")
    assert (layer.macs, layer.bytes, layer.w_bits, layer.bit_ops) == (30, 5 * (2 + 3), 16, 30 * 1024)


def test_a_file_gives_it_back() -> None:
    program = with_three_channels(sparse_program())
    again = read_bytes(to_file(program))
    assert again.steps == program.steps
    assert all(np.array_equal(again.tensors[name], value) for name, value in program.tensors.items())


@pytest.mark.parametrize(
    "change,problem",
    [
        ({"places": [4, 1, 9, 10, 14]}, "do not ascend"),
        ({"places": [1, 1, 9, 10, 14]}, "do not ascend"),
        ({"places": [1, 4, 9, 10, 15]}, "there is no place 15"),
        ({"values": VALUES[:4]}, "values has the shape"),
        ({"values": VALUES.astype(np.uint8)}, "holds codes"),
        ({"rows": 0}, "rows is 0"),
        ({"rows": 16384, "columns": 16384}, "no places of 3 bytes"),
        ({"columns": 4}, "takes 4 channels"),
    ],
)
def test_contradictions(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadProgram, match=problem):
        check_program(with_three_channels(sparse_program(**change)))


def with_three_channels(program: Program) -> Program:
    """Its first three channels as the picture that it gives."""
    made = (*program.steps, steps.Slice("picture", "y", 0, 3))
    return replace(program, steps=made, output="picture")
