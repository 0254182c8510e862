"""Learned bounds and learned rounding: their equations, layer by layer and block by block."""

import copy
import math

import pytest
import torch
from torch import nn

import tiny
from bitsr.methods.compress import compress
from bitsr.methods.ptq import brecq, qdrop
from bitsr.methods.ptq.adaround import annealed_beta, learn_rounding, reconstruct_layer, regularizer
from bitsr.methods.ptq.bounds import dobi, minmax, shrunk
from bitsr.methods.ptq.gptq import round_with_gptq
from bitsr.methods.ptq.pipeline import (
    Seen,
    apply_weight,
    begin,
    round_to_nearest,
)
from bitsr.methods.ptq.reconstruct import Prefix, Unit, activations_kept, blocks_of, mixed
from bitsr.methods.registry import config_for
from bitsr.parts.layers import QuantLayer, QuantLinear, quantized_layers
from bitsr.parts.quantizer import AffineQuantizer, SymmetricQuantizer
from bitsr.parts.undecided import BoundedWeight, LearnedRounding, inverse_rectified_sigmoid, rectified_sigmoid
from ptq_quick import NETWORKS, QUICK, quick

# ---- parts ---------------------------------------------------------------------------------------------------------


def test_learned_bounds_equal_the_official_layer(shared):
    """2DQuant's QuantLinear: output, and gradients of all four bounds."""
    from safetensors.torch import load_file

    tensors = load_file(shared / "golden/twodquant.safetensors")
    for case in ("qlinear.b2", "qlinear.b3", "qlinear_onedir.b2", "qlinear_onedir.b3"):
        t = {k.removeprefix(case + "."): v for k, v in tensors.items() if k.startswith(case + ".")}
        bits = int(case[-1])
        linear = nn.Linear(20, 14)
        layer = QuantLinear(linear, bits, bits)
        layer.weight.data, layer.bias.data = t["weight"].clone(), t["bias"].clone()
        layer.quantizer = AffineQuantizer(bits, t["a_lower"].squeeze(), t["a_upper"].squeeze())
        layer.weight_quantizer = BoundedWeight(AffineQuantizer(bits, t["w_lower"].squeeze(), t["w_upper"].squeeze()))
        y = layer(t["x"])
        assert torch.allclose(y, t["y"], atol=1e-5), case
        y.backward(t["grad_out"])
        weight, x = layer.weight_quantizer.quantizer, layer.quantizer
        for ours, name in ((x.lower, "a_grad_lower"), (x.upper, "a_grad_upper"),
                           (weight.lower, "w_grad_lower"), (weight.upper, "w_grad_upper")):  # fmt: skip
            assert ours.grad == pytest.approx(float(t[name]), rel=1e-3, abs=1e-3), (case, name)
        with torch.no_grad():
            simulated = layer(t["x"])
            layer.decide()
            assert torch.allclose(layer(t["x"]), simulated, atol=1e-5)


def test_rounding_starts_at_the_weight_and_ends_at_a_neighbour():
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    lower, upper = minmax(weight)
    step = (upper - lower) / 7
    rounding = LearnedRounding(3, weight, lower, step)
    assert torch.allclose(rounding(weight), weight, atol=1e-5)
    decided = rounding.decide(weight)
    assert torch.equal(decided.codes.float(), ((weight - lower) / step).floor().add(rounding.up() >= 0.5).clamp(0, 7))
    assert ((decided() - weight).abs() <= step * (1 + 1e-5)).all()


def test_rectified_sigmoid():
    h = torch.linspace(0, 1, 11)
    assert torch.allclose(rectified_sigmoid(inverse_rectified_sigmoid(h)), h, atol=1e-6)
    assert rectified_sigmoid(torch.tensor([-9.0, 9.0])).tolist() == [0, 1]
    v = math.log(0.7 / 0.3)
    assert rectified_sigmoid(torch.tensor(v)).item() == pytest.approx(0.7 * 1.2 - 0.1)


