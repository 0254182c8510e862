"""Codes as bit streams: what goes in comes out, at really b bits per code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsr.program import packing
from bitsr.program.packing import pack, packed_size, unpack


@given(st.integers(1, 8).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1), max_size=60))))
def test_round_trip(case: tuple[int, list[int]]) -> None:
    bits, codes = case
    packed = pack(np.array(codes, np.uint8), bits)
    assert len(packed) == packed_size(len(codes), bits) == -(-len(codes) * bits // 8)
    assert unpack(packed, bits, len(codes)).tolist() == codes


@given(st.integers(1, 8), st.binary(max_size=40))
def test_packing_follows_the_specification(bits: int, content: bytes) -> None:
    """Bit n of the stream is bit n % 8 of byte n // 8; as one long number, low bits first."""
    count = len(content) * 8 // bits
    stream = int.from_bytes(content, "little")
    expected = [stream >> (i * bits) & (2**bits - 1) for i in range(count)]
    assert unpack(content[: packed_size(count, bits)], bits, count).tolist() == expected


def test_known_bytes() -> None:
    assert pack(np.array([[0x1, 0x2], [0x3, 0x4]], np.uint8), 4) == bytes([0x21, 0x43])
    assert pack(np.array([0, 1, 2, 3, 1], np.uint8), 2) == bytes([0b11100100, 0b01])
    assert pack(np.arange(8, dtype=np.uint8), 3) == bytes([0b10001000, 0b11000110, 0b11111010])
    assert pack(np.array([63, 0, 63, 0], np.uint8), 6) == bytes([0b00111111, 0b11110000, 0b00000011])
    assert pack(np.array([7, 255], np.uint8), 8) == bytes([7, 255])


@pytest.mark.parametrize("bits", [2, 3, 6, 8])
def test_long_tensors_are_packed_in_chunks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (7, 9), np.uint8)
    whole = pack(codes, bits)
    monkeypatch.setattr(packing, "_CHUNK", 16)
    assert pack(codes, bits) == whole
    np.testing.assert_array_equal(unpack(whole, bits, 63), codes.ravel())


def test_views_are_packed_in_their_order() -> None:
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert unpack(pack(codes.T, 4), 4, 12).tolist() == codes.T.ravel().tolist()


def test_codes_that_do_not_fit_and_lengths_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="code 4 does not fit into 2 bits"):
        pack(np.array([0, 4], np.uint8), 2)
    with pytest.raises(ValueError, match="fill 2 bytes, got 1"):
        unpack(b"x", 3, 5)
