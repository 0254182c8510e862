"""The packed file: what is written is read back, and a damaged file gives one named error."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitsr.errors import PackedFileError
from bitsr.format import (
    BadHeader,
    BadMagic,
    BadProgram,
    ChecksumMismatch,
    Truncated,
    UnsupportedVersion,
    read_bytes,
    read_program,
    to_bytes,
    write_program,
)
from bitsr.format.layout import READABLE
from bitsr.program.reference import run
from bitsr.program.steps import WindowAttention
from packed_files import (
    DATA,
    PICTURE,
    PROGRAM,
    Change,
    content_of,
    outcome,
    same,
    sections_of,
    small_program,
    with_header,
    with_sections,
)

# ---- round trip -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_program(PROGRAM, tmp_path / "small.bitsr")
    back = read_program(tmp_path / "small.bitsr")
    assert same(back, PROGRAM)
    assert os.listdir(tmp_path) == ["small.bitsr"]
    np.testing.assert_array_equal(run(back, PICTURE), run(PROGRAM, PICTURE))
    assert run(back, PICTURE).shape == (10, 8, 3)


def test_a_scale_per_query_is_written_where_there_is_one() -> None:
    scaled = tuple(replace(s, row_scale=True) if isinstance(s, WindowAttention) else s for s in PROGRAM.steps)
    program = replace(PROGRAM, steps=scaled)
    data = to_bytes(program)
    assert same(read_bytes(data), program) and not same(program, PROGRAM)
    written = {"row_scale" in content_of(d)["steps"][5]: d for d in (DATA, data)}
    assert written == {False: DATA, True: data}


def test_the_same_program_gives_the_same_bytes() -> None:
    assert to_bytes(small_program()) == DATA == to_bytes(read_bytes(DATA))
    assert len(DATA) < 4096  # small enough for every flipped bit


def test_safetensors_can_open_it(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    (tmp_path / "small.bitsr").write_bytes(DATA)
    with safetensors.safe_open(tmp_path / "small.bitsr", framework="numpy") as file:
        assert file.metadata()["format"] == "bitsr"
        np.testing.assert_array_equal(file.get_tensor("half")[:108], PROGRAM.tensors["first.weight"].ravel())


def test_codes_take_really_their_bits() -> None:
    sections = sections_of(DATA)
    assert len(sections["codes"]) == 48 * 3 // 8 + 216 * 2 // 8
    assert len(sections["single"]) == 4 * (3 + 3 * 4 + 3 * 12 + 12)
    assert len(sections["half"]) == 2 * (108 + 4 + 18)


# ---- damage ---------------------------------------------------------------------------------------------------------


def test_truncation_at_every_byte_is_noticed() -> None:
    for length in range(len(DATA)):
        with pytest.raises(Truncated):
            read_bytes(DATA[:length])


def test_every_flipped_bit_is_noticed() -> None:
    for i in range(len(DATA)):
        for bit in range(8):
            damaged = bytearray(DATA)
            damaged[i] ^= 1 << bit
            with pytest.raises(PackedFileError):
                read_bytes(bytes(damaged))


def test_flipped_bits_under_a_valid_checksum_do_no_harm() -> None:
    survived = 0
    for name, content in sections_of(DATA).items():
        for bit in range(0, 8 * len(content), 1 if name == "program" else 11):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            program = outcome(with_sections(**{name: bytes(damaged)}))
            if program is not None and name == "program":
                assert same(program, PROGRAM)  # a bit that zlib does not use
            survived += program is not None
    assert survived > 100  # other weights make another valid program


def test_bytes_after_the_end_are_noticed() -> None:
    with pytest.raises(BadHeader, match="1 bytes after the last section"):
        read_bytes(DATA + b"\0")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(50), b"PK\x03\x04" + bytes(50), bytes(range(64))])
def test_other_files_are_told_apart(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bitsr").write_bytes(content)
    with pytest.raises(BadMagic, match=r"x\.bitsr: this is not a packed file"):
        read_program(tmp_path / "x.bitsr")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.bitsr", tmp_path):
        with pytest.raises(PackedFileError, match="cannot be read"):
            read_program(path)


HEADERS: dict[str, tuple[Change, type[PackedFileError], str]] = {
    "a safetensors checkpoint": (lambda h: h.pop("__metadata__"), BadMagic, "but not a packed file"),
    "another format": (lambda h: h["__metadata__"].update(format="pt"), BadMagic, "but not a packed file"),
    "metadata that is a list": (lambda h: h.update(__metadata__=[]), BadMagic, "but not a packed file"),
    "a newer version": (lambda h: h["__metadata__"].update(version="99"), UnsupportedVersion, "version '99'"),
    "no checksum": (lambda h: h["__metadata__"].pop("sha256"), BadHeader, "metadata"),
    "a short checksum": (lambda h: h["__metadata__"].update(sha256="00"), BadHeader, "metadata"),
    "another checksum": (lambda h: h["__metadata__"].update(sha256="e" * 64), ChecksumMismatch, "damaged"),
    "a section too many": (lambda h: h.update(more=h["codes"]), BadHeader, "no others"),
    "a section too few": (lambda h: h.pop("half"), BadHeader, "no others"),
    "another type": (lambda h: h["half"].update(dtype="F32"), BadHeader, "dtype F16"),
    "a negative offset": (lambda h: h["single"].update(data_offsets=[-4, 236]), BadHeader, "valid shape and offsets"),
    "a gap": (lambda h: h["half"].update(data_offsets=[241, 501]), BadHeader, "elsewhere"),
    "an overlap": (lambda h: h["codes"].update(data_offsets=[0, 72]), BadHeader, "elsewhere"),
    "a huge section": (
        lambda h: h["program"].update(shape=[2**50], data_offsets=[584, 584 + 2**50]), Truncated, "lacks 11258999068"
    ),
    "a number as a flag": (lambda h: h["single"].update(shape=[True]), BadHeader, "valid shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(name: str) -> None:
    change, error, message = HEADERS[name]
    with pytest.raises(error, match=message):
        read_bytes(with_header(change))


@pytest.mark.parametrize("version", READABLE)
def test_older_versions_are_read(version: int) -> None:
    """Of those up to 4 the tuple in this program's `Affine` is a part."""
    data = with_header(lambda h: h["__metadata__"].update(version=str(version)))
    assert same(read_bytes(data), PROGRAM)


