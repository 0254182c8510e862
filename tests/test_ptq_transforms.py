"""Methods that change a layer before it is quantized, or choose its bits: scales, low rank, bits by patch."""

import math

import numpy as np
import pytest
import torch

import bitsr
import tiny
from bitsr.errors import ConfigError, UnsupportedLayer
from bitsr.methods.compress import compress
from bitsr.methods.ptq import granular_dq, repq, svdquant
from bitsr.methods.ptq.bounds import dobi
from bitsr.methods.ptq.pipeline import (
    begin,
    bound_operands,
    layerwise,
)
from bitsr.methods.ptq.smoothquant import migrate, migration_scale
from bitsr.methods.registry import config_for
from bitsr.parts.layers import QuantMatMul, quantized_layers
from bitsr.parts.quantizer import AffineQuantizer, LogSqrt2Quantizer
from ptq_quick import NETWORKS, distance, quick

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
