"""Bytes, multiplications and bit operations, counted by hand for one small program."""

from __future__ import annotations

from dataclasses import replace

from bitsr.program.counting import FLOAT_BITS, cost, count_layers, parameters, tensor_bytes
from bitsr.program.steps import WindowAttention
from packed_files import DATA, PROGRAM, sections_of


def test_bytes_of_tensors_are_those_in_the_file() -> None:
    sizes = {name: len(content) for name, content in sections_of(DATA).items()}
    assert sum(tensor_bytes(PROGRAM).values()) == sizes["single"] + sizes["half"] + sizes["codes"]


def test_layers_are_counted() -> None:
    layers = {layer.name: layer for layer in count_layers(PROGRAM, 4, 6)}
    assert list(layers) == ["first", "qkv", "attended", "last"]
    assert [(layer.w_bits, layer.a_bits) for layer in layers.values()] == [(16, 32), (3, 4), (16, 4), (2, 4)]
    assert [layer.bytes for layer in layers.values()] == [224, 18 + 4 * 12 * 3 + 16, 36, 54 + 48]
    pixels = 4 * 6
    assert [layer.macs for layer in layers.values()] == [108 * pixels, 48 * pixels, 2 * 4 * 4 * pixels, 216 * pixels]
    bit_ops = [108 * 1024, 48 * 3 * 4, 16 * 4 * 4 + 16 * 8 * 4, 216 * 2 * 4]
    assert [layer.bit_ops for layer in layers.values()] == [n * pixels for n in bit_ops]
    assert cost(PROGRAM, 4, 6).macs == 108 + 48 + 32 + 216
    assert cost(PROGRAM, 4, 6).bit_ops == sum(bit_ops)
    assert cost(PROGRAM, 3, 5).macs > cost(PROGRAM, 4, 6).macs  # padded to windows


def test_a_scale_per_query_is_one_multiplication_of_each_output() -> None:
    scaled = tuple(replace(s, row_scale=True) if isinstance(s, WindowAttention) else s for s in PROGRAM.steps)
    program = replace(PROGRAM, steps=scaled)
    assert cost(program, 4, 6).bit_ops - cost(PROGRAM, 4, 6).bit_ops == 4 * FLOAT_BITS**2


def test_parameters_leave_out_what_quantization_added() -> None:
    assert parameters(PROGRAM) == 3 + 108 + 4 + 8 + 48 + 12 + 18 + 216
