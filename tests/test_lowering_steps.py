"""Every quantized step against its layer on identical inputs: integers bit for bit, floats within 1e-5 of the range."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bitsr.archs.swinir import SwinBlock, merge, partition, shift_mask  # noqa: E402
from bitsr.descriptor import Descriptor  # noqa: E402
from bitsr.lowering import Builder, lower  # noqa: E402
from bitsr.parts.layers import QuantConv2d, QuantLayer, QuantMatMul, largest, quantized_layers  # noqa: E402
from bitsr.parts.quantizer import AffineQuantizer  # noqa: E402
from bitsr.program.frame import Notes  # noqa: E402
from bitsr.program.program import Program  # noqa: E402
from bitsr.program.reference import NumpyArrays, execute, run  # noqa: E402
from bitsr.program.steps import Conv2d, Linear, PackedWeight, Step, WindowAttention  # noqa: E402
from tiny import BITS, assert_close, hwc, make, nchw, picture, quantize_roughly  # noqa: E402


def record(module: nn.Module, x: Tensor) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """(input, output) of every quantized layer."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: seen.update({layer: (inputs[0], output)}))
        for layer in quantized_layers(module).values()
    ]
    module(x)
    for hook in hooks:
        hook.remove()
    return seen


def as_map(x: Tensor, layer: nn.Module) -> np.ndarray:
    """What a layer saw, as an HxWxC feature map; the windows of a linear become rows."""
    return hwc(x) if isinstance(layer, QuantConv2d) else x.reshape(-1, x.shape[-2], x.shape[-1]).numpy()


def cases(module: nn.Module) -> Iterator[tuple[Program, Conv2d | Linear, QuantLayer, np.ndarray, np.ndarray]]:
    """Each quantized convolution and linear: its step, and its input and output in the simulation."""
    program = lower(module, precision="fp32")
    by_name = {step.output: step for step in program.steps}
    seen = record(module, picture(module))
    for name, layer in quantized_layers(module).items():
        if isinstance(layer, QuantLayer):
            step = by_name[name]
            assert isinstance(step, Conv2d | Linear)
            x, y = seen[layer]
            yield program, step, layer, as_map(x, layer), as_map(y, layer)


def evaluate(program: Program, step: Step, **maps: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The map that the reference makes of the given ones, and the integers behind it."""
    notes: Notes = {}
    output = np.asarray(execute(step, maps, program, NumpyArrays(), notes))
    return output, {name: np.concatenate(pieces) for name, pieces in notes.items()}


def simulated_integers(layer: QuantLayer, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Input codes q and sum_j p'_ij q_j of a layer, as torch computes them on integers in float64."""
    assert layer.quantizer is not None and layer.decided is not None
    signed = layer.decided.codes.double() - 2 ** (layer.decided.bits - 1)
    if not isinstance(layer, QuantConv2d):
        codes = layer.quantizer.codes(layer.scaled(torch.from_numpy(x)))
        return codes.numpy(), F.linear(codes.double(), signed).numpy()
    codes = layer.quantizer.codes(layer.scaled(nchw(x)))
    zero = int(layer.quantizer.codes(torch.zeros(1)))
    p = layer.padding[0]
    padded = F.pad(codes.double(), (p, p, p, p), value=zero)
    return hwc(codes), hwc(F.conv2d(padded, signed, None, layer.stride, 0, 1, layer.groups))


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["swinir light x4", "rfdn", "imdn", "msrresnet x4"])
def test_quantized_steps_compute_what_the_layers_compute(name: str, bits: str, symmetric: bool) -> None:
    module = quantize_roughly(make(name), BITS[bits], symmetric=symmetric)
    count = 0
    for program, step, layer, x, y in cases(module):
        assert isinstance(step.weight, PackedWeight) and (step.weight.mid is None) == symmetric
        assert (step.weight.bits, step.quantizer.bits) == (layer.w_bits, layer.a_bits)
        output, integers = evaluate(program, step, **{step.x: x})
        codes, accumulators = simulated_integers(layer, x)
        np.testing.assert_array_equal(integers["codes"], codes)
        np.testing.assert_array_equal(integers["accumulator"], accumulators)
        assert ("sums" in integers) != symmetric
        bias = 0.0 if layer.bias is None else float(layer.bias.abs().max())  # maps of 1x1x1 have no range
        assert_close(output, y, span=bias)
        count += 1
    assert count == sum(isinstance(layer, QuantLayer) for layer in quantized_layers(module).values()) > 5


@pytest.mark.parametrize(
    "options", [{"activations": False}, {"weights": False}, {"weights": False, "activations": False}]
)
@pytest.mark.parametrize("name", ["swinir light x4", "rfdn"])
def test_one_operand_or_none_may_be_quantized(name: str, options: dict[str, bool]) -> None:
    module = quantize_roughly(make(name), BITS["w4a4"], **options)
    for program, step, _, x, y in cases(module):
        assert isinstance(step.weight, PackedWeight) == options.get("weights", True)
        assert (step.quantizer is not None) == options.get("activations", True)
        assert_close(evaluate(program, step, **{step.x: x})[0], y)