def test_regularizer_is_zero_once_decided():
    assert regularizer(torch.tensor([0.0, 1.0]), 2.0) == 0
    assert regularizer(torch.tensor([0.5]), 7.0) == 1
    assert regularizer(torch.tensor([0.75]), 2.0) == pytest.approx(1 - 0.25)
    assert annealed_beta(0.1) is None and annealed_beta(0.2) == 20 and annealed_beta(1.0) == pytest.approx(2)


def test_symmetric_quantizer():
    x = torch.linspace(-3, 3, 601)
    with torch.no_grad():
        ternary = SymmetricQuantizer(2, 1.5, narrow=True)(x)
        full = SymmetricQuantizer(2, 1.5)(x)
    assert ternary.unique().tolist() == [-1.5, 0, 1.5]
    assert full.unique().tolist() == [-3, -1.5, 0, 1.5]
    quantizer = SymmetricQuantizer(4, 0.7, narrow=True)
    quantizer(torch.tensor([-2.0, 5.0, 9.0])).sum().backward()
    assert quantizer.upper.grad == pytest.approx(1)  # sign(x) where clipped


def test_shrunk_range_is_the_best_of_its_candidates():
    v = torch.randn(3, 400, generator=torch.Generator().manual_seed(0)) ** 3
    lower, upper = shrunk(v, 3)
    ratio = lower / v.amin(1, keepdim=True)
    assert torch.allclose(ratio, upper / v.amax(1, keepdim=True), atol=1e-5)

    def error(lower, upper):
        step = (upper - lower) / 7
        return (((v - lower) / step).round().clamp(0, 7) * step + lower - v).abs().pow(2.4).sum(1)

    assert (error(lower, upper) <= error(*minmax(v))).all()
    assert (ratio < 1).all()


# ---- layer-wise methods --------------------------------------------------------------------------------------------


def correlated_layer(bits):
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(16, 16, generator=generator)
    x = torch.randn(2000, 16, generator=generator) @ mixing + 1
    linear = nn.Linear(16, 12)
    linear.weight.data = torch.randn(12, 16, generator=generator)
    layer = QuantLinear(linear, bits, 32)
    target = (x @ linear.weight.T + linear.bias).detach()
    seen = Seen(x, target, linear.weight.detach(), torch.stack([x.amin(0), x.amax(0)]))
    return layer, seen


def layer_error(layer, seen):
    with torch.no_grad():
        output = apply_weight(layer, layer.effective_weight(), seen.x) + layer.bias
        return float((output - seen.target).square().mean())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(
    "steps",
    [[learn_rounding(dobi), reconstruct_layer(300, 256, 0.05, 0.1)], [round_with_gptq(0.01, False, False)]],
    ids=["adaround", "gptq"],
)
def test_rounding_by_the_layers_error_beats_the_nearest(steps, bits):
    nearest, seen = correlated_layer(bits)
    round_to_nearest(dobi)(nearest, seen)
    learned, _ = correlated_layer(bits)
    for step in steps:
        step(learned, seen)
    assert learned.weight_quantizer is None
    assert layer_error(learned, seen) < 0.9 * layer_error(nearest, seen)


# ---- block-wise methods --------------------------------------------------------------------------------------------


def test_blocks_are_units_and_what_is_left_stands_alone(pictures):
    work = begin(tiny.make("swinir light x4"), pictures, quick("brecq"), 0)
    units = blocks_of(work)
    block = "layers.0.residual_group.blocks.0"
    assert list(units) == ["conv_first", block, block[:-1] + "1", "layers.0.conv", "conv_after_body", "upsample.0"]
    assert [n.removeprefix(f"{block}.") for n in units[block]] == [
        "attn.qkv", "attn.matmul_qk", "attn.matmul_av", "attn.proj", "mlp.fc1", "mlp.fc2"
    ]  # fmt: skip
    assert units["conv_first"] == ["conv_first"]


