"""ONNX against the reference interpreter: every step and every network, floating-point and quantized, any size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsr.cli.main import main
from bitsr.descriptor import Descriptor
from bitsr.errors import BitsrError, ConfigError
from bitsr.export import write
from bitsr.export.floating import floating
from bitsr.export.write import compare, export, graph_runner, to_onnx
from bitsr.format import write_program
from bitsr.program import steps
from bitsr.program.program import Program
from bitsr.program.reference import run
from bitsr.program.steps import BinaryWeight, PackedWeight, Quantizer, Step
from packed_files import PROGRAM

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from bitsr.lowering import lower  # noqa: E402
from small_files import write_checkpoint  # noqa: E402
from tiny import BITS, NETWORKS, assert_close, make, quantize_roughly  # noqa: E402

SIZES = [(2, 2), (3, 7), (8, 8), (13, 9)]
GRID, OFF_GRID = Quantizer(8, -0.75, 0.0078125), Quantizer(4, -0.6875, 0.109375)


def agree(program: Program, sizes: list[tuple[int, int]], share: float = 1e-5) -> None:
    """One graph gives the program's result for pictures of every size."""
    _, graph = graph_runner(to_onnx(program).SerializeToString())
    for height, width in sizes:
        x = np.random.default_rng(height).random((height, width, program.channels), np.float32)
        assert_close(graph(x.transpose(2, 0, 1)[None])[0].transpose(1, 2, 0), run(program, x), share)


def program_of(*body: Step, scale: int = 1, **tensors: Any) -> Program:
    arrays = {name.replace("__", "."): np.asarray(value) for name, value in tensors.items()}
    return Program(body, arrays, Descriptor("test", scale, min_size=2), output=body[-1].output)


def normal(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(0, 0.4, shape).astype(np.float32)


# ---- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["linear", "linear with scales of tokens", "convolution"])
def test_layers_of_signs(layer: str) -> None:
    rng = np.random.default_rng(0)
    weight = BinaryWeight("w", "s", (4, 4), 2, 4)
    shape = (3, 3, 3, 2) if layer == "convolution" else (3, 2)
    tensors = {"w": rng.integers(0, 24, shape, np.uint8), "s": normal(3, 2), "t": normal(8) + 0.5, "b": normal(3)}
    made: Step = steps.BinaryLinear("y", "some", weight, "t", "b", token_scale="scales" in layer)
    if layer == "convolution":
        made = steps.BinaryConv2d("y", "some", weight, "t", "b", padding=1)
    wide = steps.Concat("wide", ("input", "input", "input")), steps.Slice("some", "wide", 0, 8)
    program = program_of(*wide, made, **tensors)
    agree(program, SIZES)
    assert floating(program).steps == program.steps


def test_layers_of_few_weights() -> None:
    few = steps.SparseLinear("y", "input", "v", "p", 3, 3)
    program = program_of(few, v=normal(3), p=np.array([[1, 0, 0], [3, 0, 0], [8, 0, 0]], np.uint8))
    agree(program, SIZES)
    assert floating(program).steps == program.steps


def test_a_quantized_transformer_of_nearly_every_step() -> None:
    agree(PROGRAM, SIZES, 1e-4)  # its 4-bit softmax map is full of near ties


@pytest.mark.parametrize("function", ["relu", "leaky_relu", "gelu", "sigmoid", "tanh", "clip", "softplus"])
def test_activations(function: Any) -> None:
    centred = steps.Affine("centred", "input", 6.0, -3.0)
    agree(program_of(centred, steps.Activation("y", "centred", function, 0.2)), SIZES)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [2, 3])
def test_resizing(mode: Any, factor: int) -> None:
    agree(program_of(steps.Resize("y", "input", mode, factor), scale=factor), [*SIZES, (7, 5)])
    wide = steps.Resize("wide", "input", "bicubic", factor)
    pooled = steps.MaxPool("pooled", "wide", 3, 1)
    agree(program_of(wide, pooled, steps.Resize("y", "pooled", mode, like="input")), [*SIZES, (7, 5)], 1e-4)


def test_pixels_become_channels_and_slopes_are_per_channel() -> None:
    body = (
        steps.Pad("wide", "input", 3), steps.Affine("centred", "wide", 6.0, -3.0),
        steps.PixelUnshuffle("deep", "centred", 3), steps.PReLU("active", "deep", "s"),
        steps.PixelShuffle("back", "active", 3), steps.Crop("cut", "back", "input"),
        steps.Linear("tokens", "cut", "w"), steps.PReLU("y", "tokens", "t"),
    )  # fmt: skip
    agree(program_of(*body, s=normal(27), w=normal(3, 3), t=normal(3)), SIZES)