@pytest.mark.parametrize("options", [{}, {"activations": False}, {"weights": False}])
@pytest.mark.parametrize("name", ["swinir light x4", "edsr"])
def test_input_scales_multiply_the_input(name: str, options: dict[str, bool]) -> None:
    module = quantize_roughly(make(name), BITS["w4a4"], input_scales=True, **options)
    for program, step, _, x, y in cases(module):
        assert step.input_scale is not None and program.tensors[step.input_scale].dtype == np.float32
        assert_close(evaluate(program, step, **{step.x: x})[0], y)


class Grouped(nn.Module):
    """Strides, groups, no padding, no bias: what the networks above do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.b = nn.Conv2d(8, 12, (1, 3), groups=4, padding=0)
        self.c = nn.Conv2d(12, 12, 5, groups=12, padding="same")
        self.descriptor = Descriptor("grouped", 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))

    def lower(self, builder: Builder, x: str) -> str:
        return builder.apply(builder.apply(builder.apply(x, self.a), self.b), self.c)


@pytest.mark.parametrize("bits", BITS)
def test_strides_groups_and_missing_biases(bits: str) -> None:
    torch.manual_seed(0)
    module = Grouped().requires_grad_(False)
    x = picture(module)
    np.testing.assert_allclose(run(lower(module, precision="fp32"), hwc(x)), hwc(module(x)), atol=1e-5)
    for program, step, layer, inputs, y in cases(quantize_roughly(module, BITS[bits])):
        output, integers = evaluate(program, step, **{step.x: inputs})
        np.testing.assert_array_equal(integers["accumulator"], simulated_integers(layer, inputs)[1])
        assert_close(output, y)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("bits", "row_scale"), [*((b, rows) for b in BITS for rows in (False, True)), (None, False)])
def test_window_attention_on_identical_inputs(bits: str | None, row_scale: bool, shift: int) -> None:
    """Block 1 shifts its windows; the step works on whole maps, the module on windows."""
    module = make("swinir light x4")
    if bits is not None:
        quantize_roughly(module, BITS[bits])
    block = module.layers[0].residual_group.blocks[shift]  # type: ignore[index, union-attr]
    assert isinstance(block, SwinBlock) and bool(block.shift) == bool(shift)
    if row_scale:
        values = block.attn.matmul_av
        assert isinstance(values, QuantMatMul) and values.softmax
        values.row_scale, values.quantizer_a = True, AffineQuantizer(values.a_bits, 0.01, 0.97)
    program = lower(module, precision="fp32")
    step = next(s for s in program.steps if s.output.endswith(f"blocks.{shift}.attn"))
    assert isinstance(step, WindowAttention) and step.shift == block.shift
    qkv = torch.randn(8, 12, 36, generator=torch.Generator().manual_seed(3))
    output, integers = evaluate(program, step, **{step.qkv: qkv.numpy()})

    windows = partition(qkv.roll((-step.shift, -step.shift), (0, 1))[None], step.window)
    operands: list[tuple[Tensor, ...]] = []
    hooks = [
        block.attn.qkv.register_forward_hook(lambda *_: windows),
        block.attn.matmul_qk.register_forward_pre_hook(lambda _, inputs: operands.append(inputs)),
        block.attn.matmul_av.register_forward_pre_hook(lambda _, inputs: operands.append(inputs)),
    ]
    block.attn(torch.zeros(*windows.shape[:2], 12), shift_mask(8, 12, step.window, step.shift) if step.shift else None)
    for hook in hooks:
        hook.remove()
    (q, k_t), (attention, v) = operands
    scores, values = block.attn.matmul_qk, block.attn.matmul_av

    if bits is not None:
        assert isinstance(scores, QuantMatMul) and isinstance(values, QuantMatMul)
        q_codes, k_codes = scores.quantizer_a.codes(q), scores.quantizer_b.codes(k_t)  # type: ignore[union-attr]
        np.testing.assert_array_equal(integers["q"], q_codes)
        np.testing.assert_array_equal(integers["k"], k_codes.mT)
        np.testing.assert_array_equal(integers["scores"], q_codes.double() @ k_codes.double())
        # the softmax is floating point: a code of its result may move by one
        seen, _ = values.operands(attention, v)
        moved = integers["attention"].astype(int) - values.quantizer_a.codes(seen).numpy()  # type: ignore[union-attr]
        assert np.abs(moved).max() <= 1 and np.mean(moved != 0) < 1e-3
        v_codes = values.quantizer_b.codes(v)  # type: ignore[union-attr]
        np.testing.assert_array_equal(integers["v"], v_codes)
        np.testing.assert_array_equal(integers["values"], integers["attention"].astype(int) @ v_codes.long().numpy())
        bound, size = values.quantizer_a.grid()  # type: ignore[union-attr]
        expected = (bound + size * torch.from_numpy(integers["attention"]).float()) @ values.quantizer_b(v)  # type: ignore[misc]
        expected = expected * largest(attention) if row_scale else expected
    else:
        expected = values(attention, v)
    expected = expected.transpose(1, 2).reshape(windows.shape[0], -1, 12)
    expected = merge(expected, step.window, 8, 12)[0].roll((step.shift, step.shift), (0, 1))
    assert_close(output, expected.numpy())
