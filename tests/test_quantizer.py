"""Affine quantizers: the formula, its gradients, integer zeros, and equality with the official 2DQuant code."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsr.methods.ptq.bounds import both_ends, dobi, minmax, percentile
from bitsr.parts.quantizer import AffineQuantizer, DecidedWeight


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_values_are_levels_between_the_bounds(bits):
    x = torch.linspace(-3, 3, 1001)
    quantizer = AffineQuantizer(bits, -1.0, 2.0)
    y = quantizer(x).detach()
    assert y.unique().numel() == 2**bits
    assert y.min() == -1 and y.max() == pytest.approx(2)
    assert torch.equal(quantizer.codes(x), ((x.clamp(-1, 2) + 1) / (3 / (2**bits - 1))).round().to(torch.uint8))


def test_ties_round_to_even():
    quantizer = AffineQuantizer(2, 0.0, 3.0)
    assert quantizer.codes(torch.tensor([0.5, 1.5, 2.5])).tolist() == [0, 2, 2]


@pytest.mark.parametrize("lower,upper", [(-1.0, 2.0), (-0.31, 0.9), (0.2, 1.4), (-2.0, -0.5)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integer_zero_makes_zero_a_level(bits, lower, upper):
    quantizer = AffineQuantizer(bits, lower, upper, integer_zero=True)
    low, step = quantizer.grid()
    zero = (-low / step).round()
    assert 0 <= zero <= quantizer.levels
    assert low == -zero * step
    with torch.no_grad():
        assert quantizer(torch.zeros(1)).item() == pytest.approx(0, abs=1e-7)
    with torch.no_grad():
        plain = quantizer(torch.linspace(-3, 3, 100))
    assert torch.allclose(quantizer(torch.linspace(-3, 3, 100)), plain, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.01, 100), st.sampled_from([2, 3, 4, 8]), st.floats(-2, 0), st.floats(0.1, 3), st.integers(0, 2**31 - 1)
)
def test_a_scalar_scale_is_a_gauge(s, bits, lower, width, seed):
    """Q(x/s; l/s, u/s) s = Q(x; l, u): the printed, scalar HSO changes nothing (up to rounding of exact ties)."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=500)).float()
    a = AffineQuantizer(bits, lower, lower + width)(x)
    b = AffineQuantizer(bits, lower / s, (lower + width) / s)(x / s) * s
    assert (torch.isclose(a, b, atol=1e-5 * (1 + width))).float().mean() > 0.99


def test_gradients_agree_with_finite_differences_where_clipped():
    x = torch.tensor([-5.0, 5.0])
    quantizer = AffineQuantizer(3, -1.0, 2.0)
    quantizer(x).sum().backward()
    assert quantizer.lower.grad == 1 and quantizer.upper.grad == 1


def test_row_bounds_broadcast_and_reduce():
    x = torch.randn(4, 30)
    quantizer = AffineQuantizer(3, x.amin(1, keepdim=True), x.amax(1, keepdim=True))
    quantizer(x).square().sum().backward()
    assert quantizer.lower.grad.shape == (4, 1)


def test_official_fake_quantizers(shared):
    from safetensors.torch import load_file

    tensors = load_file(shared / "golden/twodquant.safetensors")
    cases = json.loads((shared / "golden/twodquant.json").read_text())["fakequant_cases"]
    for case in cases:
        name = case["name"]
        x = tensors[f"{name}.x"].clone().requires_grad_(True)
        quantizer = AffineQuantizer(case["bit"], case["lower"], case["upper"])
        y = quantizer(x)
        y.backward(tensors["fq.grad_out"])
        span = case["upper"] - case["lower"]
        close = torch.isclose(y, tensors[f"{name}.y"], atol=1e-5 * span)
        assert close.float().mean() > 0.998, name  # a value on a rounding boundary may fall either way
        assert torch.allclose(x.grad, tensors[f"{name}.grad_x"], atol=1e-6), name
        scale = tensors["fq.grad_out"].abs().sum()
        for bound in ("lower", "upper"):
            mine, theirs = getattr(quantizer, bound).grad, tensors[f"{name}.grad_{bound}"]
            assert float((mine - theirs).abs()) < 2e-3 * float(scale), (name, bound)