def test_bicubic_of_another_slope() -> None:
    agree(program_of(steps.Resize("y", "input", "bicubic", 2, a=-0.5), scale=2), SIZES)


@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize("codes", [False, True, "a scale per query"])
def test_overlapping_attention(codes: bool | str, margin: int) -> None:
    operands: dict[str, Any] = {}
    if codes:
        operands = {"q": OFF_GRID, "k": GRID, "attention": Quantizer(8, 0.0, 1 / 256), "v": GRID}
        operands["row_scale"] = codes == "a scale per query"
    body = (
        steps.Pad("wide", "input", 4), steps.Linear("qkv", "wide", "w"),
        steps.OverlappingAttention("seen", "qkv", "t", 2, 4, margin, 0.5, **operands),
        steps.Linear("z", "seen", "v"), steps.Crop("y", "z", "input"),
    )  # fmt: skip
    tables = {"w": normal(24, 3), "v": normal(3, 8), "t": normal((2 * (4 + margin) - 1) ** 2, 2)}
    agree(program_of(*body, **tables), SIZES, 1e-3 if codes else 1e-5)


def test_padding_mirrors_small_maps_as_often_as_needed() -> None:
    body = (steps.Pad("wide", "input", 16), steps.Affine("z", "wide", 2.0), steps.Crop("y", "z", "input"))
    agree(program_of(*body), [(2, 3), (17, 16)])
    agree(program_of(steps.Pad("wide", "input", 16, "symmetric"), *body[1:]), [(2, 3), (17, 16)])
    for mode in ("reflect", "symmetric"):
        wide = steps.Pad("wide", "input", 16, mode)  # type: ignore[arg-type]
        shown = (wide, steps.GlobalPool("m", "wide", "mean"), steps.Mul("y", "input", "m"))
        agree(program_of(*shown), [(2, 3), (5, 17)])


def test_maps_of_one_channel_and_of_one_pixel_broadcast() -> None:
    body = (
        steps.Linear("tokens", "input", "w"), steps.Slice("one", "tokens", 1, 2),
        steps.GlobalPool("m", "tokens", "std"), steps.Mul("a", "one", "tokens"), steps.Mul("b", "a", "m"),
        steps.Add("y", "b", "input"),
    )  # fmt: skip
    agree(program_of(*body, w=normal(3, 3)), SIZES)


@pytest.mark.parametrize("quantizer", [None, GRID, OFF_GRID], ids=["float", "on the grid", "off the grid"])
@pytest.mark.parametrize("bits", [None, 2, 8])
@pytest.mark.parametrize("mid", [False, True])
def test_layers(quantizer: Quantizer | None, bits: int | None, mid: bool) -> None:
    """A linear and a grouped convolution with stride, each with floating-point or packed weights and inputs."""

    def weight(name: str, *shape: int) -> tuple[Any, dict[str, Any]]:
        if bits is None:
            return f"{name}.w", {f"{name}__w": normal(*shape)}
        codes = np.random.default_rng(3).integers(0, 2**bits, shape, np.uint8)
        numbers = {f"{name}__c": codes, f"{name}__s": 0.1 + np.abs(normal(shape[0]))}
        numbers |= {f"{name}__m": normal(shape[0])} if mid else {}
        return PackedWeight(f"{name}.c", f"{name}.s", bits, f"{name}.m" if mid else None), numbers

    linear, first = weight("a", 6, 3)
    conv, second = weight("b", 12, 3, 3, 3)
    body = (
        steps.Linear("t", "input", linear, "a.b", quantizer, "by"),
        steps.Conv2d("c", "t", conv, "b.b", 2, 0 if quantizer is OFF_GRID else 1, 2, quantizer),
        steps.GlobalPool("m", "c", "mean"), steps.Slice("three", "m", 0, 3), steps.Slice("more", "m", 9, 12),
        steps.Mul("p", "input", "three"), steps.Mul("y", "p", "more"),
    )  # fmt: skip
    least = 3 if quantizer is OFF_GRID else 2
    program = program_of(*body, **first, **second, a__b=normal(6), b__b=normal(12), by=1 + normal(3))
    program = replace(program, descriptor=replace(program.descriptor, min_size=least))
    agree(program, SIZES[1:])


