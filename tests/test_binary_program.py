"""Binary layers frozen, packed and run by the interpreter: codes, sums, files, counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError
from bitsr.format import read_bytes, to_bytes
from bitsr.lowering import lower
from bitsr.methods.binary.biper import BiPerActivation, BiPerWeight
from bitsr.methods.binary.bireal import BiRealActivation, BiRealWeight
from bitsr.methods.binary.bssr import BSSR, BSSRLinear
from bitsr.methods.binary.config import Binary
from bitsr.methods.binary.dorefa import DoReFaWeight, UnitActivation
from bitsr.methods.binary.training import baseline_layer
from bitsr.methods.binary.xnor import XNORActivation, XNORWeight
from bitsr.parts.binarizers import RPReLU
from bitsr.parts.binary_layers import BinaryConv2d, BinaryLinear
from bitsr.parts.frozen_binary import FrozenBinary, freeze_layer
from bitsr.parts.masks import Masks
from bitsr.program import steps
from bitsr.program.binary import decode, encode, patterns, states
from bitsr.program.counting import FLOAT_BITS, count_layers, parameters, tensor_bytes
from bitsr.program.program import Program
from bitsr.program.reference import Trace, run
from bitsr.program.steps import BinaryWeight
from bitsr.program.validate import BadProgram, check_program
from engine_programs import program_of, random_map
from tiny import hwc, make, nchw, picture

RATIOS = [(1, 1), (1, 2), (2, 4), (1, 4), (3, 4), (1, 8), (2, 8)]


# ---- codes ----------------------------------------------------------------------------------------------------------


def test_two_of_four_has_24_codes() -> None:
    table = patterns(2, 4)
    assert states(2, 4) == 24 and len(np.unique(table, axis=0)) == 24
    assert (np.abs(table).sum(1) == 2).all()
    assert table[0].tolist() == [-1, -1, 0, 0] and table[1].tolist() == [1, -1, 0, 0]
    assert table[23].tolist() == [0, 0, 1, 1]
    assert patterns(1, 1).tolist() == [[-1], [1]]


@pytest.mark.parametrize("keep,block", RATIOS)
def test_codes_come_back(keep: int, block: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, states(keep, block), (5, 3, 3, 24 // block), np.uint8)
    signs = decode(codes, keep, block)
    assert signs.shape == (5, 3, 3, 24) and signs.dtype == np.int8
    assert np.array_equal(encode(signs, keep, block), codes)


def test_other_blocks_have_no_codes() -> None:
    for keep, block in ((4, 8), (0, 4), (5, 4), (1, 9)):
        with pytest.raises(ValueError, match="no codes of at most 8 bits"):
            states(keep, block)
    with pytest.raises(ValueError, match="keeps more or fewer than 2"):
        encode(np.array([[1, 1, 1, 0]], np.int8), 2, 4)
    with pytest.raises(ValueError, match="no whole blocks"):
        encode(np.zeros((1, 6), np.int8), 2, 4)


# ---- frozen layers --------------------------------------------------------------------------------------------------


def bssr_linear(seed: int = 0, rows: int = 12, width: int = 60, **options: Any) -> BSSRLinear:
    """With gains, shifts and slopes as training might leave them."""
    torch.manual_seed(seed)
    layer = BSSRLinear(nn.Linear(width, rows), BSSR(**options))
    activation = layer.activation
    with torch.no_grad():
        activation.gain += 0.5 * torch.randn_like(activation.gain)  # type: ignore[arg-type, operator]
        activation.shift += 0.3 * torch.randn_like(activation.shift)  # type: ignore[arg-type, operator]
        assert activation.gain is not None
        activation.gain[0] *= -1
    return layer


@pytest.mark.parametrize(
    "options", [{}, {"tiling": "row"}, {"tiling": "balanced"}, {"keep": 1}, {"keep": 4}, {"group": 8}]
)
def test_frozen_layers_give_the_same_bits(options: dict[str, Any]) -> None:
    layer = bssr_linear(**options).eval()
    x = torch.randn(7, 9, 60)
    with torch.no_grad():
        assert torch.equal(freeze_layer(layer)(x), layer(x))


@pytest.mark.parametrize(
    "side,stride,masks", [(3, 1, None), (3, 2, Masks(2, 4)), (3, 1, Masks(1, 4)), (1, 1, None), (1, 1, Masks(2, 4))]
)
def test_frozen_convolutions_give_the_same_bits(side: int, stride: int, masks: Masks | None) -> None:
    torch.manual_seed(0)
    source = nn.Conv2d(8, 6, side, stride, side // 2)
    layer = BinaryConv2d(source, BiRealActivation(8, 1), BiRealWeight(), masks).eval()
    x = torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        assert torch.equal(freeze_layer(layer)(x), layer(x))
        around = baseline_layer(nn.Conv2d(8, 8, side, padding=side // 2), Binary(binarizer="bbcu")).eval()
        assert torch.equal(freeze_layer(around)(x), around(x))


def test_flipped_thresholds_at_zero_are_the_same_in_half_precision() -> None:
    layer = BSSRLinear(nn.Linear(8, 4), BSSR())
    assert layer.activation.gain is not None
    layer.activation.gain.data.mul_(torch.tensor([-1.0, 1, -3, 2, -0.3, -1, 1, 1]))
    frozen, x = freeze_layer(layer.eval()), torch.zeros(3, 8)
    frozen.threshold = frozen.threshold.half().float()
    with torch.no_grad():
        assert torch.equal(frozen(x), layer(x))


@pytest.mark.parametrize("masks", [None, Masks(2, 4)])
def test_frozen_scales_of_tokens_give_the_same_bits(masks: Masks | None) -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(nn.Linear(60, 12), XNORActivation(60, -1), XNORWeight(), masks).eval()
    x = torch.randn(7, 9, 60)
    with torch.no_grad():
        assert torch.equal(freeze_layer(layer)(x), layer(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_products_of_windows_are_scaled_by_their_mean(stride: int) -> None:
    """XNOR-Net, eq. 11: (sign(x) * sign(W)) . K alpha, K the box filter of mean |x|."""
    torch.manual_seed(0)
    source = nn.Conv2d(8, 6, 3, stride, 1)
    layer = baseline_layer(source, Binary(binarizer="xnor")).eval()
    x = torch.randn(2, 8, 9, 7)
    columns = nn.functional.unfold(x, 3, padding=1, stride=stride)  # images x inputs x windows
    filters = source.weight.flatten(1)
    product = filters.sign() * filters.abs().mean(1, keepdim=True) @ columns.sign()
    expected = product * columns.abs().mean(1, keepdim=True) + source.bias[:, None]
    with torch.no_grad():
        torch.testing.assert_close(layer(x).flatten(2), expected)
        assert torch.equal(freeze_layer(layer)(x), layer(x))


def test_inputs_of_zero_and_one_become_signs() -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(nn.Linear(8, 4), UnitActivation(8, -1), DoReFaWeight(), Masks(2, 4)).eval()
    x = torch.rand(50, 8)
    with torch.no_grad():
        torch.testing.assert_close(freeze_layer(layer)(x), layer(x))


def test_what_is_no_sign_is_not_frozen() -> None:
    source = nn.Linear(8, 4)
    staged = BinaryLinear(source, BiPerActivation(8, -1), BiPerWeight(source.weight))
    staged.on_step(0, 3)
    for layer in (staged, bssr_linear(add_mean=True)):
        with pytest.raises(ConfigError):
            freeze_layer(layer)
    with pytest.raises(ConfigError, match="those of windows"):
        freeze_layer(BinaryConv2d(nn.Conv2d(4, 4, 3), XNORActivation(4, 1), XNORWeight()))
    with pytest.raises(ConfigError, match="padded"):
        freeze_layer(BinaryConv2d(nn.Conv2d(4, 4, 3, padding=1), UnitActivation(4, 1), DoReFaWeight()))


# ---- programs -------------------------------------------------------------------------------------------------------


def random_weight(rows: int, kernel: tuple[int, ...], groups: tuple[int, ...], keep: int, block: int) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    shape = (rows, *kernel, sum(groups) // block)
    return {
        "w": rng.integers(0, states(keep, block), shape, np.uint8),
        "s": rng.uniform(0.1, 1, (rows, len(groups))).astype(np.float32),
        "t": rng.normal(0, 0.3, sum(groups)).astype(np.float32),
        "b": rng.normal(0, 1, rows).astype(np.float32),
    }


def plain(x: np.ndarray, tensors: dict[str, Any], weight: BinaryWeight, stride: int, padding: int) -> np.ndarray:
    """The step by torch in double precision."""
    signs = decode(tensors["w"], weight.keep, weight.block)
    signs = signs if signs.ndim == 4 else signs[:, None, None, :]
    scale = np.repeat(tensors["s"], weight.groups, axis=1)[:, None, None, :]
    a = nchw(np.where(x >= tensors["t"], 1.0, -1.0))
    y = nn.functional.conv2d(
        a, torch.from_numpy(np.moveaxis(signs * scale, -1, 1)).double(), torch.from_numpy(tensors["b"]).double(),
        stride, padding,
    )  # fmt: skip
    return hwc(y)


CASES = {
    "2:4 linear": ((), (32, 28), 2, 4, 1, 0),
    "dense linear": ((), (20,), 1, 1, 1, 0),
    "1:4 linear of small groups": ((), (8, 8, 4), 1, 4, 1, 0),
    "2:4 convolution": ((3, 3), (32, 8), 2, 4, 1, 1),
    "dense convolution": ((3, 3), (40,), 1, 1, 2, 1),
    "wide padding": ((5, 3), (4,), 1, 1, 1, 2),
}


@pytest.mark.parametrize("case", list(CASES))
def test_steps_equal_the_products_of_numbers(case: str) -> None:
    kernel, groups, keep, block, stride, padding = CASES[case]
    tensors = random_weight(7, kernel, groups, keep, block)
    weight = BinaryWeight("w", "s", groups, keep, block)
    step: steps.Step = steps.BinaryLinear("y", "input", weight, "t", "b")
    if kernel:
        step = steps.BinaryConv2d("y", "input", weight, "t", "b", stride, padding)
    x, trace = random_map(6, 9, sum(groups)), Trace()
    y = run(program_of(sum(groups), step, **tensors), x, trace=trace)
    expected = plain(x, tensors, weight, stride, padding)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert trace["y"]["accumulator"].dtype == np.int32


@pytest.mark.parametrize("bias", [None, "b"])
def test_the_scale_of_a_token_multiplies_its_sums(bias: str | None) -> None:
    groups = (32, 28)
    tensors = random_weight(7, (), groups, 2, 4)
    weight = BinaryWeight("w", "s", groups, 2, 4)
    x = random_map(6, 9, 60)
    step = steps.BinaryLinear("y", "input", weight, "t", bias, token_scale=True)
    y = run(program_of(60, step, **tensors), x)
    product = plain(x, tensors | {"b": np.zeros(7, np.float32)}, weight, 1, 0)
    expected = product * np.abs(x).mean(-1, keepdims=True, dtype=float) + (0 if bias is None else tensors["b"])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    scaled, unscaled = (
        count_layers(program_of(60, s, **tensors), 6, 9)[0] for s in (step, replace(step, token_scale=False))
    )
    assert scaled.bit_ops - unscaled.bit_ops == 6 * 9 * 7 * FLOAT_BITS**2


def compressed_swinir(**options: Any) -> nn.Module:
    module = make("swinir light x4")
    torch.manual_seed(3)
    for name, source in list(module.named_modules()):
        if isinstance(source, nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, freeze_layer(BSSRLinear(source, BSSR(**options))))
    return module.requires_grad_(False)


def test_a_network_of_bits_is_packed_and_comes_back(tmp_path: Path) -> None:
    module = compressed_swinir()
    program = lower(module, precision="fp32")
    back = read_bytes(to_bytes(program))
    assert back.steps == program.steps
    x = picture(module)
    expected, ours = hwc(module(x)), run(back, hwc(x))
    # signs of inputs on a threshold may differ: compare by the error of the picture
    assert np.sqrt(np.mean((ours - expected) ** 2)) < 2e-3 * np.ptp(expected)
    layers = {layer.name: layer for layer in count_layers(program, 8, 8)}
    qkv = layers["layers.0.residual_group.blocks.0.attn.qkv"]
    assert (qkv.w_bits, qkv.a_bits, qkv.macs) == (1.25, 1, 64 * 12 * 36 / 2)
    codes = -(-12 * 36 // 4 * 5 // 8)
    assert qkv.bytes == codes + 4 * 36 + 4 * 12 + 4 * 36  # scales, thresholds, bias
    plain = lower(make("swinir light x4"), precision="fp32")
    assert parameters(program) == parameters(plain)
    assert sum(tensor_bytes(program).values()) < sum(tensor_bytes(plain).values())


def test_half_precision_keeps_scales_and_thresholds_in_two_bytes() -> None:
    program = lower(compressed_swinir())
    kinds = {type(step).__name__ for step in program.steps}
    assert "BinaryLinear" in kinds and "Linear" not in kinds
    for step in program.steps:
        if isinstance(step, steps.BinaryLinear):
            assert all(
                program.tensors[n].dtype == np.float16 for n in (step.weight.scale, step.threshold, step.bias or "")
            )


@pytest.mark.parametrize(
    "inputs,outputs,shortcut", [(8, 8, "after"), (4, 8, "before"), (8, 4, "before"), (8, 8, "none")]
)
def test_shortcuts_and_activations_around_a_layer_are_packed(inputs: int, outputs: int, shortcut: Any) -> None:
    torch.manual_seed(0)
    rprelu = RPReLU(outputs, 1)
    for parameter in rprelu.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    source = nn.Conv2d(inputs, outputs, 3, padding=1)
    layer = BinaryConv2d(source, BiRealActivation(inputs, 1), BiRealWeight(), rprelu=rprelu, shortcut=shortcut)
    network = nn.Sequential(nn.Conv2d(3, inputs, 1), freeze_layer(layer), nn.Conv2d(outputs, 3, 1)).eval()
    network.requires_grad_(False).descriptor = Descriptor("test", 1)  # type: ignore[assignment]
    x = torch.rand(1, 3, 6, 7)
    expected, program = hwc(network(x)), lower(network, precision="fp32")
    np.testing.assert_allclose(run(read_bytes(to_bytes(program)), hwc(x)), expected, atol=1e-5 * np.abs(expected).max())


def test_binary_convolutions_in_a_network() -> None:
    module = make("edsr")
    for block in module.body:  # type: ignore[union-attr]
        source = block.conv1
        block.conv1 = freeze_layer(BinaryConv2d(source, BiRealActivation(8, 1), BiRealWeight(), Masks(2, 4)))
    assert isinstance(block.conv1, FrozenBinary)
    program = read_bytes(to_bytes(lower(module.requires_grad_(False), precision="fp32")))
    x = picture(module)
    expected, ours = hwc(module(x)), run(program, hwc(x))
    assert np.sqrt(np.mean((ours - expected) ** 2)) < 1e-3 * np.ptp(expected)


# ---- what a reader refuses ------------------------------------------------------------------------------------------


def small(weight: BinaryWeight | None = None, threshold: str = "t", **changed: Any) -> Program:
    """8 channels of the picture become 3."""
    made = (
        steps.Concat("wide", ("input", "input", "input")),
        steps.Slice("some", "wide", 0, 8),
        steps.BinaryLinear("output", "some", weight or BinaryWeight("w", "s", (4, 4), 2, 4), threshold, "b"),
    )
    return program_of(3, *made, **(random_weight(3, (), (4, 4), 2, 4) | changed))


def test_the_small_program_is_sound() -> None:
    check_program(small())


@pytest.mark.parametrize(
    "changes,problem",
    [
        ({"w": np.full((3, 2), 24, np.uint8)}, "there are only 24"),
        ({"w": np.zeros((3, 2, 1, 1), np.uint8)}, "the codes have the shape"),
        ({"s": np.ones((3, 3), np.float32)}, "scale has the shape"),
        ({"t": np.ones(7, np.float32)}, "threshold has the shape"),
        ({"b": np.ones(7, np.float32)}, "bias has the shape"),
        ({"threshold": "none"}, "there is no tensor"),
        ({"weight": BinaryWeight("w", "s", (4, 3), 2, 4)}, "no whole blocks"),
        ({"weight": BinaryWeight("w", "s", (4, 8), 2, 4)}, "groups of 12 inputs for 8"),
        ({"weight": BinaryWeight("w", "s", (4, 4), 4, 8)}, "no codes of at most 8 bits"),
        ({"weight": BinaryWeight("w", "s", (4, 4), 10**9, 10**9)}, "no codes of at most 8 bits"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadProgram, match=problem):
        check_program(small(**changes))