@pytest.mark.parametrize("text", [b"{", b'{"a":1,"a":2}', b"{" + b"[" * 9000, b'{"a":\xff}', b'{"a":NaN}', b"{}x"])
def test_headers_that_are_no_json(text: bytes) -> None:
    with pytest.raises(BadHeader, match="JSON is not valid"):
        read_bytes(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("name", "section", "kind"), [("norm.weight", "single", "<f4"), ("table", "half", "<f2")])
def test_tensors_that_are_no_numbers(name: str, section: str, kind: str, value: float, tmp_path: Path) -> None:
    """Refused when writing and when reading, with the tensor's name."""
    broken = PROGRAM.tensors[name].copy()
    broken.flat[0] = value
    with pytest.raises(BadProgram, match=f"'{name}' holds NaN or infinity"):
        write_program(replace(PROGRAM, tensors={**PROGRAM.tensors, name: broken}), tmp_path / "x.bitsr")
    assert not list(tmp_path.iterdir())
    good, bad = (tensor.astype(kind).tobytes() for tensor in (PROGRAM.tensors[name], broken))
    content = sections_of(DATA)[section]
    assert content.count(good) == 1
    with pytest.raises(BadProgram, match=f"'{name}' holds NaN or infinity"):
        read_bytes(with_sections(**{section: content.replace(good, bad)}))


def test_programs_that_cannot_be_read_back_are_not_written() -> None:
    codes = {**PROGRAM.tensors, "qkv.codes": np.full((12, 4), 8, np.uint8)}
    for program, message in (
        (replace(PROGRAM, tensors=codes), "do not fit into 3 bits"),
        (replace(PROGRAM, tensors={**PROGRAM.tensors, "table": np.zeros((9, 2))}), "is float64"),
        (replace(PROGRAM, meta={"x": float("nan")}), "not plain data"),
        (replace(PROGRAM, meta={"x": object()}), "not plain data"),
        (replace(PROGRAM, steps=PROGRAM.steps[:-1]), "never written"),
    ):
        with pytest.raises(BadProgram, match=message):
            to_bytes(program)
