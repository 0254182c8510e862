"""Programs on the native kernels: matrices once per engine, a plan of groups and memory once per size of picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitsr.engine.groups import Group, partition, with_borders
from bitsr.engine.matrices import matrix_of, sign_matrix_of
from bitsr.engine.memory import Memory, place
from bitsr.engine.ops import Op, Value
from bitsr.engine.parts import share_planes
from bitsr.engine.rewrite import rewrite
from bitsr.errors import PictureError
from bitsr.program.dataflow import binary_layers
from bitsr.program.program import Program
from bitsr.program.shapes import BadProgram, Shape, map_shapes
from bitsr.program.steps import Conv2d, Linear
from bitsr.program.validate import check_program

PLANS = 4  # sizes of pictures that are remembered,
PLANS_BYTES = 32 << 20  # as long as their maps take no more than that; the last one always is


class Engine:
    """Callable from a picture HxWxC, float32, to the program's output map.  Any number of threads may call it at once.

    Attributes:
        program: what is run.
        precision: of products that are not integer: "fp32" or "bf16" (sums are float32 in both).
    """

    def __init__(self, program: Program, precision: Literal["fp32", "bf16"] = "fp32", fuse: bool = True) -> None:
        """Check the program and pack its weights.  Without ``fuse`` each step runs over whole maps by itself.

        Raises `BadProgram` for a program that contradicts itself, ImportError where bitsr was installed without its
        native part.
        """
        from bitsr import _native

        check_program(program)
        self.program, self.precision, self._fuse, self._native = program, precision, fuse, _native
        self._floating: Literal["f32", "bf16"] = "f32" if precision == "fp32" else "bf16"
        layers = (step for step in program.steps if isinstance(step, Linear | Conv2d))
        with _refusals():
            self._matrices = {step.output: matrix_of(step, program, self._floating, _native) for step in layers}
            self._matrices |= {step.output: sign_matrix_of(step, program, _native) for step in binary_layers(program)}
        self._plans: OrderedDict[tuple[int, int], tuple[Any, Shape]] = OrderedDict()  # the last used at the end
        self._lock = Lock()

    def __call__(self, x: NDArray[Any], threads: int = 1) -> NDArray[np.float32]:
        """Run one picture on ``threads`` threads; the result does not depend on their number.

        Raises `PictureError` for a shape that the program cannot take, MemoryError where memory runs out.
        """
        shape = np.shape(x)
        if len(shape) != 3 or shape[2] != self.program.channels or 0 in shape:
            raise PictureError(f"the network takes HxWx{self.program.channels} pictures, got the shape {shape}")
        plan, made = self._plan(shape[0], shape[1])
        y = np.empty(made, np.float32)
        plan.run(np.ascontiguousarray(x, dtype=np.float32), y, threads)
        return y

    def groups(self, height: int, width: int) -> list[Group]:
        """What runs together for a picture of ``height`` x ``width``; raises `PictureError`."""
        return self._groups(self._shapes(height, width))

    def arena_bytes(self, height: int, width: int) -> int:
        """Memory that the maps of a picture of ``height`` x ``width`` take, in bytes; raises `PictureError`."""
        return 4 * place(self.groups(height, width), self._native).arena_words

    def _groups(self, shapes: dict[str, Shape]) -> list[Group]:
        graph = rewrite(self.program, shapes, self._matrices, self._floating, self._native.TILE)
        groups = partition(graph, self._native.SCAN_CHANNELS, self._fuse)
        return with_borders(share_planes(groups) if self._fuse else groups)

    def _shapes(self, height: int, width: int) -> dict[str, Shape]:
        try:
            return map_shapes(self.program, height, width)
        except BadProgram as error:
            raise PictureError(f"the network cannot take a picture of {height}x{width} pixels: {error}") from None

    def _plan(self, height: int, width: int) -> tuple[Any, Shape]:
        """The plan for a size, and the shape of its output."""
        with self._lock:
            if (height, width) in self._plans:
                self._plans.move_to_end((height, width))
                return self._plans[height, width]
        shapes = self._shapes(height, width)
        groups = self._groups(shapes)
        memory = place(groups, self._native)
        made = shapes[self.program.output]
        with _refusals():
            plan = self._native.Plan(memory.arena_words, memory.scratch_words, shapes[self.program.input], made)
            _write(plan, groups, memory)
        with self._lock:
            self._plans[height, width] = plan, made
            while len(self._plans) > 1 and (len(self._plans) > PLANS or self._arena_bytes_kept() > PLANS_BYTES):
                self._plans.popitem(last=False)
        return plan, made

    def _arena_bytes_kept(self) -> int:
        return sum(plan.arena_bytes for plan, _ in self._plans.values())


@contextmanager
def _refusals() -> Iterator[None]:
    """What the native engine refuses is a program beyond its means, such as numbers that float32 cannot hold."""
    try:
        yield
    except ValueError as error:
        raise BadProgram(f"the native engine cannot run the program: {error}") from None


def _write(plan: Any, groups: list[Group], memory: Memory) -> None:
    """Tell the native plan its values and steps."""
    numbers: dict[Value, int] = {}
    for v, offset in memory.maps.items():
        numbers[v] = plan.map(v.channels, v.height, v.width, v.format, v.border, v.fill, offset)
    for v, offset in memory.locals.items():
        numbers[v] = plan.local(v.channels, memory.widths[v], v.format, offset)

    def number(v: Value) -> int:
        if v not in numbers:
            assert v.part_of is not None
            whole, start = v.part_of
            numbers[v] = plan.part(number(whole), start, v.channels)
        return numbers[v]

    for group in groups:
        getattr(plan, group.domain.kind)(*group.domain.numbers)
        for op in group.ops:
            _write_op(plan, op, [number(v) for v in op.touched])


def _write_op(plan: Any, op: Op, values: list[int]) -> None:
    if op.kind != "concat":
        getattr(plan, op.kind)(*values, *op.parameters)
        return
    *inputs, made = values
    to = 0
    for x, number in zip(op.inputs, inputs, strict=True):
        plan.copy(number, made, 0, to, x.channels)
        to += x.channels
