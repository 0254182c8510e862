"""The published post-training methods: each packs, is reproducible, and improves what it optimizes."""

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
from bitsr.methods.ptq import dbdc_pac, pams, twodquant
from bitsr.methods.ptq.bounds import dobi
from bitsr.methods.ptq.distill import channels_first, features_of, outputs_of
from bitsr.methods.ptq.pipeline import (
    begin,
    bound_operands,
    layerwise,
    set_bounds,
)
from bitsr.methods.registry import config_for, config_from, dump_config, stages_of
from bitsr.parts.layers import QuantMatMul, quantized_layers
from ptq_quick import NETWORKS, QUICK, distance, quick

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


@pytest.mark.parametrize("name", ["swinir light x4", "hat", "mambairv2 light x4"])
def test_feature_maps_have_their_channels_first(name):
    model = tiny.make(name).eval()
    names = features_of(model)
    assert names == ["layers.0.residual_group"]
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        y, feature = outputs_of(model, x, names)
        assert torch.equal(y, model(x))
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
    with pytest.raises(ConfigError, match="fewer bits"):
        quick("2dquant", 8, weights="tensor")


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
