"""Programs that nobody would write, under a valid checksum: each gives `BadProgram`, whatever is wrong with it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bitsr.descriptor import Descriptor
from bitsr.format import BadProgram, read_bytes, to_bytes
from bitsr.program import steps
from bitsr.program.program import Program
from bitsr.program.steps import PackedWeight, Quantizer
from packed_files import (
    DATA,
    PROGRAM,
    Change,
    changed,
    content_of,
    outcome,
    same,
    sections_of,
    with_content,
    with_sections,
)


def step(name: str, /, **values: Any) -> Change:
    """Set fields of the step that writes the map ``name``."""
    return lambda c: next(s for s in c["steps"] if s["output"] == name).update(values)


def weight(name: str, /, **values: Any) -> Change:
    return lambda c: next(s for s in c["steps"] if s["output"] == name)["weight"].update(values)


def tensor(name: str, /, **values: Any) -> Change:
    index = {"name": 0, "section": 1, "shape": 2, "bits": 3}

    def change(content: dict[str, Any]) -> None:
        entry = next(t for t in content["tensors"] if t[0] == name)
        for key, value in values.items():
            entry[index[key]] = value

    return change


def instead_of_wide(**values: Any) -> Change:
    """Put another step in the place of the one that writes the map "wide"."""
    return lambda c: c["steps"].__setitem__(11, {"output": "wide"} | values)


def quantizer(**values: Any) -> Change:
    return step("last", quantizer={"bits": 4, "lower": -0.5, "step": 0.125} | values)


HOSTILE: dict[str, tuple[Change, str]] = {
    "a list": (lambda c: c.update(steps={}), "'steps' must be of type list"),
    "an unknown field": (lambda c: c.update(code="import os"), "no others"),
    "no steps": (lambda c: c.update(steps=[]), "0 steps"),
    "a step that is a word": (lambda c: c["steps"].append("Add"), "a step must be an object"),
    "an unknown step": (step("sum", step="Exec"), "unknown step 'Exec'"),
    "a class that is no step": (step("sum", step="Step"), "unknown step 'Step'"),
    "an unknown step field": (step("sum", c="a"), "Add: unknown field 'c'"),
    "a missing field": (lambda c: c["steps"][6].pop("a"), "Add: missing field 'a'"),
    "a name that is a number": (step("sum", a=1), r"Add\.a: expected a string"),
    "a flag for a number": (step("first", stride=True), r"Conv2d\.stride: expected a whole number"),
    "a fraction for a number": (step("first", stride=1.5), r"Conv2d\.stride: expected a whole number"),
    "an unknown activation": (step("active", function="eval"), r"Activation\.function: expected one of relu"),
    "use before definition": (step("norm", x="sum"), "'norm'.* reads 'sum', which does not exist at that point"),
    "a map from itself": (step("norm", x="norm"), "reads 'norm', which does not exist"),
    "a cycle": (lambda c: (step("norm", x="qkv")(c), step("qkv", x="norm")(c)), "reads 'qkv', which does not exist"),
    "a map written twice": (step("norm", output="first"), "that map exists already"),
    "the input overwritten": (step("norm", output="input"), "that map exists already"),
    "an output that nothing writes": (lambda c: c.update(output="z"), "'z' is never written"),
    "an output of another size": (lambda c: c.update(output="sum"), r"becomes \(2, 2, 4\), not \(4, 4, 3\)"),
    "a name with escapes": (step("norm", output="\x1b[2J"), "a name of 4 letters"),
    "an endless name": (lambda c: c["descriptor"].update(arch="x" * 501), "a name of 501 letters"),
    "a negative stride": (step("first", stride=-1), "stride is -1, not in 1..16"),
    "no stride": (step("pooled", stride=0), "stride is 0"),
    "a negative padding": (step("first", padding=-1), "padding is -1"),
    "a huge padding": (step("first", padding=2**40), "padding is 1099511627776"),
    "a huge number": (step("first", padding=10**30), "whole number, got a huge number"),
    "groups that do not divide": (step("last", groups=5), "12 filters are no 5 groups"),
    "no groups": (step("last", groups=0), "groups is 0"),
    "a huge factor": (step("shuffled", factor=2**20), "factor is 1048576"),
    "magnification after magnification": (
        lambda c: c["steps"].extend({"step": "Resize", "output": f"r{i}", "x": f"r{i - 1}" if i else "sum",
                                     "mode": "nearest", "factor": 16} for i in range(9)),
        "a map out of proportion",
    ),
    "channels without end": (
        lambda c: c["steps"].extend({"step": "Concat", "output": f"c{i}", "inputs": [f"c{i - 1}" if i else "sum"] * 9}
                                    for i in range(9)),
        "a map out of proportion",
    ),
    "a cut beyond the picture": (step("output", factor=3), "cannot be cut out of"),
    "a slice beyond the channels": (step("half", stop=9), r"channels 2\.\.8 of 8"),
    "an empty slice": (step("half", start=6), r"channels 6\.\.5"),
    "a negative slice": (step("half", start=-1), "start is -1"),
    "a pool larger than the map": (step("pooled", kernel=64), "nothing is left"),
    "sums of different sizes": (instead_of_wide(step="Add", a="pooled", b="gated"), "1x1x4 and 2x2x4 differ"),
    "products of different sizes": (instead_of_wide(step="Mul", a="pooled", b="gated"), "cannot be multiplied"),
    "nothing to concatenate": (step("both", inputs=[]), "no inputs"),
    "heads that do not divide": (step("attended", heads=5), "bias table"),
    "a huge window": (step("attended", window=2**16), "window is 65536"),
    "another window": (step("attended", window=3), "bias table has the shape"),
    "a shift of a window": (step("attended", shift=2), r"shift 2 is not in 0\.\.1"),
    "windows that do not fit": (step("padded", multiple=3), "no multiple of the window"),
    "a margin below 0": (
        lambda c: (step("attended", step="OverlappingAttention", margin=-1)(c),
                   next(s for s in c["steps"] if s["output"] == "attended").pop("shift", None)),
        "margin is -1",
    ),
    "a bias table for no margin": (
        lambda c: (step("attended", step="OverlappingAttention", margin=1)(c),
                   next(s for s in c["steps"] if s["output"] == "attended").pop("shift", None)),
        r"bias table has the shape .* not \(25, 2\)",
    ),
    "a scale per query of no codes": (
        step("attended", row_scale=True, v=None), "row_scale needs the quantizers of attention and v"
    ),
    "eps 0": (step("norm", eps=0.0), "eps is 0"),
    "a vector of another length": (step("centred", shift=[1.0, 2.0]), "a vector of"),
    "an infinite scale": (step("centred", scale=float("inf")), "JSON is not valid: Infinity"),
    "a scale that is not a number": (lambda c: c["meta"].update(x=float("nan")), "JSON is not valid: NaN"),
    "1 bit": (quantizer(bits=1), "the quantizer has 1 bits"),
    "9 bits": (quantizer(bits=9), "the quantizer has 9 bits"),
    "a step of 0": (quantizer(step=0.0), "has the step 0"),
    "a negative step": (quantizer(step=-0.125), "has the step -0.125"),
    "a step that is no float32": (quantizer(step=0.1), "no float32 numbers"),
    "a step beyond float32": (quantizer(step=1e300), "no float32 numbers"),
    "a lower bound far away": (quantizer(lower=-(2.0**40)), "no code for zero|too far from zero"),
    "a grid without zero": (quantizer(lower=-0.4375), "no code for zero"),
    "a grid above zero": (quantizer(lower=0.5), "no code for zero"),
    "weights of 9 bits": (tensor("qkv.codes", bits=9), r"must have 1\.\.8 bits"),
    "bits that differ": (weight("qkv", bits=2), "do not fit into 2 bits"),
    "a codes tensor with two widths": (
        lambda c: c["steps"].append({"step": "Linear", "output": "z", "x": "first", "weight": {
            "codes": "qkv.codes", "scale": "qkv.scale", "bits": 4}}),
        "'qkv.codes' is used with 3 and with 4 bits",
    ),
    "a convolution with a matrix": (
        lambda c: (weight("last", bits=3)(c), weight("last", codes="qkv.codes")(c)), "not out x height x width x in"
    ),
    "a linear layer with filters": (step("qkv", weight="first.weight"), "not out x in"),
    "no such tensor": (weight("qkv", codes="w"), "there is no tensor 'w'"),
    "codes for numbers": (step("first", weight="qkv.codes"), "holds codes, not numbers"),
    "numbers for codes": (weight("qkv", codes="first.weight"), "are float16"),
    "a scale too short": (weight("qkv", scale="qkv.by"), r"scale has the shape \(4,\), not \(12,\)"),
    "a bias too long": (step("first", bias="qkv.bias"), r"bias has the shape \(12,\), not \(4,\)"),
    "an unused tensor": (step("first", bias=None), "'first.bias' is used by no step"),
    "another shape": (tensor("qkv.codes", shape=[4, 12]), "scale has the shape"),
    "a huge shape": (tensor("qkv.codes", shape=[2**26, 2**26]), "goes beyond the end"),
    "a shape of many dimensions": (tensor("qkv.codes", shape=[1] * 40), "no valid shape"),
    "a negative shape": (tensor("qkv.codes", shape=[-12, -4]), "no valid shape"),
    "an empty tensor": (tensor("qkv.codes", shape=[0, 4]), "no valid shape"),
    "a smaller tensor": (tensor("qkv.bias", shape=[11]), "no tensor claims"),
    "a name twice": (tensor("qkv.bias", name="qkv.by"), "occurs twice"),
    "another section": (tensor("qkv.bias", section="program"), "in no section"),
    "bits of a float": (lambda c: c["tensors"][0].append(8), "in no section, or has bits"),
    "a tensor that is a word": (lambda c: c["tensors"].append("x"), "a tensor must be"),
    "channels of another colour": (lambda c: c.update(channels=4), "4 channels are not 'rgb'"),
    "a flag for channels": (lambda c: c.update(channels=True), "'channels' must be of type int"),
    "an unknown colour": (lambda c: c["descriptor"].update(color="cmyk"), r"Descriptor\.color: expected one of rgb"),
    "scale 0": (lambda c: c["descriptor"].update(scale=0), "scale must be an integer >= 1"),
    "another scale": (lambda c: c["descriptor"].update(scale=3), "not"),
    "a huge scale": (lambda c: c["descriptor"].update(scale=10**6), "scale is 1000000, at most 16"),
    "a huge smallest size": (lambda c: c["descriptor"].update(min_size=2**31), "min_size is 2147483648"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs(name: str) -> None:
    change, message = HOSTILE[name]
    with pytest.raises(BadProgram, match=message):
        read_bytes(changed(change))


def test_sums_beyond_32_bits_are_refused() -> None:
    wide = steps.Conv2d("wide", "input", "w")
    grid = Quantizer(8, 0.0, 0.5)
    large = steps.Conv2d("large", "wide", PackedWeight("c", "s", 8), padding=32, quantizer=grid)
    output = steps.Resize("output", "large", "nearest", like="input")
    tensors = {
        "w": np.ones((17, 1, 1, 3), np.float32), "c": np.zeros((3, 64, 64, 17), np.uint8), "s": np.ones(3, np.float32),
    }  # fmt: skip
    program = Program((wide, large, output), tensors, Descriptor("wide", 1), output="output")
    with pytest.raises(BadProgram, match="'large'.*sums may exceed 32 bits"):
        to_bytes(program)
    to_bytes(replace(program, steps=(wide, replace(large, quantizer=replace(grid, bits=7)), output)))
    tensors["c"] = np.zeros((3, 65, 1, 17), np.uint8)
    with pytest.raises(BadProgram, match="the kernel is 65x1"):
        to_bytes(program)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from places(value[key])


def test_any_value_anywhere_in_the_program_does_no_harm() -> None:
    content = content_of(DATA)
    strange = [None, True, -1, 0, 7, 2**31, 2**70, -0.0, 1e-300, 1e300, "", "input", "qkv.codes", [], ["input"], {}]
    accepted = 0
    for holder, key in list(places(content)):
        before = holder[key]
        for value in strange:
            holder[key] = value
            accepted += outcome(with_content(content)) is not None
        holder[key] = before
    assert same(read_bytes(with_content(content)), PROGRAM)
    assert accepted > 0  # meta is free, and some numbers may be others


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"[" * 50_000, b'"\xff"', b"1" * 5000, b'{"a":1,"a":1}'])
def test_programs_that_are_no_such_json(text: bytes) -> None:
    with pytest.raises(BadProgram):
        read_bytes(with_content(text))


def test_a_deflate_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(b" " * (1 << 26), 9)
    with pytest.raises(BadProgram, match="inflates to more than"):
        read_bytes(with_sections(program=bomb))
    packed = sections_of(DATA)["program"]
    for content in (packed[:-1], packed + b"\0", b"no zlib"):
        with pytest.raises(BadProgram):
            read_bytes(with_sections(program=content))
