"""A program: steps in order, the tensors they name, and what a caller must know about the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.descriptor import Descriptor
from bitsr.program.steps import Step


@dataclass(frozen=True)
class Program:
    """``tensors`` hold float32 (or float16, widened when used) arrays and uint8 weight codes (one code per byte in
    memory; the file packs them).  The feature map ``input`` is HxWxC in the range that the descriptor's colour implies;
    the map ``output`` is what the program leaves.  ``meta`` is provenance: names and numbers only, never needed to run.
    """

    steps: tuple[Step, ...]
    tensors: Mapping[str, NDArray[Any]]
    descriptor: Descriptor
    input: str = "input"
    output: str = "output"
    channels: int = 3
    meta: Mapping[str, Any] = field(default_factory=dict)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A floating-point tensor, widened to float32."""
        return np.asarray(self.tensors[name], dtype=np.float32)

    def numbers(self, value: float | str | tuple[float, ...]) -> NDArray[np.float32]:
        """One number, without axes, or many, which a name stands for or which are given."""
        return self.tensor(value) if isinstance(value, str) else np.array(value, np.float32)