def relative_error(unit: Unit) -> float:
    return float((unit.outputs() - unit.targets).square().mean() / unit.targets.var())


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_that_were_passed_are_not_computed_again(name, pictures):
    work = begin(tiny.make(name), pictures, quick("brecq"), 0)
    units, prefix = blocks_of(work), Prefix(work.teacher, work.batches)
    whole = {unit: Prefix(work.teacher, work.batches).call(unit)[:2] for unit in units}
    for unit, (inputs, outputs) in whole.items():
        found = prefix.call(unit)
        assert torch.equal(found[0], inputs) and torch.equal(found[1], outputs), unit
        prefix.go_past(unit, outputs)
        for parameter in work.teacher.get_submodule(unit).parameters():
            parameter.data.fill_(torch.nan)  # what is computed again would show


@pytest.mark.parametrize(
    "name,first,more",
    [
        ("hat", "layers.0.residual_group.blocks.0", ["layers.0.residual_group.overlap_attn", "conv_last"]),
        ("mambairv2 light x4", "layers.0.residual_group.layers.0", ["layers.0.residual_group.layers.1", "upsample.0"]),
        ("rrdbnet x4", "body.0", ["conv_body", "conv_hr"]),
        ("srresnet x4", "trunk.0", ["conv2.0", "conv3"]),
    ],
)
def test_networks_name_their_blocks(name, first, more, pictures):
    """Each block is reconstructed as a whole, with the masks and indices that it takes beside the picture."""
    model = tiny.make(name)
    small = compress(model, quick("brecq", 2), pictures)
    assert all(layer.decided is not None for layer in quantized_layers(small).values() if isinstance(layer, QuantLayer))
    work = begin(model, pictures, quick("brecq"), 0)
    units = blocks_of(work)
    assert len(units[first]) > 1 and set(more) <= set(units)
    inputs, targets, others = Prefix(work.teacher, work.batches).call(first)
    unit = Unit(work.teacher.get_submodule(first), [], inputs, inputs, targets, others)
    assert relative_error(unit) < 1e-9


@pytest.mark.parametrize("fit,method", [(brecq.fit_block, "brecq"), (qdrop.fit_block, "qdrop")])
@pytest.mark.parametrize("name", NETWORKS)
def test_reconstruction_brings_a_block_closer_than_rounding_to_the_nearest(fit, method, name, pictures):
    model = tiny.make(name)
    work = begin(model, pictures, config_for(method, 2, 8, overrides=QUICK[method] | {"steps": "60"}), 0)
    brecq.prepare(256)(work)
    name, names = list(blocks_of(work).items())[1]
    inputs, targets, others = Prefix(model, work.batches).call(name)
    module = work.student.get_submodule(name).requires_grad_(False)
    unit = Unit(module, [work.layers[n] for n in names], inputs, inputs, targets, others)
    nearest = copy.deepcopy(unit)
    for layer in nearest.module.modules():
        if isinstance(layer, QuantLayer):
            layer.decide()  # the direction starts at the nearest level
    fit(unit, work)
    for layer in unit.module.modules():
        if isinstance(layer, QuantLayer):
            layer.decide()
    assert relative_error(unit) < 0.95 * relative_error(nearest)


def test_dropping_keeps_a_share_in_floating_point():
    generator = torch.Generator().manual_seed(0)
    x = mixed(torch.ones(10000), torch.zeros(10000), 0.3, generator)
    assert x.mean() == pytest.approx(0.3, abs=0.02)
    assert mixed(torch.ones(5), torch.zeros(5), 1.0, generator).tolist() == [1] * 5
    quantizer = AffineQuantizer(1, 0.0, 1.0)
    unit = Unit(nn.Sequential(quantizer), [], torch.rand(2), torch.rand(2), torch.rand(2))
    x = torch.rand(10000)
    with torch.no_grad(), activations_kept(unit, 0.25, generator):
        assert (quantizer(x) == x).float().mean() == pytest.approx(0.25, abs=0.02)
    with torch.no_grad():
        assert set(quantizer(x).tolist()) == {0.0, 1.0}
