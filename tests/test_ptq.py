"""Stages of the post-training methods: each does what its equation says, on small layers with known answers."""

import numpy as np
import pytest
import torch
from torch import nn

from bitsr.archs.rfdn import RFDN
from bitsr.archs.swinir import SwinIR
from bitsr.errors import ConfigError
from bitsr.methods.compress import compress
from bitsr.methods.ptq.config import HarmoQ
from bitsr.methods.ptq.gptq import gptq, refit
from bitsr.methods.ptq.harmoq import channel_ranges, correct, harmonized_scale, smooth
from bitsr.methods.ptq.pipeline import Seen, begin, centred, picture_limits, to_batches
from bitsr.methods.ptq.samples import collect
from bitsr.methods.ptq.scope import assign_bits, execution_order
from bitsr.methods.ptq.structural import correction
from bitsr.methods.registry import config_for, config_from, dump_config
from bitsr.parts.layers import QuantConv2d, QuantLinear, QuantMatMul, quantized_layers
from bitsr.parts.quantizer import AffineQuantizer


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    smooth_noise = rng.random((4, 5, 5, 3))
    return [np.kron(p, np.ones((5, 5, 1)))[:24, :24].__mul__(255).astype(np.uint8) for p in smooth_noise]


def tiny_swinir():
    torch.manual_seed(0)
    model = SwinIR(upscale=2, depths=(2,), embed_dim=12, num_heads=(2,), img_size=16, window_size=8)
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model.eval()


def tiny_rfdn():
    """With weights large enough that the body counts beside the long skip, as it does in a trained network."""
    torch.manual_seed(0)
    model = RFDN(nf=12, upscale=2)
    for p in model.parameters():
        p.data *= 1.7
    return model.eval()