def test_official_dobi_bounds(shared):
    from safetensors.torch import load_file

    tensors = load_file(shared / "golden/twodquant.safetensors")
    for case in json.loads((shared / "golden/twodquant.json").read_text())["dobi_cases"]:
        x = tensors[f"dobi.{case['tensor']}.x"].flatten()
        lower, upper = dobi(x, case["bit"], case["num"], from_below=case["one_direction"])
        step = (upper - lower) / (2 ** case["bit"] - 1)
        error = ((((x - lower) / step).round().clamp(0, 2 ** case["bit"] - 1) * step + lower) - x).norm()
        assert float(error) <= case["err_norm"] * (1 + 1e-4), case
        if abs(float(lower) - case["lower"]) > 1e-4:  # two candidates may tie
            assert float(error) == pytest.approx(case["err_norm"], rel=1e-3)


def test_percentile_and_minmax():
    v = torch.arange(1000.0)
    assert [float(b) for b in minmax(v)] == [0, 999]
    assert [float(b) for b in percentile(v, tail=0.01)] == [10, 989]
    assert percentile(torch.randn(3, 50))[0].shape == (3, 1)


def test_dobi_is_never_worse_than_minmax():
    for seed in range(5):
        v = torch.randn(2000, generator=torch.Generator().manual_seed(seed)) ** 3
        for bits in (2, 3, 4):

            def error(bounds, v=v, bits=bits):
                return (AffineQuantizer(bits, *(b.squeeze() for b in bounds))(v) - v).square().sum()

            assert error(dobi(v, bits)) <= error(minmax(v))


def rounding_error(v, bits, bounds):
    lower, upper = bounds
    step = ((upper - lower) / (2**bits - 1)).clamp_min(1e-12)
    return ((((v - lower) / step).round().clamp(0, 2**bits - 1) * step + lower) - v).square().sum(-1)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_both_ends_are_searched_freely(bits):
    """DOBI is never ahead by more than a histogram's bins hide, on rows hardly, and behind on tensors of one sign."""
    generator = torch.Generator().manual_seed(bits)
    gaussian, cubed = torch.randn(2, 20, 2000, generator=generator)
    tails = torch.where(gaussian < -2.5, 20 * gaussian, gaussian)
    for v in (gaussian, cubed**3, gaussian.relu(), -cubed.abs(), tails):
        rows, published = rounding_error(v, bits, both_ends(v, bits)), rounding_error(v, bits, dobi(v, bits))
        assert rows.mean() <= 1.03 * published.mean()
        one = v.flatten()
        assert rounding_error(one, bits, both_ends(one, bits)) <= 1.02 * rounding_error(one, bits, dobi(one, bits))
    negative = -cubed.abs()
    found, published = (rounding_error(negative, bits, search(negative, bits)) for search in (both_ends, dobi))
    assert (found < 0.9 * published).all()


def test_both_ends_near_the_least_error_of_all_pairs():
    v = torch.cat([torch.randn(500, generator=torch.Generator().manual_seed(0)), torch.tensor([-30.0, 4.0])])
    ends = torch.linspace(-30, 4, 300)
    least = min(float(rounding_error(v, 3, (low, high))) for low in ends for high in ends[ends > low])
    assert float(rounding_error(v, 3, both_ends(v, 3))) <= 1.02 * least


def test_both_ends_of_an_attention_map_keep_zero():
    map_ = torch.rand(5000, generator=torch.Generator().manual_seed(0)) ** 6
    map_[0] = 0
    lower, upper = both_ends(map_, 3)
    assert lower == 0 and 0 < upper < map_.max()
    error = rounding_error(map_, 3, (lower, upper))
    assert error <= 1.02 * rounding_error(map_, 3, dobi(map_, 3))


def test_both_ends_of_weighted_and_constant_rows():
    v = torch.tensor([[-9.0, 0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0, 5.0]])
    lower, upper = both_ends(v, 2, weight=torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]))
    assert rounding_error(v[0, 1:], 2, (lower[0], upper[0])) < 0.02  # the element that does not count is given up
    assert (lower[1], upper[1]) == (5, 5)
    assert [float(b) for b in both_ends(torch.full((100,), -2.0), 4)] == [-2, -2]


def test_one_sided_search_keeps_the_minimum():
    v = torch.rand(1000) ** 4
    lower, _ = dobi(v, 2)
    assert lower == v.min()


def test_decided_weight_has_its_levels():
    codes = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 0]])
    weight = DecidedWeight(2, codes, torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]))()
    assert torch.equal(weight, torch.tensor([[-1.5, -0.5, 0.5, 1.5], [2.0, 2.0, -4.0, -4.0]]))
