"""Program -> packed file.  The same program gives the same bytes (with the same zlib)."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from bitsr.data.files import write_atomically
from bitsr.format.layout import ITEM_SIZES, MAGIC, NO_DIGEST, SECTIONS, VERSION, digest_with, inflated_limit
from bitsr.format.records import step_to_json
from bitsr.program.packing import pack
from bitsr.program.program import Program
from bitsr.program.validate import BadProgram, check_program, packed_bits

_SECTION_OF = {np.dtype(np.float32): "single", np.dtype(np.float16): "half", np.dtype(np.uint8): "codes"}


def write_program(program: Program, path: str | Path) -> None:
    """Write ``program`` as a packed file; it appears whole or not at all.

    Raises:
        BadProgram: the program contradicts itself, or a tensor holds NaN or infinity; the text names it.
        OSError: the file cannot be written.
    """
    write_atomically(path, to_bytes(program))


def to_bytes(program: Program) -> bytes:
    """The content of the packed file."""
    check_program(program)
    bits = packed_bits(program)
    sections: dict[str, list[bytes]] = {name: [] for name in SECTIONS}
    table: list[list[Any]] = []
    for name, tensor in program.tensors.items():
        section = _SECTION_OF[tensor.dtype]
        if section == "codes":
            sections[section].append(pack(tensor, bits[name]))
            table.append([name, section, list(tensor.shape), bits[name]])
        else:
            sections[section].append(np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<")).tobytes())
            table.append([name, section, list(tensor.shape)])
    sections["program"].append(_deflated(program, table))
    return container({name: b"".join(parts) for name, parts in sections.items()})


def _deflated(program: Program, table: list[list[Any]]) -> bytes:
    content = {
        "descriptor": program.descriptor.to_dict(),
        "input": program.input,
        "output": program.output,
        "channels": program.channels,
        "steps": [step_to_json(step) for step in program.steps],
        "tensors": table,
        "meta": dict(program.meta),
    }
    try:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadProgram(f"the program is not plain data: {error}") from None
    packed = zlib.compress(text, 9)
    if len(text) > inflated_limit(len(packed)):
        raise BadProgram(f"the program takes {len(text)} bytes as JSON, at most {inflated_limit(len(packed))}")
    return packed


def container(sections: dict[str, bytes]) -> bytes:
    """The file around the sections, with its checksum."""
    header: dict[str, Any] = {"__metadata__": {"format": MAGIC, "version": str(VERSION), "sha256": NO_DIGEST}}
    start = 0
    for name, content in sections.items():
        shape = [len(content) // ITEM_SIZES[SECTIONS[name]]]
        header[name] = {"dtype": SECTIONS[name], "shape": shape, "data_offsets": [start, start + len(content)]}
        start += len(content)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + b"".join(sections.values())
    place = data.index(NO_DIGEST.encode())
    return data[:place] + digest_with(data, place).encode() + data[place + 64 :]
