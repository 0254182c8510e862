"""An ONNX graph while it is written: nodes, constants, and each feature map in the layouts that were asked for.

Convolutions want planes (1xCxHxW), layers on tokens want pixels (1xHxWxC), attention wants windows; a map stays in the
layout in which it was made until a step needs another, and each change of layout is made once.  Sizes are taken from
the graph's own values while it runs, so one graph serves every picture; a runtime that is told the size folds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bitsr.program import steps
from bitsr.program.dataflow import maps_of
from bitsr.program.program import Program
from bitsr.program.shapes import map_shapes

END = 2**62  # of a slice that goes on to the last element


@dataclass(frozen=True)
class Windows:
    """(windows) x (window**2 tokens) x C, of the map rolled by -shift in both axes."""

    window: int
    shift: int


PLANES, PIXELS = "planes", "pixels"
Layout = str | Windows


class Graph:
    """Collects nodes and initializers; every method that makes a value returns its name."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.scope = program.input  # names of new values begin with it
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        side = program.descriptor.min_size + -program.descriptor.min_size % program.descriptor.multiple
        self.channels = {name: shape[2] for name, shape in map_shapes(program, side, side).items()}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._shared: dict[tuple[Any, ...], str] = {}
        self._maps: dict[str, dict[Layout, str]] = {}
        self._sizes: dict[str, str] = {}  # map -> the first map that had its height and width
        self._windows = _windows_of_readers(program)

    # ---- nodes and constants ------------------------------------------------------------------------------------

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output."""
        return self.add_many(kind, 1, *inputs, **attributes)[0]

    def add_many(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with several outputs."""
        name = f"{self.scope}/{kind}_{len(self.nodes)}"
        made = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name, **attributes))
        return made

    def shared(self, key: tuple[Any, ...], make: Callable[[], str]) -> str:
        """What ``make()`` appended when ``key`` was first asked for."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def constant(self, value: NDArray[Any]) -> str:
        """An initializer; equal ones are kept once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = f"{self.scope}/constant_{len(self.initializers)}"
            self.initializers.append(numpy_helper.from_array(np.array(value, order="C"), self._constants[key]))
        return self._constants[key]

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def integer(self, value: int) -> str:
        """An int64 scalar."""
        return self.constant(np.array(value, np.int64))

    def integers(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def vector(self, values: NDArray[np.float32], layout: Layout) -> str:
        """One number per channel, in the shape that meets maps of ``layout``."""
        return self.constant(values.reshape(-1, 1, 1) if layout == PLANES else values)

    # ---- feature maps -------------------------------------------------------------------------------------------

    def put(self, name: str, layout: Layout, value: str, size_of: str | None = None) -> None:
        """``value`` is the map ``name`` in ``layout``; it is as high and wide as the map ``size_of``, where given."""
        self._maps[name] = {layout: value}
        self._sizes[name] = name if size_of is None else self._sizes[size_of]

    def layout(self, *names: str) -> Layout:
        """The layout in which the maps were made; pixels where they differ."""
        made = {next(iter(self._maps[name])) for name in names}
        return made.pop() if len(made) == 1 else PIXELS

    def token_layout(self, x: str, output: str) -> Layout:
        """Where a layer on tokens reads ``x``: in the windows of the attention that reads ``output``, if one does; else
        in the layout that ``x`` has, but never in planes."""
        made = self.layout(x)
        return self._windows.get(output) or (PIXELS if made == PLANES else made)

    def get(self, name: str, layout: Layout) -> str:
        """The map ``name`` in ``layout``."""
        known = self._maps[name]
        if layout not in known:
            if isinstance(layout, Windows):
                known[layout] = self._partition(name, layout)
            elif layout == PLANES:
                known[layout] = self.add("Transpose", self.get(name, PIXELS), perm=[0, 3, 1, 2])
            elif PLANES in known:
                known[layout] = self.add("Transpose", known[PLANES], perm=[0, 2, 3, 1])
            else:
                known[layout] = self._merge(name)
        return known[layout]

    def size(self, name: str) -> str:
        """Equal for maps that are known to be of equal height and width."""
        return self._sizes[name]

    def side(self, name: str, axis: int) -> str:
        """The height (``axis`` 0) or width (1) of a map: an int64 vector of one element."""
        return self.shared(("side", self.size(name), axis), lambda: self._side(self.size(name), axis))

    def windows_along(self, name: str, axis: int, window: int) -> str:
        """Number of windows along an axis: an int64 vector of one element."""
        key = ("windows", self.size(name), axis, window)
        return self.shared(key, lambda: self.add("Div", self.side(name, axis), self.integers(window)))

    def shape(self, *sides: int | str) -> str:
        """The argument of a Reshape, from numbers and int64 vectors of one element."""
        if all(isinstance(side, int) for side in sides):
            return self.integers(*(int(side) for side in sides))
        parts = [self.integers(side) if isinstance(side, int) else side for side in sides]
        return self.shared(("shape", *parts), lambda: self.add("Concat", *parts, axis=0))

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        """Elements start..stop-1 along one axis; negative numbers count from the end."""
        return self.add("Slice", x, self.integers(start), self.integers(stop), self.integers(axis))

    def _side(self, name: str, axis: int) -> str:
        layout = self.layout(name)
        first = axis + (2 if layout == PLANES else 1)
        return self.add("Shape", self.get(name, layout), start=first, end=first + 1)

    def _roll(self, x: str, by: int) -> str:
        """Cyclic shift of rows and columns of a map in pixels."""
        for axis in (1, 2):
            x = self.add("Concat", self.slice(x, -by, END, axis), self.slice(x, 0, -by, axis), axis=axis)
        return x

    def _partition(self, name: str, layout: Windows) -> str:
        n, channels, x = layout.window, self.channels[name], self.get(name, PIXELS)
        x = self._roll(x, -layout.shift) if layout.shift else x
        x = self.add("Reshape", x, self.shape(-1, n, self.windows_along(name, 1, n), n, channels))
        x = self.add("Transpose", x, perm=[0, 2, 1, 3, 4])
        return self.add("Reshape", x, self.shape(-1, n * n, channels))

    def _merge(self, name: str) -> str:
        layout, x = next((layout, x) for layout, x in self._maps[name].items() if isinstance(layout, Windows))
        n, channels = layout.window, self.channels[name]
        x = self.add("Reshape", x, self.shape(-1, self.windows_along(name, 1, n), n, n, channels))
        x = self.add("Transpose", x, perm=[0, 2, 1, 3, 4])
        x = self.add("Reshape", x, self.shape(1, -1, self.side(name, 1), channels))
        return self._roll(x, layout.shift) if layout.shift else x


def _windows_of_readers(program: Program) -> dict[str, Windows]:
    """For each map that nothing but attention in equal windows reads, those windows."""
    readers: dict[str, set[Windows | None]] = {program.output: {None}}
    for step in program.steps:
        windows = Windows(step.window, step.shift) if isinstance(step, steps.WindowAttention) else None
        for name in maps_of(step):
            readers.setdefault(name, set()).add(windows)
    alone = {name: next(iter(found)) for name, found in readers.items() if len(found) == 1}
    return {name: windows for name, windows in alone.items() if windows is not None}
