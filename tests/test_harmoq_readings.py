"""Every reading of HarmoQ's formulas minimises what it says, and what the paper claims of them is checked."""

import math

import numpy as np
import pytest
import torch

import tiny
from bitsr.methods.compress import compress
from bitsr.methods.ptq.harmoq_literal import Trace, harmonized_factor, iterate
from bitsr.methods.ptq.pipeline import Seen, begin
from bitsr.methods.ptq.samples import collect
from bitsr.methods.ptq.structural import (
    channel_laplacian,
    correction,
    dct_matrix,
    exact,
    filtered,
    kernels,
    leading_directions,
    subspace,
    sylvester,
)
from bitsr.methods.registry import config_for
from bitsr.parts.layers import QuantLinear
from bitsr.parts.quantizer import AffineQuantizer


def rows(n=400, d=7, out=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator).double() @ torch.randn(d, d, generator=generator).double()
    quantized = AffineQuantizer(3, x.min(), x.max())(x.float()).detach().double()
    return torch.randn(out, d, generator=generator).double(), x, quantized


def penalty_of(quantized, ridge):
    return ridge * float((quantized.T @ quantized).diagonal().mean())


def is_minimum(objective, d):
    best = objective(d)
    for seed in range(30):
        noise = torch.randn(d.shape, generator=torch.Generator().manual_seed(seed)).double()
        if objective(d + 1e-3 * noise) <= best:
            return False
    return True


class TestSylvester:
    def test_normal_equation(self):
        w, x, q = rows()
        h = channel_laplacian(5)
        d = sylvester(w, x, q, 0.05, h)
        left = h.T @ h @ d @ (q.T @ q) + penalty_of(q, 0.05) * d
        right = -h.T @ h @ w @ ((q - x).T @ q)
        assert (left - right).abs().max() < 1e-9 * right.abs().max()

    def test_is_the_minimum(self):
        w, x, q = rows()
        h, penalty = channel_laplacian(5), penalty_of(q, 0.05)

        def objective(d):
            return float((h @ (w @ (q - x).T + d @ q.T)).square().sum() + penalty * d.square().sum())

        assert is_minimum(objective, sylvester(w, x, q, 0.05, h))

    def test_without_ridge_the_structure_drops_out(self):
        w, x, q = rows()
        assert torch.allclose(sylvester(w, x, q, 1e-10, channel_laplacian(5)), exact(w, x, q, 1e-10), atol=1e-5)


class TestSubspace:
    def test_is_the_minimum_of_its_features(self):
        w, x, q = rows()
        h = leading_directions(q, 3)
        features = q @ h.T
        penalty = 0.02 * float((features.T @ features).diagonal().mean())

        def objective(g):
            return float((w @ (q - x).T + g @ features.T).square().sum() + penalty * g.square().sum())

        assert is_minimum(objective, subspace(w, x, q, 0.02, h) @ h.T)

    def test_of_full_rank_is_exact(self):
        w, x, q = rows()
        assert torch.allclose(subspace(w, x, q, 1e-9, leading_directions(q, 7)), exact(w, x, q, 1e-9), atol=1e-5)


class TestSpatial:
    def tiles(self, n=6, d=4):
        generator = torch.Generator().manual_seed(0)
        tiles = torch.randn(n, 8, 8, d, generator=generator).double().cumsum(1).cumsum(2)
        return tiles, AffineQuantizer(3, tiles.min(), tiles.max())(tiles.float()).detach().double()

    @pytest.mark.parametrize("kind", ["laplacian", "sobel", "learned", "random", "dct"])
    def test_filters_commute_with_the_layer(self, kind):
        tiles, _ = self.tiles()
        w = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).double()
        bank = None if kind == "dct" else kernels(kind, tiles)
        assert torch.allclose(filtered(kind, tiles @ w.T, bank), filtered(kind, tiles, bank) @ w.T, atol=1e-10)

    def test_laplacian_by_hand(self):
        tiles = torch.arange(8.0).square()[:, None].expand(8, 8)[None, ..., None]  # y^2: its Laplacian is 2
        assert torch.equal(filtered("laplacian", tiles, kernels("laplacian", tiles)), torch.full((36, 1), 2.0))

    def test_dct_is_orthonormal_and_loses_constants(self):
        basis = dct_matrix(8)
        assert torch.allclose(basis @ basis.T, torch.eye(8, dtype=torch.float64))
        assert filtered("dct", torch.ones(2, 8, 8, 3).double()).abs().max() < 1e-12

    @pytest.mark.parametrize("kind", ["laplacian", "sobel", "dct"])
    def test_is_the_minimum_among_filtered_errors(self, kind):
        tiles, q = self.tiles()
        w = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).double()
        bank = None if kind == "dct" else kernels(kind, tiles)
        fx, fq = filtered(kind, tiles, bank), filtered(kind, q, bank)
        d = correction(kind, w, tiles.flatten(0, 2), q.flatten(0, 2), 0.01, (tiles, q)).double()

        def objective(d):
            return float((w @ (fq - fx).T + d @ fq.T).square().sum() + penalty_of(fq, 0.01) * d.square().sum())

        assert is_minimum(objective, d)

    def test_the_mix_lies_between(self):
        tiles, q = self.tiles()
        x, xq = tiles.flatten(0, 2), q.flatten(0, 2)
        w = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).double()

        def plain_error(reading):
            d = correction(reading, w, x, xq, 1e-6, (tiles, q)).double()
            return float((x @ w.T - xq @ (w + d).T).square().mean())

        assert plain_error("exact") <= plain_error("mix") <= plain_error("laplacian")

    @pytest.mark.parametrize("name", ["edsr", "swinir light x4"])
    def test_tiles_are_neighbours(self, name):
        """A linear ramp stays one under any layer's view of it: tiles of the first layer differ by constant steps."""
        model = tiny.make(name)
        ramp = torch.linspace(0, 1, 16)[:, None].expand(1, 3, 16, 16).contiguous()
        first = next(n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d))
        rows, _ = collect(model, [first], [ramp], 4, tiles=3)
        tiles = rows[first].tiles
        assert tiles.shape == (3, 8, 8, 27)
        inner = tiles[:, 1:-1, 1:-1].unflatten(-1, (3, 9))[..., 4]  # the middle tap
        assert (inner.diff(dim=2).abs() < 1e-6).all()
        assert torch.allclose(inner.diff(dim=1), inner.diff(dim=1).mean().expand_as(inner.diff(dim=1)), atol=1e-5)