# ---- networks -------------------------------------------------------------------------------------------------------


SCANS = [name for name in NETWORKS if name.startswith("mamba")]


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(SCANS)))
def test_floating_point_networks(name: str) -> None:
    program = lower(make(name), precision="fp32")
    assert compare(program, to_onnx(program).SerializeToString()).largest < 1e-5


@pytest.mark.parametrize("name", SCANS)
def test_what_has_no_form_in_onnx_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot write ArgMax as ONNX"):
        to_onnx(lower(make(name)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_floating_point_twin(name: str) -> None:
    program = lower(quantize_roughly(make(name), BITS["w4a4"], activations=False))
    x = np.random.default_rng(0).random((16, 19, program.channels), np.float32)
    assert_close(run(floating(program), x), run(program, x), 1e-4)


@pytest.mark.parametrize("bits", ["w4a4", "mixed"])
@pytest.mark.parametrize("name", ["swinir light x4", "hat", "rfdn", "imdn", "espcn clip"])
def test_quantized_networks(name: str, bits: str) -> None:
    mixed = bits == "mixed"
    program = lower(quantize_roughly(make(name), BITS[bits], symmetric=mixed, input_scales=mixed))
    assert compare(program, to_onnx(program).SerializeToString()).rms < 1e-2
    twin = floating(program)
    assert compare(twin, to_onnx(program, quantized=False).SerializeToString()).largest < 1e-5


def test_the_floating_point_twin_has_the_values_of_the_codes() -> None:
    """Without the input's quantizers a program is its twin; with them the twin is the same but for folded biases."""
    module = quantize_roughly(make("swinir light x4"), BITS["w4a4"], activations=False, input_scales=True)
    weights_alone = lower(module, precision="fp32")
    x = np.random.default_rng(0).random((9, 11, 3), np.float32)
    assert_close(run(floating(weights_alone), x), run(weights_alone, x))
    both = [
        floating(lower(quantize_roughly(make("imdn"), BITS["w4a4"], activations=activations), precision="fp32"))
        for activations in (False, True)
    ]
    assert both[0].steps == both[1].steps
    for name, value in both[0].tensors.items():
        np.testing.assert_allclose(both[1].tensors[name], value, atol=1e-5, err_msg=name)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_wrong_graph_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsr.export.steps import WRITERS, add

    def twice(step: steps.Add, graph: Any) -> None:
        add(replace(step, b=step.a), graph)

    monkeypatch.setitem(WRITERS, steps.Add, twice)
    target = tmp_path / "net.onnx"
    target.write_text("old")
    with pytest.raises(BitsrError, match="nothing is written"):
        export(lower(make("edsr")), target)
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_few_bits_make_a_small_file(tmp_path: Path) -> None:
    program = lower(quantize_roughly(make("imdn"), BITS["w4a4"]))
    export(program, tmp_path / "codes.onnx")
    export(program, tmp_path / "float.onnx", quantized=False)
    assert (tmp_path / "codes.onnx").stat().st_size < 0.7 * (tmp_path / "float.onnx").stat().st_size


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'bitsr\[export\]'"):
        to_onnx(PROGRAM)


def test_onnx_evaluates_its_own_graphs_where_no_runtime_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lower(make("espcn"))
    data = to_onnx(program).SerializeToString()
    monkeypatch.setattr(write, "find_spec", lambda name: None)
    assert compare(program, data).runtime == "onnx.reference"


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed, target = tmp_path / "net.bitsr", tmp_path / "new" / "net.onnx"
    write_program(lower(quantize_roughly(make("espcn clip"), BITS["w8a8"])), packed)
    assert main(["export", str(packed), "-o", str(target), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["file_bytes"] == target.stat().st_size and content["rms_difference"] < 1e-2
    checkpoint = write_checkpoint(tmp_path / "net.safetensors", scale=2)
    assert main(["export", str(checkpoint), "-o", str(target)]) == 0
    assert "onnxruntime differs by" in capsys.readouterr().out
    assert main(["export", str(packed), "-o", str(tmp_path / "net.txt")]) == 2
    assert main(["export", str(tmp_path / "none.bitsr"), "-o", str(target)]) == 1
    assert "no such file" in capsys.readouterr().err
