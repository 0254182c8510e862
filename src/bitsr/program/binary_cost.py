"""What N:M sparse one-bit weights cost to store and to multiply with, in each way of coding them: counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb, log2

Matrix = tuple[int, int]  # outputs, inputs
BITS_PER_FLOP = 64  # bit operations that count as one floating-point operation, by convention


def code_lengths(keep: int, block: int) -> dict[str, float]:
    """Bits per weight of the codes of blocks of which ``keep`` of ``block`` weights are kept, without scales.

    'entropy': log2 of the number of codes; 'several': up to five blocks together in whole bits; 'code': each
    block in whole bits, which is what a file holds; 'index': per kept weight a sign and its place within the
    block; 'planes': one plane of bits for the mask and one for the signs.
    """
    states = comb(block, keep) << keep
    exact = log2(states)

    def whole(blocks: int) -> int:
        return (states**blocks - 1).bit_length()

    packed = min(whole(blocks) / (blocks * block) for blocks in range(1, 6))
    place = (block - 1).bit_length()
    return {
        "entropy": exact / block,
        "several": packed,
        "code": whole(1) / block,
        "index": keep * (1 + place) / block,
        "planes": 2.0 if keep < block else 1.0,
    }


def scales_of(matrices: Iterable[Matrix], group: int | None) -> int:
    """Number of scales with one for every ``group`` inputs of a row (a shorter group at its end); None: one per row."""
    return sum(rows * (1 if group is None else -(-width // group)) for rows, width in matrices)


@dataclass(frozen=True)
class Storage:
    """``bits`` per weight with all that comes beside them; ``kib``; ``ratio`` to float32."""

    bits: float
    kib: float
    ratio: float


def stored(parts: Iterable[tuple[int, float]], before: int) -> Storage:
    """Of ``parts``, (how many numbers, bits of each), in the place of ``before`` numbers in float32."""
    total = sum(count * bits for count, bits in parts)
    return Storage(total / before, total / 8 / 1024, 32 * before / total)


def storage(matrices: Iterable[Matrix], bits: float, group: int | None, scale_bits: int = 16) -> Storage:
    """Of weights of ``bits`` bits each with their scales."""
    matrices = list(matrices)
    weights = sum(rows * width for rows, width in matrices)
    return stored([(weights, bits), (scales_of(matrices, group), scale_bits)], weights)


@dataclass(frozen=True)
class Operations:
    """Products of bits, multiplications in floating point (with scales, of branches), and both as the latter."""

    bit_products: int
    multiplications: int

    @property
    def equivalent(self) -> float:
        return self.bit_products / BITS_PER_FLOP + self.multiplications


def operations(matrices: Iterable[Matrix], tokens: int, keep: int, block: int, group: int | None) -> Operations:
    """Of linears on ``tokens`` tokens, where products with weights that are not kept are left out."""
    matrices = list(matrices)
    products = tokens * sum(rows * width for rows, width in matrices) * keep // block
    return Operations(products, tokens * scales_of(matrices, group))
