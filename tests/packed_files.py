"""A small packed file, and ways to make it lie under a valid checksum."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from bitsr.descriptor import Descriptor
from bitsr.errors import BitsrError, PackedFileError
from bitsr.format import read_bytes, to_bytes
from bitsr.format.layout import digest_with
from bitsr.format.writer import container
from bitsr.program import steps
from bitsr.program.program import Program
from bitsr.program.reference import run
from bitsr.program.steps import PackedWeight, Quantizer

Change = Callable[[dict[str, Any]], object]


def small_program() -> Program:
    """Nearly every kind of step and field, about 2.5 KB: a quantized window transformer that doubles the size."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, dtype: Any = np.float32) -> Any:
        return rng.normal(0, 0.3, shape).astype(dtype)

    grid, fine = Quantizer(4, -0.5, 0.125), Quantizer(8, 0.0, 0.00390625)
    body = (
        steps.Affine("centred", "input", "stretch", (-0.5, -0.25, 0.5)),
        steps.Pad("padded", "centred", 2),
        steps.Conv2d("first", "padded", "first.weight", "first.bias", padding=1),
        steps.LayerNorm("norm", "first", "norm.weight", "norm.bias"),
        steps.Linear("qkv", "norm", PackedWeight("qkv.codes", "qkv.scale", 3, "qkv.mid"), "qkv.bias", grid, "qkv.by"),
        steps.WindowAttention("attended", "qkv", "table", 2, 2, 1, 0.7, grid, grid, fine, grid),
        steps.Add("sum", "first", "attended"),
        steps.Activation("active", "sum", "leaky_relu", 0.1),
        steps.GlobalPool("mean", "active", "std"),
        steps.Mul("gated", "active", "mean"),
        steps.MaxPool("pooled", "gated", 2, 1),
        steps.Resize("wide", "pooled", "bilinear", like="gated"),
        steps.Concat("both", ("gated", "wide")),
        steps.Slice("half", "both", 2, 6),
        steps.Conv2d("last", "half", PackedWeight("last.codes", "last.scale", 2), padding=1, groups=2, quantizer=grid),
        steps.PixelShuffle("shuffled", "last", 2),
        steps.Crop("output", "shuffled", "input", 2),
    )
    tensors = {
        "stretch": np.float32([2.0, 2.0, 1.5]),
        "first.weight": normal(4, 3, 3, 3, dtype=np.float16), "first.bias": normal(4, dtype=np.float16),
        "norm.weight": normal(4), "norm.bias": normal(4), "table": normal(9, 2, dtype=np.float16),
        "qkv.codes": rng.integers(0, 8, (12, 4), np.uint8), "qkv.scale": normal(12), "qkv.mid": normal(12),
        "qkv.bias": normal(12), "qkv.by": normal(4),
        "last.codes": rng.integers(0, 4, (12, 3, 3, 2), np.uint8), "last.scale": normal(12),
    }  # fmt: skip
    descriptor = Descriptor("tiny", 2, min_size=2, tiling="global", reach=4)
    meta = {"bitsr": "0", "compression": {"method": "HarmoQ", "bits": [3, 4], "x": None}}
    return Program(body, tensors, descriptor, output="output", meta=meta)


PROGRAM = small_program()
DATA = to_bytes(PROGRAM)
PICTURE = np.random.default_rng(1).random((5, 4, 3), dtype=np.float32)


def header_of(data: bytes) -> dict[str, Any]:
    return json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]])


def sections_of(data: bytes) -> dict[str, bytes]:
    start = 8 + struct.unpack_from("<Q", data)[0]
    entries = {name: entry["data_offsets"] for name, entry in header_of(data).items() if name != "__metadata__"}
    return {name: data[start + a : start + b] for name, (a, b) in entries.items()}


def content_of(data: bytes) -> dict[str, Any]:
    return json.loads(zlib.decompress(sections_of(data)["program"]))


def with_header(change: Change) -> bytes:
    """The small file with another header and a valid checksum where the header still has a place for it."""
    header = header_of(DATA)
    change(header)
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + b"".join(sections_of(DATA).values())
    digest = header_of(DATA)["__metadata__"]["sha256"].encode()
    place = data.find(digest)
    return data if place < 0 else data[:place] + digest_with(data, place).encode() + data[place + 64 :]


def with_sections(**changed: bytes) -> bytes:
    """The small file with other sections and a valid checksum."""
    return container(sections_of(DATA) | changed)


def with_content(content: Any) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return with_sections(program=zlib.compress(text))


def changed(change: Change) -> bytes:
    """The small file after ``change`` of the program's JSON."""
    content = content_of(DATA)
    change(content)
    return with_content(content)


def same(a: Program, b: Program) -> bool:
    equal = replace(a, tensors={}) == replace(b, tensors={}) and list(a.tensors) == list(b.tensors)
    return equal and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a.tensors.values(), b.tensors.values(), strict=True)
    )


def outcome(data: bytes) -> Program | None:
    """The program, which then must run (or refuse the picture by name); None for a named error."""
    try:
        program = read_bytes(data)
    except PackedFileError as error:
        assert type(error) is not PackedFileError and str(error).isprintable() and len(str(error)) < 500
        return None
    with np.errstate(all="ignore"), suppress(BitsrError):
        run(program, PICTURE)
    return program
