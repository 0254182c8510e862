"""The published post-training methods: their equations, and that each improves what it optimizes."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import bitsr
import tiny
from bitsr.errors import ConfigError, UnsupportedLayer
from bitsr.methods.compress import compress
from bitsr.methods.ptq import brecq, dbdc_pac, granular_dq, pams, qdrop, repq, svdquant, twodquant
from bitsr.methods.ptq.adaround import annealed_beta, learn_rounding, reconstruct_layer, regularizer
from bitsr.methods.ptq.bounds import dobi, minmax, shrunk
from bitsr.methods.ptq.distill import channels_first, features_of, outputs_of
from bitsr.methods.ptq.gptq import round_with_gptq
from bitsr.methods.ptq.pipeline import (
    Seen,
    apply_weight,
    begin,
    bound_operands,
    layerwise,
    round_to_nearest,
    set_bounds,
)
from bitsr.methods.ptq.reconstruct import Unit, activations_kept, blocks_of, mixed, passing
from bitsr.methods.ptq.smoothquant import migrate, migration_scale
from bitsr.methods.registry import config_for, config_from, dump_config, stages_of
from bitsr.parts.layers import QuantLayer, QuantLinear, QuantMatMul, quantized_layers
from bitsr.parts.quantizer import AffineQuantizer, LogSqrt2Quantizer, SymmetricQuantizer
from bitsr.parts.undecided import BoundedWeight, LearnedRounding, inverse_rectified_sigmoid, rectified_sigmoid

QUICK = {
    "2dquant": {"candidates": "10", "steps": "4", "batch": "2", "crop": "16"},
    "adaround": {"steps": "20", "samples": "64", "groups": "2"},
    "brecq": {"steps": "4", "activation_steps": "2", "samples": "64"},
    "qdrop": {"steps": "4", "samples": "64"},
    "gptq": {"samples": "64", "groups": "2"},
    "smoothquant": {"samples": "64"},
    "repq": {"samples": "64", "softmax": "affine"},
    "svdquant": {"samples": "64", "groups": "2", "rank": "2"},
    "pams": {"steps": "4", "batch": "2", "crop": "16"},
    "dbdc-pac": {"steps": "2", "batch": "2", "crop": "16"},
}
NETWORKS = ["edsr", "swinir light x4"]


@pytest.fixture
def pictures():
    noise = np.random.default_rng(0).random((3, 6, 6, 3))
    return [(np.kron(p, np.ones((4, 4, 1))) * 255).astype(np.uint8) for p in noise]


def quick(method, bits=4, **more):
    return config_for(method, bits, bits, overrides=QUICK[method] | more)


def distance(a, b, x):
    with torch.no_grad():
        return float((a(x) - b(x)).square().mean())


# ---- every method --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", QUICK)
def test_packs_and_matches_the_simulation(method, name, pictures, tmp_path):
    model = tiny.make(name)
    small = compress(model, quick(method), pictures)
    layers = quantized_layers(small)
    assert layers and all(layer.decided is not None for layer in layers.values() if not isinstance(layer, QuantMatMul))
    bitsr.save(small, tmp_path / "small.bitsr", precision="fp32")
    x = tiny.picture(model)
    with torch.no_grad():
        simulated = tiny.hwc(small(x))
    packed = bitsr.open(tmp_path / "small.bitsr", backend="reference")(tiny.hwc(x))
    assert np.median(np.abs(packed - simulated)) < 1e-5  # a value on a rounding boundary may fall either way


@pytest.mark.parametrize("method", QUICK)
def test_is_deterministic_and_leaves_the_model_alone(method, pictures):
    model = tiny.make("edsr")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    a, b = (compress(model, quick(method), pictures, seed=3).state_dict() for _ in range(2))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", QUICK)
def test_configs_round_trip(method):
    config = config_for(method, 3, 8)
    assert config_from(dump_config(config)) == config
    assert stages_of(config)


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
    seen = Seen(x, (x @ linear.weight.T + linear.bias).detach(), torch.stack([x.amin(0), x.amax(0)]))
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


@pytest.mark.parametrize("fit,method", [(brecq.fit_block, "brecq"), (qdrop.fit_block, "qdrop")])
@pytest.mark.parametrize("name", NETWORKS)
def test_reconstruction_brings_a_block_closer_than_rounding_to_the_nearest(fit, method, name, pictures):
    model = tiny.make(name)
    work = begin(model, pictures, config_for(method, 2, 8, overrides=QUICK[method] | {"steps": "60"}), 0)
    brecq.prepare(256)(work)
    name, names = list(blocks_of(work).items())[1]
    inputs, targets = passing(model, name, work.batches)
    module = work.student.get_submodule(name).requires_grad_(False)
    unit = Unit(module, [work.layers[n] for n in names], inputs, inputs, targets)
    nearest = copy.deepcopy(unit)
    for layer in nearest.module.modules():
        if isinstance(layer, QuantLayer):
            layer.decide()  # the direction starts at the nearest level
    fit(unit, work)
    for layer in unit.module.modules():
        if isinstance(layer, QuantLayer):
            layer.decide()
    assert unit.error() < 0.95 * nearest.error()


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


# ---- SmoothQuant ---------------------------------------------------------------------------------------------------


def test_migration_scale():
    s = migration_scale(torch.tensor([16.0, 1.0]), torch.tensor([1.0, 4.0]), 0.5)
    assert torch.allclose(s, torch.tensor([4.0, 0.5]))
    assert torch.allclose(migration_scale(torch.tensor([16.0]), torch.tensor([3.0]), 1.0), torch.tensor([16.0]))


@pytest.mark.parametrize("name", NETWORKS)
def test_smoothing_leaves_the_function_and_equalizes_maxima(name, pictures):
    model = tiny.make(name)
    work = begin(model, pictures, quick("smoothquant"), 0)
    migrate(0.5, True, 64)(work)
    x = tiny.picture(model, 20, 20)
    assert distance(work.student, model, x) < 1e-9
    unfolded = begin(model, pictures, quick("smoothquant"), 0)
    migrate(0.5, False, 64)(unfolded)
    assert all(layer.input_scale is None for layer in unfolded.layers.values() if not isinstance(layer, QuantMatMul))


# ---- RepQ-ViT ------------------------------------------------------------------------------------------------------


def test_log_sqrt2_levels():
    quantizer = LogSqrt2Quantizer(2, 0.8)
    x = torch.tensor([0.8, 0.5, 0.4, 0.3, 0.24, 0.1, 0.0])
    levels = [0.8, 0.8 / 2**0.5, 0.4, 0.8 / 2**1.5, 0.8 / 2**1.5, 0.0, 0.0]
    assert torch.allclose(quantizer(x), torch.tensor(levels))
    x = torch.rand(1000)
    y = LogSqrt2Quantizer(8, 1.0)(x)
    assert (torch.log2(y / x).abs() <= 0.25 + 1e-5).all()  # half a step of half an octave


def test_reparametrized_channels_share_their_bounds():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, generator=generator) * torch.rand(6, generator=generator) * 9 + torch.arange(6)
    lower, step = x.amin(0), (x.amax(0) - x.amin(0)) / 15
    scale, shift = repq.reparametrization(lower, step)
    moved = (x - shift) / scale
    assert torch.allclose(moved.amin(0), moved.amin(0).mean().expand(6), atol=1e-4)
    assert torch.allclose(moved.amax(0), moved.amax(0).mean().expand(6), atol=1e-4)
    assert scale.mean() == pytest.approx(1)


def test_reparametrization_leaves_the_function(pictures):
    model = tiny.make("swinir light x4")
    work = begin(model, pictures, quick("repq"), 0)
    repq.reparametrize(work)
    block = work.student.layers[0].residual_group.blocks[0]
    assert not torch.equal(block.norm1.weight, model.layers[0].residual_group.blocks[0].norm1.weight)
    assert distance(work.student, model, tiny.picture(model)) < 1e-9


def test_logarithmic_softmax_stays_in_simulation(pictures, tmp_path):
    model = tiny.make("swinir light x4")
    small = compress(model, quick("repq", softmax="log"), pictures)
    kinds = {n: type(m.quantizer_a) for n, m in quantized_layers(small).items() if isinstance(m, QuantMatMul)}
    assert {n.rpartition(".")[2]: k for n, k in kinds.items()} == {
        "matmul_qk": AffineQuantizer, "matmul_av": LogSqrt2Quantizer
    }  # fmt: skip
    with pytest.raises(UnsupportedLayer, match="LogSqrt2Quantizer"):
        bitsr.save(small, tmp_path / "small.bitsr")


# ---- SVDQuant ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_the_low_rank_part_is_the_best_one(weighted):
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(9, 12, generator=generator), torch.randn(500, 12, generator=generator)
    x = x * torch.linspace(0.1, 3, 12)
    root = svdquant.second_moment_root(x) if weighted else torch.eye(12, dtype=torch.float64)
    left, right = svdquant.low_rank(weight, 3, root)

    def error(left, right):
        return float(((weight - left @ right).double() @ root).square().sum())

    best = error(left, right)
    for seed in range(20):
        noise = torch.Generator().manual_seed(seed)
        assert error(left + 0.01 * torch.randn(9, 3, generator=noise), right) > best
        assert error(left, right + 0.01 * torch.randn(3, 12, generator=noise)) > best


@pytest.mark.parametrize("name", NETWORKS)
def test_branching_off_leaves_the_function(name, pictures):
    model = tiny.make(name)
    work = begin(model, pictures, quick("svdquant"), 0)
    layerwise([svdquant.branch_off(2, True)], bound_operands(dobi), samples=128)(work)
    for layer in work.layers.values():
        if isinstance(layer, QuantMatMul):
            layer.quantizer_a = layer.quantizer_b = None
    branches = [n for n, m in work.layers.items() if getattr(m, "branch", None) is not None]
    assert branches and distance(work.student, model, tiny.picture(model)) < 1e-9


# ---- Granular-DQ ---------------------------------------------------------------------------------------------------


class TestGranular:
    options = {"steps": "2", "batch": "2", "crop": "12", "patch": "16", "samples": "64"}

    @pytest.mark.parametrize("name", NETWORKS)
    def test_every_patch_has_its_bits(self, name, pictures, tmp_path):
        model = tiny.make(name)
        small = compress(model, config_for("granular-dq", 8, 8, overrides=self.options), pictures)
        x = tiny.picture(model, 40, 24)
        with torch.no_grad():
            y, again = small(x), small(x)
        assert torch.equal(y, again) and y.shape == model(x).shape
        assert len(small.last_bits) == 3 * 2 and set(small.last_bits) <= {4, 5, 6, 8}
        if "swinir" in name:
            products = [m for m in quantized_layers(small).values() if isinstance(m, QuantMatMul)]
            assert products and all(m.quantizer_a is None for m in products)
        with pytest.raises(UnsupportedLayer, match="GranularNetwork"):
            bitsr.save(small, tmp_path / "small.bitsr")

    def test_fewer_bits_are_further_away(self, pictures):
        model = tiny.make("edsr")
        small = compress(model, config_for("granular-dq", 8, 8, overrides=self.options | {"steps": "0"}), pictures)
        x, errors = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255, []
        for bits in (4, 6, 8):
            small.switch(bits)
            errors.append(distance(small.network, model, x))
        assert errors[0] > errors[1] > errors[2]

    def test_entropy(self):
        flat = torch.full((3, 8, 8), 0.5)
        ramp = torch.linspace(0, 1, 64).view(1, 8, 8).expand(3, 8, 8)
        assert granular_dq.entropy(ramp) == pytest.approx(math.log(32), abs=0.1)
        assert granular_dq.entropy(flat) == pytest.approx(1.18, abs=0.01)  # the least of the published table

    def test_only_eight_bits_can_be_asked_for(self):
        with pytest.raises(ConfigError, match="8 bit"):
            config_for("granular-dq", 4, 4)


# ---- network-wise methods ------------------------------------------------------------------------------------------


def test_dqc_losses_by_hand():
    o, q = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    f, g = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[4.0, 3.0]]]])
    assert twodquant.pixel_loss(q, o) == 0.5
    assert twodquant.feature_loss(f, g) == pytest.approx(math.sqrt(2) * 0.2 / 2)
    assert twodquant.dqc_loss([q, f], [o, g]) == pytest.approx(0.5 + 5 * math.sqrt(2) * 0.1)
    assert twodquant.released_pixel_loss(q, o) == pytest.approx(0.5 / 48)
    assert twodquant.released_feature_loss(f, g) == pytest.approx(0.04 / 2)


def test_dual_clipping_drops_the_emptier_end():
    v = torch.cat([torch.linspace(0, 1, 10000), torch.tensor([4.0, -2.0, -2.1])])
    lower, upper = dbdc_pac.dbdc(v, 4, 3e-4)
    width = 6.1 / 2048
    assert abs(float(lower)) < 3 * width and abs(float(upper) - 1) < 3 * width
    assert dbdc_pac.effective_tail(8) == 1e-5 and dbdc_pac.effective_tail(4) == 1e-4


def test_the_detached_feature_term_is_left_out():
    o, f, g = torch.zeros(1, 3, 2, 2), torch.rand(1, 4, 3, 3), torch.rand(1, 4, 3, 3)
    expected = (pams.attention_map(f) - pams.attention_map(g)).square().mean()
    assert dbdc_pac.pac_loss([o, f], [o + 0.5, g]) == pytest.approx(0.5 + 5 * float(expected))
    assert dbdc_pac.pac_loss([o, f], [o + 0.5, g], detached=True) == 0.5


def test_skt_by_hand():
    f = torch.tensor([[[[1.0, 2.0]], [[1.0, 0.0]]]])  # two channels of 1x2
    assert torch.allclose(pams.attention_map(f), torch.tensor([[1.0, 2.0]]) / math.sqrt(5))
    assert pams.skt_loss([f, f], [f, f]) == 0


def test_feature_maps_have_their_channels_first():
    model = tiny.make("swinir light x4")
    names = features_of(model)
    assert names == ["layers.0.residual_group"]
    with torch.no_grad():
        y, feature = outputs_of(model, torch.rand(1, 3, 8, 8), names)
        assert torch.equal(y, model(torch.rand(1, 3, 8, 8))) or y.shape == (1, 3, 32, 32)
    assert feature.shape == (1, 12, 8, 8)
    assert channels_first(nn.Conv2d(3, 5, 1), feature) is feature


@pytest.mark.parametrize("method,name", [("2dquant", "swinir light x4"), ("pams", "edsr"), ("dbdc-pac", "edsr")])
def test_training_brings_the_network_closer(method, name, pictures):
    model = tiny.make(name)
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    start = compress(model, quick(method, 3, steps="0"), pictures)
    trained = compress(model, quick(method, 3, steps="30"), pictures)
    assert distance(trained, model, x) < distance(start, model, x)


def test_2dquant_with_one_pair_of_bounds_per_weight(pictures):
    small = compress(tiny.make("edsr"), quick("2dquant", weights="tensor"), pictures)
    scale = small.body[0].conv1.decided.scale
    assert torch.equal(scale, scale[:1].expand_as(scale))


def test_the_narrow_grid_is_refused_by_name(pictures, tmp_path):
    small = compress(tiny.make("edsr"), quick("pams", narrow="true"), pictures)
    with pytest.raises(UnsupportedLayer, match="narrow"):
        bitsr.save(small, tmp_path / "small.bitsr")


def test_the_first_stage_of_2dquant_is_dobi(pictures):
    model = tiny.make("edsr")
    search = partial(dobi, candidates=10)
    work = begin(model, pictures, quick("2dquant"), 0)
    layerwise([set_bounds(search)], bound_operands(search))(work)
    first = compress(model, quick("2dquant", steps="0"), pictures)
    bounds = {n: layer.quantizer.upper for n, layer in quantized_layers(first).items()}
    assert all(torch.equal(work.layers[n].quantizer.upper, upper) for n, upper in bounds.items())
