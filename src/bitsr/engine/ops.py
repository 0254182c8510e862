"""The engine's own small language: values in the formats of the kernels, and what writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["f32", "bf16", "u8", "bits"]
CHANNELS_PER_WORD: dict[Format, int] = {"f32": 1, "bf16": 2, "u8": 4, "bits": 32}

IN_PLACE = {"activation", "prelu", "add", "multiply", "affine", "round"}  # kinds that may write over what they read
ADDING = {"gemm", "binary"}  # kinds that add a second input, if there is one


@dataclass(eq=False)
class Value:
    """A map of ``height`` x ``width`` pixels.

    ``border`` pixels around it, for the convolutions that read it, hold ``fill``: a word of four codes, or 0.
    """

    name: str
    format: Format
    channels: int
    height: int
    width: int
    border: int = 0
    fill: int = 0
    part_of: tuple[Value, int] | None = None  # lies in the memory of another value, from one of its channels on

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def root(self) -> Value:
        """The value whose memory this one lies in: itself, where it is no part."""
        return self if self.part_of is None else self.part_of[0].root

    @property
    def layout(self) -> tuple[Any, ...]:
        """Values of one layout have the same pixels at the same places."""
        return self.format, self.channels, self.height, self.width, self.border


@dataclass(eq=False)
class Op:
    """One call of the native plan: the method ``kind`` with the values' numbers and then ``parameters``.

    Attributes:
        output: None for "output" and "fill_border", which write no new value.
        elsewhere: those inputs that are read at other pixels than the one being written: they must be complete before.
    """

    kind: str
    inputs: tuple[Value, ...]
    output: Value | None
    parameters: tuple[Any, ...] = ()
    elsewhere: tuple[Value, ...] = ()

    @property
    def touched(self) -> tuple[Value, ...]:
        return self.inputs if self.output is None else (*self.inputs, self.output)

    def may_overwrite(self, x: Value) -> bool:
        """Whether the op may write over its input ``x``, of which it reads nothing but the pixel being written."""
        if self.kind in ADDING:
            return self.inputs[1:] == (x,) and self.inputs[0].root is not x
        return self.kind in IN_PLACE and all(v is x for v in self.inputs if v.root is x)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is written."""
        return (self.output or self.inputs[0]).size


@dataclass(frozen=True)
class Graph:
    """Ops in an order in which they can run.  Nothing in it is unused."""

    ops: tuple[Op, ...]