def test_the_scalar_factor_balances_both_errors():
    for x_range, w_range, x_bits, w_bits in ((3.0, 0.2, 2, 2), (5.0, 1.0, 8, 8), (0.1, 2.0, 4, 2)):
        s = harmonized_factor(torch.tensor(x_range), torch.tensor(w_range), x_bits, w_bits)
        mse_x = (x_range / (s * (2**x_bits - 1))) ** 2 / 12
        mse_w = (s * w_range / (2**w_bits - 1)) ** 2 / 12
        assert float(mse_x) == pytest.approx(float(mse_w))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("s", [0.1, 0.5, 2.0, 7.3, 10.0])
def test_the_scalar_factor_is_an_identity(s, bits):
    """A gauge: with the bounds scaled alike no code changes, and the output is the same times s."""
    x = torch.randn(500, generator=torch.Generator().manual_seed(0)).double()
    lower, upper = x.min() * 0.8, x.max() * 0.7  # some are clipped
    plain, scaled = AffineQuantizer(bits, lower, upper), AffineQuantizer(bits, s * lower, s * upper)
    plain, scaled = plain.double(), scaled.double()
    assert torch.equal(scaled.codes(s * x), plain.codes(x))
    assert torch.allclose(scaled(s * x) / s, plain(x), atol=1e-5)


def literal_losses(anchored):
    torch.manual_seed(0)
    linear = torch.nn.Linear(10, 6)
    linear.weight.data *= 3
    layer = QuantLinear(linear, 2, 2)
    x = torch.randn(600, 10) @ torch.randn(10, 10)
    trace = Trace()
    config = config_for("harmoq-literal", 2, 2, overrides={"iterations": "20", "anchored": str(anchored)})
    iterate(config, trace)(layer, Seen(x, x @ linear.weight.T, linear.weight, torch.stack([x.amin(0), x.amax(0)])))
    assert layer.decided is not None
    return trace.losses[0]


def test_algorithm_1_diverges_as_printed_and_not_when_anchored():
    free, anchored = literal_losses(False), literal_losses(True)
    assert free[-1] > 5 * free[0]
    assert anchored[-1] < 5 * anchored[0]
    assert all(math.isfinite(v) for v in free)


@pytest.mark.parametrize(
    "options",
    [{"src": "sylvester"}, {"src": "random_subspace"}, {"src": "mix"}, {"src": "learned"}, {"abr_loss": "first_order"}],
    ids=lambda o: "-".join(o.values()),
)
def test_options_of_harmoq_run(options, pictures):
    quick = {"distill_steps": "0", "abr_steps": "2", "samples": "128", "groups": "1"}
    model = tiny.make("edsr")
    plain, other = (compress(model, config_for("harmoq", 3, 3, overrides=quick | o), pictures) for o in ({}, options))
    x = tiny.picture(model)
    with torch.no_grad():
        assert torch.isfinite(other(x)).all() and not torch.equal(other(x), plain(x))


def test_harmoq_literal_packs(pictures, tmp_path):
    import bitsr

    model = tiny.make("swinir light x4")
    small = compress(
        model, config_for("harmoq-literal", 4, 4, overrides={"samples": "64", "iterations": "2"}), pictures
    )
    bitsr.save(small, tmp_path / "small.bitsr", precision="fp32")
    x = tiny.picture(model)
    with torch.no_grad():
        simulated = tiny.hwc(small(x))
    packed = bitsr.open(tmp_path / "small.bitsr", backend="reference")(tiny.hwc(x))
    assert np.median(np.abs(packed - simulated)) < 1e-5


def test_every_layer_of_a_network_has_rows_without_tiles_too(pictures):
    model = tiny.make("rfdn")
    work = begin(model, pictures, config_for("minmax", 4, 4), 0)
    found, _ = collect(work.student, list(work.layers), work.batches, 16, tiles=2)
    assert any(r.tiles is None for r in found.values()) and any(r.tiles is not None for r in found.values())
