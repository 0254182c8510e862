"""`bitsr info`: what a checkpoint or a packed file holds, layer by layer.  Packed files need no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from bitsr.cli.console import Flag, emit_json, human_bytes, option, print_table
from bitsr.cli.models import load_checkpoint, need_file
from bitsr.descriptor import Descriptor
from bitsr.format import is_packed, read_program
from bitsr.program.counting import count_layers, parameters

SIDE = 128  # of the picture whose operations are counted, in LR pixels: whole windows of every network here


@dataclass(frozen=True)
class Layer:
    """One layer that multiplies.  ``bytes`` is counted: its weights at their bits, with scales, offsets and bias;
    16 and 32 bits are floating point.  ``macs`` and ``bit_ops`` are counted per LR pixel, for packed files: one
    multiplication is the product of its operands' bits, 32 x 32 in floating point."""

    name: str
    kind: str
    w_bits: float
    a_bits: int
    bytes: int
    macs: float | None = None
    bit_ops: float | None = None


def info(file: Annotated[Positional[Path], option("FILE")], /, *, json: Flag = False) -> int:
    """Say what a checkpoint or a packed file holds: network, scale, parameters, bytes, bits of each layer.

    Args:
        file: checkpoint or packed file
        json: print one JSON object
    """
    content = describe_packed(file) if is_packed(need_file(file)) else describe_checkpoint(file)
    if json:
        emit_json(content)
        return 0
    for key in ("file", "arch", "scale", "color", "tiling", "parameters"):
        print(f"{key:12} {content[key]}")
    print(f"{'size':12} {human_bytes(content['file_bytes'])} ({content['file_bytes']} bytes, measured)")
    compression = content["meta"].get("compression")
    if isinstance(compression, dict):
        shown = {key: value for key, value in compression.items() if key != "layer_bits"}  # which the tables show
        words = [f"{key}={value}" for key, value in shown.items() if value is not None]
        print(f"{'compressed':12} " + ", ".join(word if word.isprintable() else ascii(word) for word in words))
    counted = ("bytes", "macs", "bit_ops") if content["kind"] == "packed" else ("bytes",)
    print_table(("bits", "layers", *(HEADS[column] for column in counted)), totals(content["layers"], counted))
    columns = ("name", "kind", "w_bits", "a_bits", *counted)
    rows = [[_shown(layer[column]) for column in columns] for layer in content["layers"]]
    print_table(("layer", *columns[1:4], *(HEADS[column] for column in counted)), rows)
    return 0


HEADS = {"bytes": "bytes (counted)", "macs": "MACs per LR pixel", "bit_ops": "BitOps per LR pixel"}


def totals(layers: list[dict[str, Any]], counted: tuple[str, ...]) -> list[list[str]]:
    """[bits, number of layers, their sums of ``counted``] for each pair of bit widths that occurs."""
    found = sorted({(layer["w_bits"], layer["a_bits"]) for layer in layers})
    of_bits = {key: [layer for layer in layers if (layer["w_bits"], layer["a_bits"]) == key] for key in found}
    return [
        [f"W{w}A{a}", str(len(same)), *(_shown(sum(layer[column] for layer in same)) for column in counted)]
        for (w, a), same in of_bits.items()
    ]


def _shown(value: Any) -> str:
    """Operations without fractions, bits with theirs."""
    return f"{value:,.0f}" if isinstance(value, float) and value >= 100 else str(value)


def describe_packed(path: Path) -> dict[str, Any]:
    """The content of a packed file."""
    program = read_program(path)
    pixels = SIDE * SIDE
    layers = [
        Layer(c.name, c.kind, c.w_bits, c.a_bits, c.bytes, c.macs / pixels, c.bit_ops / pixels)
        for c in count_layers(program, SIDE, SIDE)
    ]
    return _content(path, "packed", program.descriptor, parameters(program), layers, dict(program.meta))


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, at the precision that it is stored in."""
    module = load_checkpoint(path)
    bits = stored_bits(path)
    layers = [
        Layer(name, type(layer).__name__.lower(), bits, 32, sum(p.numel() for p in layer.parameters()) * bits // 8)
        for name, layer in module.named_modules()
        if type(layer).__name__ in ("Linear", "Conv2d")
    ]
    return _content(path, "checkpoint", module.descriptor, sum(p.numel() for p in module.parameters()), layers, {})


def _content(
    path: Path, kind: str, descriptor: Descriptor, weights: int, layers: list[Layer], meta: dict[str, Any]
) -> dict[str, Any]:
    return {
        "file": str(path),
        "kind": kind,
        **asdict(descriptor),
        "parameters": weights,
        "file_bytes": path.stat().st_size,
        "layers": [asdict(layer) for layer in layers],
        "meta": meta,
    }


def stored_bits(path: Path) -> int:
    """16 where the largest tensor of a safetensors file is fp16 or bf16; else 32."""
    if path.suffix != ".safetensors":
        return 32
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        tensors = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118 (no iterator)
        weights = [tensor for tensor in tensors if "F" in tensor.get_dtype()]
        largest = max(weights, key=lambda tensor: math.prod(tensor.get_shape()), default=None)
        return 16 if largest is not None and largest.get_dtype() in ("F16", "BF16") else 32
