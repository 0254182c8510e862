"""Packed file -> program, trusting nothing.

Sizes are checked against the bytes at hand before anything is allocated, and the checksum before anything is inflated;
what then comes out of the JSON is built from a closed list of types and checked as a whole.  Every failure is a named
:class:`bitsr.errors.PackedFileError`.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.errors import PackedFileError
from bitsr.format.errors import BadHeader, BadMagic, BadProgram, ChecksumMismatch, Truncated, UnsupportedVersion
from bitsr.format.layout import (
    HEADER_LIMIT,
    ITEM_SIZES,
    MAGIC,
    READABLE,
    SECTIONS,
    TENSOR_TYPES,
    VERSION,
    digest_with,
    inflated_limit,
)  # fmt: skip
from bitsr.format.records import descriptor_from_json, step_from_json
from bitsr.program.packing import packed_size, unpack
from bitsr.program.program import Program
from bitsr.program.validate import MAX_STEPS, MAX_TENSORS, check_program


def read_program(path: str | Path) -> Program:
    """Read a packed file.

    Raises:
        PackedFileError: the file cannot be read, is damaged or not a packed file; the subclass says which.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PackedFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return read_bytes(data)
    except PackedFileError as error:
        raise type(error)(f"{path}: {error}") from None


def read_bytes(data: bytes) -> Program:
    """The program in the content of a packed file; its floating-point tensors are read-only views of ``data``."""
    sections = _sections(data)
    content = _parse(_inflate(sections["program"]), BadProgram)
    expected = {"descriptor", "input", "output", "channels", "steps", "tensors", "meta"}
    if not isinstance(content, dict) or set(content) != expected:
        raise BadProgram(f"the program must have the fields {', '.join(sorted(expected))} and no others")
    for field, kind in (("input", str), ("output", str), ("channels", int), ("steps", list), ("meta", dict)):
        if type(content[field]) is not kind:
            raise BadProgram(f"{field!r} must be of type {kind.__name__}")
    if len(content["steps"]) > MAX_STEPS:
        raise BadProgram(f"{len(content['steps'])} steps, at most {MAX_STEPS}")
    program = Program(
        steps=tuple(step_from_json(step) for step in content["steps"]),
        tensors=_tensors(content["tensors"], sections),
        descriptor=descriptor_from_json(content["descriptor"]),
        input=content["input"],
        output=content["output"],
        channels=content["channels"],
        meta=content["meta"],
    )
    check_program(program)
    return program


def _sections(data: bytes) -> dict[str, memoryview]:
    """The container's sections, after its structure, version and checksum have been found right."""
    if len(data) < 8:
        raise Truncated(f"the file ends after {len(data)} bytes, get it again")
    (length,) = struct.unpack_from("<Q", data)
    if length > HEADER_LIMIT or data[8:9] not in (b"{", b""):
        raise BadMagic("this is not a packed file of bitsr; a checkpoint is read by bitsr.load")
    if len(data) < 8 + length:
        raise Truncated(f"the file ends in its header, after {len(data)} bytes, get it again")
    header = _parse(data[8 : 8 + length], BadHeader)
    digest = _digest(header)
    sections = _tiles(header, memoryview(data)[8 + length :])
    place = data.find(digest.encode(), 8, 8 + length)
    if place < 0 or digest_with(data, place) != digest:
        raise ChecksumMismatch("the checksum does not match: the file is damaged, get it again")
    return sections


def _digest(header: Any) -> str:
    """The checksum that the metadata promise; magic and version are checked on the way."""
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != MAGIC:
        raise BadMagic("this is a safetensors file, but not a packed file of bitsr")
    version, digest = metadata.get("version"), metadata.get("sha256")
    if version not in [str(number) for number in READABLE]:
        shown = ascii(version)[:20]
        raise UnsupportedVersion(
            f"the file has version {shown}, this bitsr reads versions up to {VERSION}; update bitsr"
        )
    if set(metadata) != {"format", "version", "sha256"} or not isinstance(digest, str) or len(digest) != 64:
        raise BadHeader("the metadata must be format, version and sha256")
    if not digest.isascii():
        raise BadHeader("the checksum is no hexadecimal number")
    return digest


