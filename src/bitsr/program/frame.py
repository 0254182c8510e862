"""What a step sees while it runs: the maps, the tensors, the array namespace and, if wanted, a notebook of integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitsr.program.arrays import Array, Arrays
from bitsr.program.program import Program
from bitsr.program.steps import PackedWeight, Quantizer

Notes = dict[str, list[Array]]  # quantity -> its values, in one piece or slab after slab


@dataclass(frozen=True)
class Frame:
    """``values`` are the feature maps by name; ``notes``, where given, receives the integers of the step."""

    program: Program
    arrays: Arrays
    values: Mapping[str, Array]
    notes: Notes | None = None

    def tensor(self, name: str) -> Array:
        """A floating-point tensor as float32."""
        return self.arrays.array(self.program.tensor(name))

    def signed(self, weight: PackedWeight) -> Array:
        """p - 2**(bits - 1) as int8."""
        codes = self.program.tensors[weight.codes]
        return self.arrays.array((codes.astype("int16") - 2 ** (weight.bits - 1)).astype("int8"))

    def dequantized(self, weight: str | PackedWeight) -> Array:
        """The weight as float32, in the shape of its codes."""
        if isinstance(weight, str):
            return self.tensor(weight)
        signed = self.arrays.floats(self.signed(weight))
        rows = (-1,) + (1,) * (signed.ndim - 1)
        value = signed * self.tensor(weight.scale).reshape(rows)
        return value if weight.mid is None else value + self.tensor(weight.mid).reshape(rows)

    def quantize(self, x: Array, quantizer: Quantizer) -> Array:
        """Codes of ``x``, uint8."""
        y = x - self.arrays.array(quantizer.lower)
        y /= self.arrays.array(quantizer.step)
        return self.arrays.codes(self.arrays.clip(self.arrays.rint_(y), 0, quantizer.levels))

    def rounded(self, x: Array, quantizer: Quantizer | None) -> Array:
        """``x`` moved to the levels of the quantizer, still float32: for products with an operand that is no codes."""
        if quantizer is None:
            return x
        return self.arrays.floats(self.quantize(x, quantizer)) * self.arrays.array(quantizer.step) + quantizer.lower

    def note(self, **integers: Array) -> None:
        """Keep the named quantities for whoever traces the run."""
        if self.notes is not None:
            for name, value in integers.items():
                self.notes.setdefault(name, []).append(value)