def rows(n=600, d=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mixing, torch.randn(7, d, generator=generator)


def quantized(x, bits=3):
    return AffineQuantizer(bits, x.min(), x.max())(x).detach()


def exact_correction(w, x, xq, ridge):
    return correction("exact", w, centred(x), centred(xq), ridge)


class TestSRC:
    def test_is_zero_without_quantization_error(self):
        x, w = rows()
        assert exact_correction(w, x, x, 0.01).abs().max() < 1e-6

    def test_minimises_its_objective(self):
        x, w = rows()
        xq, target = quantized(x), x @ w.T
        ridge = 0.02
        d = exact_correction(w, x, xq, ridge)
        xc = xq - xq.mean(0)
        penalty = ridge * (xc.T @ xc).diagonal().mean()

        def objective(d):
            error = (target - target.mean(0)) - xc @ (w + d).T
            return float(error.square().sum() + penalty * d.square().sum())

        best = objective(d)
        for seed in range(50):
            noise = torch.randn(d.shape, generator=torch.Generator().manual_seed(seed)) * 0.01
            assert objective(d + noise) > best

    def test_never_increases_the_calibration_error_without_ridge(self):
        for seed in range(5):
            x, w = rows(seed=seed)
            for bits in (2, 3, 4, 8):
                xq, target = quantized(x, bits), x @ w.T
                d = exact_correction(w, x, xq, 0.0)

                def error(weight, xq=xq, target=target):
                    return float(((target - xq @ weight.T) - (target - xq @ weight.T).mean(0)).square().sum())

                assert error(w + d) <= error(w) * (1 + 1e-6)

    def test_regressing_on_the_quantized_input_beats_the_printed_order(self):
        """The printed formula regresses on the full-precision input: it amplifies the noise."""
        x, w = (values.double() for values in rows(4000))
        xq = quantized(x, 2)
        target = x @ w.T
        exact = w + exact_correction(w, x, xq, 0.0)
        delta = centred(xq - x)
        by_hand = w - w @ (delta.T @ centred(x)) @ torch.linalg.inv(centred(x).T @ centred(x))
        printed = w + correction("printed", w, centred(x), centred(xq), 0.0)
        assert torch.allclose(printed, by_hand, atol=1e-6)

        def error(weight):
            difference = target - xq @ weight.T
            return float((difference - difference.mean(0)).square().mean())

        assert error(exact) < 0.9 * error(w)
        assert error(exact) < error(printed)

    def test_is_anchored(self):
        """However often the step is taken, it starts from the pristine weight."""
        x, w = rows()
        linear = nn.Linear(w.shape[1], w.shape[0])
        linear.weight.data = w.clone()
        layer = QuantLinear(linear, 4, 3)
        layer.quantizer = AffineQuantizer(3, x.min(), x.max())
        seen = Seen(x, x @ w.T, w.clone(), torch.stack([x.amin(0), x.amax(0)]))
        with torch.no_grad():
            correct(0.01)(layer, seen)
            once = layer.weight.clone()
            correct(0.01)(layer, seen)
        assert not torch.equal(once, w)
        assert torch.equal(layer.weight, once)

    def test_groups_are_corrected_on_their_own(self):
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        layer = QuantConv2d(conv, 4, 4)
        x = torch.randn(800, 36)
        layer.quantizer = AffineQuantizer(3, x.min(), x.max())
        target = torch.cat([x[:, :18] @ conv.weight.flatten(1)[:3].T, x[:, 18:] @ conv.weight.flatten(1)[3:].T], 1)
        with torch.no_grad():
            correct(0.01)(layer, Seen(x, target.detach(), conv.weight.detach(), torch.stack([x.amin(0), x.amax(0)])))
        first = exact_correction(conv.weight.flatten(1)[:3], x[:, :18], quantized(x)[:, :18], 0.01)
        assert torch.allclose(layer.weight.flatten(1)[:3], conv.weight.flatten(1)[:3] + first, atol=1e-5)


class TestHSO:
    def test_one_constant_factor_does_not_matter(self):
        x, w = torch.rand(50, 6, 1) * torch.arange(1, 7)[:, None], torch.randn(5, 6, 1)
        a = harmonized_scale(*channel_ranges(x, w), 0.5)
        b = harmonized_scale(*channel_ranges(17 * x, w), 0.5)
        assert torch.allclose(a, b, rtol=1e-5)

    def test_balances_ranges(self):
        x, w = torch.randn(500, 6, 1) * torch.tensor([1.0, 2, 0.5, 3, 1, 0.7])[:, None], torch.randn(5, 6, 1)
        s = harmonized_scale(*channel_ranges(x, w), 0.5)
        xr, wr = channel_ranges(x / s[:, None], w * s[:, None])
        assert torch.allclose(xr / wr, (xr / wr).mean().expand(6), rtol=1e-4)

    @pytest.mark.parametrize("make", [tiny_swinir, tiny_rfdn])
    def test_folding_leaves_the_function_as_it_was(self, make, pictures):
        model = make()
        work = begin(model, pictures, HarmoQ(w_bits=2, a_bits=2), 0)
        smooth(work, rows=256)
        x = torch.rand(1, 3, 24, 24)
        with torch.no_grad():
            assert (work.student(x) - model(x)).abs().max() < 1e-5
        moved = [
            n for n, m in work.layers.items() if isinstance(m, QuantLinear | QuantConv2d) and m.input_scale is not None
        ]
        if make is tiny_swinir:  # behind a LayerNorm, and behind the values, everything is folded
            assert not any(n.endswith(("qkv", "fc1", "proj")) for n in moved)


class TestGPTQ:
    def test_beats_rounding_to_nearest_under_the_covariance(self):
        x, w = rows(2000)
        covariance = (x.T @ x / len(x)).double()
        lower, step = w.amin(1, keepdim=True), (w.amax(1, keepdim=True) - w.amin(1, keepdim=True)) / 7
        nearest = ((w - lower) / step).round().clamp(0, 7)
        codes = gptq(w, covariance, lower, step, 3).float()

        def error(codes):
            d = (lower + step * codes - w).double()
            return float((d @ covariance @ d.T).trace())

        assert error(codes) < 0.8 * error(nearest)
        assert codes.min() >= 0 and codes.max() <= 7

    def test_is_nearest_for_white_inputs(self):
        _, w = rows()
        lower, step = w.amin(1, keepdim=True), (w.amax(1, keepdim=True) - w.amin(1, keepdim=True)) / 15
        codes = gptq(w, torch.eye(10, dtype=torch.float64), lower, step, 4)
        assert torch.equal(codes.float(), ((w - lower) / step).round())

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_refit_is_the_least_squares_solution(self, symmetric):
        x, w = rows()
        covariance = (x.T @ x).double()
        codes = torch.randint(0, 8, w.shape, generator=torch.Generator().manual_seed(1))
        scale, mid = refit(codes, w, covariance, symmetric, 3)

        def error(scale, mid):
            fitted = (codes - 4) * scale[:, None] + (0 if mid is None else mid[:, None])
            d = (fitted - w).double()
            return float((d @ covariance * d).sum())

        best = error(scale, mid)
        assert error(scale * 1.01, mid) > best and error(scale * 0.99, mid) > best
        if mid is not None:
            assert error(scale, mid + 0.01) > best and error(scale, mid - 0.01) > best


class TestScope:
    def test_transformer(self):
        model = tiny_swinir()
        order = execution_order(model, torch.rand(1, 3, 16, 16))
        full = assign_bits(model, order, config_for("minmax", 4, 3))
        assert order[0] == "conv_first" and order[-1] == "upsample.0"
        assert full["conv_first"] == (8, 8) and full["layers.0.residual_group.blocks.0.attn.qkv"] == (4, 3)
        paper = assign_bits(model, order, config_for("minmax", 4, 3, scope="paper"))
        assert not any("conv" in n or "upsample" in n for n in paper)
        assert sum(n.endswith(("matmul_qk", "matmul_av")) for n in paper) == 4

    def test_cnn(self):
        model = tiny_rfdn()
        order = execution_order(model, torch.rand(1, 3, 16, 16))
        bits = assign_bits(model, order, config_for("minmax", 2, 2, scope="paper"))
        assert bits["fea_conv"] == bits["upsampler.0"] == (8, 8)
        assert all(b == (2, 2) for n, b in bits.items() if n not in ("fea_conv", "upsampler.0"))

    def test_weight_only_and_floating_point(self):
        model = tiny_rfdn()
        order = execution_order(model, torch.rand(1, 3, 16, 16))
        assert assign_bits(model, order, config_for("minmax", 4, 32))["B1.c5"] == (4, 32)
        assert assign_bits(model, order, config_for("minmax", 16, 32)) == {}


@pytest.mark.parametrize("make", [tiny_swinir, tiny_rfdn])
@pytest.mark.parametrize("method", ["minmax", "percentile", "dobi", "harmoq"])
def test_methods_compress_and_more_bits_are_closer(make, method, pictures):
    """In the papers' scope: the error of layers that stay at 8 bit would hide that of the others."""
    model, x = make(), to_batches(pictures)[0]
    quick = {"distill_steps": "3", "abr_steps": "5", "samples": "512", "groups": "2"}
    overrides = quick if method == "harmoq" else {}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    error = {}
    for bits in (2, 8):
        config = config_for(method, bits, bits, scope="paper", overrides=overrides)
        compressed = compress(model, config, pictures)
        with torch.no_grad():
            error[bits] = float((compressed(x) - model(x)).square().mean())
        assert all(
            m.decided is not None for m in quantized_layers(compressed).values() if not isinstance(m, QuantMatMul)
        )
    assert 0 < error[8] < 0.1 * error[2]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the original was changed"


def test_harmoq_is_ahead_of_its_parts_on_a_small_network(pictures):
    model, x = tiny_rfdn(), to_batches(pictures)[0]
    options = {"distill_steps": "0", "samples": "1024", "groups": "4"}
    methods = {"dobi": config_for("dobi", 3, 3), "harmoq": config_for("harmoq", 3, 3, overrides=options)}
    with torch.no_grad():
        error = {n: float((compress(model, c, pictures)(x) - model(x)).square().mean()) for n, c in methods.items()}
    assert error["harmoq"] < error["dobi"]


@pytest.mark.parametrize("method", ["pams", "2dquant", "dbdc-pac", "brecq"])
@pytest.mark.parametrize("bits", [(4, 16), (16, 4), (16, 16)])
def test_operands_may_stay_in_floating_point(method, bits, pictures):
    """Also where nothing is left that the method could learn."""
    overrides = {"steps": "3"} if method in ("pams", "2dquant", "dbdc-pac") else {}
    compress(tiny_rfdn(), config_for(method, *bits, overrides=overrides), pictures)


def test_the_printed_algorithm_takes_both_operands_at_few_bits():
    for bits in ((4, 16), (16, 4)):
        with pytest.raises(ConfigError, match="weights and inputs together"):
            config_for("harmoq-literal", *bits)


@pytest.mark.parametrize("method", ["best", "smoothquant", "svdquant", "adaround"])
def test_fewer_rows_than_pictures_are_rounded_up(method, pictures):
    compress(tiny_rfdn(), config_for(method, 4, 4, overrides={"samples": "2"}), pictures)


def test_channels_last_weights_are_corrected_alike(pictures):
    """src changes weights in place: in the layout of the layer's own copy."""
    config = config_for("harmoq", 3, 3, overrides={"distill_steps": "0", "abr_steps": "0"})
    plain = compress(tiny_rfdn(), config, pictures).state_dict()
    turned = compress(tiny_rfdn().to(memory_format=torch.channels_last), config, pictures).state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(turned[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_the_fewest_bits_count_attention():
    assert config_for("best", 8, 8, overrides={"attention_bits": "4"}).fewest_bits == 4


def test_compression_is_reproducible(pictures):
    config = config_for("harmoq", 4, 4, overrides={"distill_steps": "3", "groups": "2", "samples": "256"})
    a, b = (compress(tiny_swinir(), config, pictures, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_users_network_is_compressed(pictures):
    class Users(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=2)
            self.mix = nn.Linear(8, 8, bias=False)
            self.last = nn.Conv2d(8, 12, 3, padding=1)

        def forward(self, x):
            y = torch.relu(self.deep(torch.relu(self.first(x))))
            y = self.mix(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return nn.functional.pixel_shuffle(self.last(y), 2)

    options = {"distill_steps": "3", "samples": "512", "groups": "2"}
    compressed = compress(Users(), config_for("harmoq", 4, 4, overrides=options), pictures)
    assert set(quantized_layers(compressed)) == {"first", "deep", "mix", "last"}
    assert compressed.mix.w_bits == 4 and compressed.deep.w_bits == 8


class TestConfigs:
    @pytest.mark.parametrize("method", ["minmax", "percentile", "dobi", "harmoq"])
    def test_round_trip(self, method):
        config = config_for(method, 3, 8)
        assert config_from(dump_config(config)) == config

    def test_refusals(self):
        for call in (
            lambda: config_for("harmoq", 1, 1),
            lambda: config_for("harmoq", 5, 4),
            lambda: config_for("nonsense"),
            lambda: config_for("dobi", overrides={"nonsense": "3"}),
            lambda: config_for("dobi", overrides={"candidates": "many"}),
            lambda: config_for("minmax", scope="half"),
            lambda: config_for("percentile", overrides={"tail": "0.7"}),
        ):
            with pytest.raises(ConfigError):
                call()

    def test_no_pictures(self):
        with pytest.raises(ConfigError, match="picture"):
            compress(tiny_rfdn(), config_for("minmax"), [])


@pytest.mark.parametrize("scope,certain", [("full", True), ("paper", False)])
def test_only_a_layer_that_reads_the_picture_is_bounded_by_black_and_white(scope, certain, pictures):
    """With scope 'paper' the first compressed layer stands behind a LayerNorm: flat pictures say nothing about it."""
    model = tiny_swinir()
    work = begin(model, pictures, config_for("minmax", 8, 8, scope), 0)
    name = next(iter(work.layers))
    seen = collect(work.student, [name], work.batches, 64)[0][name]
    limits = picture_limits(work, name, seen)
    assert (limits is not None) == certain
    if limits is not None:
        assert torch.allclose(limits[1] - limits[0], torch.ones(3), atol=1e-5)
    bound = quantized_layers(compress(model, config_for("minmax", 8, 8, scope), pictures))[name].quantizer
    assert bound.lower <= seen.low.min() and bound.upper >= seen.high.max()