def _tiles(header: dict[str, Any], buffer: memoryview) -> dict[str, memoryview]:
    """The sections, which must lie in order and fill the buffer without a gap."""
    if set(header) != {"__metadata__", *SECTIONS}:
        raise BadHeader(f"the header must name the sections {', '.join(SECTIONS)} and no others")
    start, sections = 0, {}
    for name, dtype in SECTIONS.items():
        entry = header[name]
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"} or entry["dtype"] != dtype:
            raise BadHeader(f"section {name!r} must have dtype {dtype}, shape and data_offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not (_naturals(shape, 1) and _naturals(offsets, 2)):
            raise BadHeader(f"section {name!r} has no valid shape and offsets")
        end = start + shape[0] * ITEM_SIZES[dtype]
        if offsets != [start, end]:
            raise BadHeader(f"section {name!r} lies elsewhere than its neighbours leave room")
        sections[name] = buffer[start:end]
        start = end
    if start > len(buffer):
        raise Truncated(f"the file lacks {start - len(buffer)} bytes at its end, get it again")
    if start < len(buffer):
        raise BadHeader(f"{len(buffer) - start} bytes after the last section")
    return sections


def _inflate(packed: memoryview) -> bytes:
    inflater, limit = zlib.decompressobj(), inflated_limit(len(packed))
    try:
        text = inflater.decompress(packed, limit)
    except zlib.error as error:
        raise BadProgram(f"the program cannot be inflated: {error}") from None
    if not inflater.eof or inflater.unconsumed_tail or inflater.unused_data:
        raise BadProgram(f"the program is cut off, inflates to more than {limit} bytes, or has bytes after it")
    return text


def _parse(text: bytes, error: type[PackedFileError]) -> Any:
    """JSON without duplicate keys, NaN or infinity."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number")

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as problem:
        raise error(f"the JSON is not valid: {str(problem)[:100]}") from None


def _tensors(table: Any, sections: dict[str, memoryview]) -> dict[str, NDArray[Any]]:
    """The tensors in the order of the table, which must use up the three sections exactly."""
    if not isinstance(table, list) or len(table) > MAX_TENSORS:
        raise BadProgram(f"'tensors' must be a list of at most {MAX_TENSORS}")
    tensors: dict[str, NDArray[Any]] = {}
    position = dict.fromkeys(TENSOR_TYPES, 0)
    for entry in table:
        name, section, shape, bits = _entry(entry)
        if name in tensors:
            raise BadProgram(f"tensor {name[:60]!r} occurs twice")
        start, count, dtype = position[section], math.prod(shape), TENSOR_TYPES[section]
        end = start + (packed_size(count, bits) if section == "codes" else count * dtype.itemsize)
        if end > len(sections[section]):
            raise BadProgram(f"tensor {name[:60]!r} goes beyond the end of its section")
        raw = sections[section][start:end]
        values = unpack(raw, bits, count) if section == "codes" else np.frombuffer(raw, dtype)
        tensors[name], position[section] = values.reshape(shape), end
    for section, end in position.items():
        if end != len(sections[section]):
            raise BadProgram(f"section {section!r} holds {len(sections[section]) - end} bytes that no tensor claims")
    return tensors


def _entry(entry: Any) -> tuple[str, str, list[int], int]:
    """(name, section, shape, bits) of a line of the table; floating-point tensors get the bits of their type."""
    if not isinstance(entry, list) or len(entry) not in (3, 4) or not isinstance(entry[0], str):
        raise BadProgram("a tensor must be [name, section, shape] or [name, 'codes', shape, bits]")
    name, section, shape = entry[:3]
    packed = isinstance(section, str) and section == "codes"
    if not isinstance(section, str) or section not in TENSOR_TYPES or len(entry) != (4 if packed else 3):
        raise BadProgram(f"tensor {name[:60]!r} is in no section, or has bits where it should not")
    if not (isinstance(shape, list) and 1 <= len(shape) <= 4 and _naturals(shape, len(shape)) and min(shape) > 0):
        raise BadProgram(f"tensor {name[:60]!r} has no valid shape")
    bits = entry[3] if packed else 8 * TENSOR_TYPES[section].itemsize
    if packed and not (_naturals([bits], 1) and 1 <= bits <= 8):
        raise BadProgram(f"tensor {name[:60]!r} must have 1..8 bits")
    return name, section, shape, bits


def _naturals(value: Any, count: int) -> bool:
    """Whether ``value`` is a list of ``count`` whole numbers 0..2**53."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x <= 2**53 for x in value)
    )
