"""BSSR: the worked example, group sizes, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitsr.errors import ConfigError
from bitsr.methods.binary.bhvit import BHViTWeight
from bitsr.methods.binary.bssr import BSQ, BSSR, BSSRLinear, BSSRMasks
from bitsr.parts.scale_groups import ScaleGroups, group_sizes
from bitsr.parts.sign import bsign

EXAMPLE = torch.tensor([[0.50, -0.20, 0.10, -0.40, 0.05, 0.30, -0.35, 0.02]])


def values(weight: torch.Tensor, config: BSSR) -> torch.Tensor:
    mask = BSSRMasks(config).mask(weight)
    return BSQ(*weight.shape, config)(weight, mask) * mask


def layer_of(config: BSSR | None = None, width: int = 40, rows: int = 6, seed: int = 0) -> BSSRLinear:
    torch.manual_seed(seed)
    return BSSRLinear(nn.Linear(width, rows), config or BSSR())


def test_worked_example() -> None:
    s = 0.3875
    expected = torch.tensor([[s, 0, 0, -s, 0, s, -s, 0]])
    torch.testing.assert_close(values(EXAMPLE, BSSR(group=8)), expected)


def test_a_kept_weight_that_equals_the_mean_is_positive() -> None:
    assert values(torch.full((1, 4), 0.25), BSSR(group=4)).tolist() == [[0.25, 0.25, 0, 0]]
    assert values(torch.zeros(1, 4), BSSR(group=4)).tolist() == [[0, 0, 0, 0]]


def test_signs_of_the_mean_turn_weights_around_and_need_not() -> None:
    weight = torch.tensor([[0.9, 0.1, 0.0, 0.0, 0.8, 0.0, 0.0, 0.2]])
    assert values(weight, BSSR(group=8)).sign().tolist() == [[1, -1, 0, 0, 1, 0, 0, -1]]
    assert values(weight, BSSR(group=8, centre=False)).sign().tolist() == [[1, 1, 0, 0, 1, 0, 0, 1]]
    with pytest.raises(ConfigError, match="need it"):
        BSSR(centre=False, add_mean=True)


@pytest.mark.parametrize("width", [32, 60, 120])
def test_rows_of_one_value_are_positive(width: int) -> None:
    """Their mean is that value, whatever it is, and nothing of it is left to be below 0."""
    rows = torch.rand(500, 1).expand(500, width).contiguous()
    assert (values(rows, BSSR()) >= 0).all() and (BHViTWeight()(rows) > 0).all()


def test_groups_of_one_block_are_the_printed_formula() -> None:
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    mask = BSSRMasks(BSSR()).mask(weight)
    kept = (weight * mask).view(3, 4, 4)
    scale, mean = kept.abs().sum(2, keepdim=True) / 2, kept.sum(2, keepdim=True) / 2
    printed = (scale * bsign(weight.view(3, 4, 4) - mean)).view(3, 16) * mask
    torch.testing.assert_close(values(weight, BSSR(group=4)), printed)


@pytest.mark.parametrize(
    "width,sizes", [(60, (32, 28)), (120, (32, 32, 32, 24)), (48, (32, 16)), (24, (24,)), (16, (16,)), (64, (32, 32))]
)
def test_ragged_groups(width: int, sizes: tuple[int, ...]) -> None:
    assert group_sizes(width, 32, 4) == sizes
    mask = BSSRMasks(BSSR()).mask(torch.randn(5, width))
    assert [int(part.sum()) for part in mask[0].split(sizes)] == [size // 2 for size in sizes]


def test_other_tilings() -> None:
    assert group_sizes(60, 32, 4, "balanced") == (32, 28)
    assert group_sizes(120, 32, 4, "balanced") == (32, 32, 28, 28)
    assert group_sizes(48, 32, 4, "balanced") == (24, 24)
    assert group_sizes(60, 32, 4, "row") == (60,)
    assert ScaleGroups(60, 60, 32, 4, "flat").count == 113
    with pytest.raises(ValueError, match="no whole blocks of 4"):
        group_sizes(30, 32, 4)


def test_inputs_of_zero_are_signs() -> None:
    layer = layer_of()
    assert layer.activation(torch.zeros(2, 40)).abs().eq(1).all()


def test_masked_weights_only_decay_and_kept_ones_get_the_surrogate() -> None:
    layer = layer_of(BSSR(rho=0.01))
    x = torch.randn(7, 40)
    y = layer(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    mask = layer.masks.mask(layer.weight)  # type: ignore[union-attr]
    g = upstream.T @ bsign(x)
    slope = 0.5 * (1 - (0.5 * layer.weight).tanh().square())
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad[~mask], (0.01 * layer.weight)[~mask])
    torch.testing.assert_close(layer.weight.grad[mask], (g * slope)[mask], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("surrogate_of", ["raw", "normal"])
def test_slopes_get_the_gradient_of_the_tanh_that_stands_in(surrogate_of: str) -> None:
    layer = layer_of(BSSR(surrogate_of=surrogate_of)).double()  # type: ignore[arg-type]
    x = torch.randn(7, 40, dtype=torch.float64)
    y = layer(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    assert layer.masks is not None and isinstance(layer.binarizer, BSQ)
    mask = layer.masks.mask(layer.weight)
    scale = layer.effective_weight().detach().abs()
    mean = layer.binarizer.scales.mean(layer.weight.detach(), mask)
    full = layer.binarizer.scales.mean(layer.weight.detach().abs(), mask)
    z = layer.weight.detach() if surrogate_of == "raw" else (layer.weight.detach() - mean) / full
    step = 1e-6
    difference = ((0.5 + step) * z).tanh() - ((0.5 - step) * z).tanh()
    expected = ((upstream.T @ bsign(x)) * scale * difference).sum() / (2 * step)
    assert layer.binarizer.kappa.grad is not None
    assert layer.binarizer.kappa.grad.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("add_mean", [False, True])
@pytest.mark.parametrize("scale_from", ["raw", "centred"])
def test_scale_and_mean_have_gradients_only_where_asked_for(scale_from: str, add_mean: bool) -> None:
    factors, gradients = torch.randn(6, 40), []
    for scale_gradient in (False, True):
        options = BSSR(scale_from=scale_from, add_mean=add_mean, scale_gradient=scale_gradient, rho=0.0)  # type: ignore[arg-type]
        layer = layer_of(options)
        (layer.effective_weight() * factors).sum().backward()
        gradients.append(layer.weight.grad)
    assert layer.masks is not None and isinstance(layer.binarizer, BSQ)
    weight, mask = layer.weight.detach().requires_grad_(), layer.masks.mask(layer.weight)
    mean_of = layer.binarizer.scales.mean
    mean = mean_of(weight, mask)
    scale = mean_of((weight - mean if scale_from == "centred" else weight).abs(), mask)
    values = scale * bsign(weight - mean).detach() + (mean if add_mean else 0)
    (expected,) = torch.autograd.grad((values * mask * factors).sum(), weight)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(gradients[1] - gradients[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("surrogate_of,kind", [("raw", "scale"), ("normal", "none")])
def test_the_chain_rule_of_what_stands_in(surrogate_of: str, kind: str) -> None:
    """mask * scale * tanh(kappa z): times the scale for the raw weight, without it for the normal one, W / scale."""
    layer = layer_of(BSSR(surrogate_of=surrogate_of, weight_gradient=kind, rho=0.0))  # type: ignore[arg-type]
    factors = torch.randn(6, 40)
    (layer.effective_weight() * factors).sum().backward()
    assert layer.masks is not None and isinstance(layer.binarizer, BSQ)
    weight, mask = layer.weight.detach().requires_grad_(), layer.masks.mask(layer.weight)
    mean, scale = (layer.binarizer.scales.mean(v, mask).detach() for v in (weight, weight.abs()))
    z = (weight - mean) / scale if surrogate_of == "normal" else weight
    (expected,) = torch.autograd.grad((mask * scale * (0.5 * z).tanh() * factors).sum(), weight)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scope,shapes", [("layer", ((1,), (1,))), ("channel", ((6, 1), (40,)))])
def test_scope_of_the_slopes(scope: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    layer = layer_of(BSSR(kappa_scope=scope))  # type: ignore[arg-type]
    layer(torch.randn(3, 40)).square().sum().backward()
    slopes = (layer.binarizer.kappa, layer.activation.kappa)
    assert tuple(tuple(kappa.shape) for kappa in slopes) == shapes
    assert all(kappa.grad is not None and kappa.grad.shape == kappa.shape for kappa in slopes)


def test_slopes_stay_in_their_range() -> None:
    layer = layer_of()
    with torch.no_grad():
        layer.binarizer.kappa.fill_(-3)
        layer.activation.kappa.fill_(99)  # type: ignore[union-attr]
    layer.on_step(0, 10)
    assert layer.binarizer.kappa.item() == pytest.approx(0.05)
    assert layer.activation.kappa.item() == 16  # type: ignore[union-attr]


def test_decoupled_decay_shrinks_what_is_not_kept() -> None:
    layer = layer_of(BSSR(decay_mode="decoupled", rho=0.5, decay_rate=0.1))
    before, mask = layer.weight.detach().clone(), layer.masks.mask(layer.weight)  # type: ignore[union-attr]
    layer.on_step(0, 10)
    assert torch.equal(layer.weight[mask], before[mask])
    torch.testing.assert_close(layer.weight[~mask], 0.95 * before[~mask])
    layer(torch.randn(3, 40)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad[~mask].eq(0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"tiling": "flat"}, {"tiling": "row"}, {"scale_from": "centred"}, {"add_mean": True}, {"gain": "scalar"},
        {"activation_surrogate": "bireal"}, {"activation_surrogate": "clip"}, {"kappa_learnable": False},
        {"keep": 1}, {"keep": 4}, {"surrogate_of": "normal", "weight_gradient": "scale"},
    ],
)  # fmt: skip
def test_every_reading_trains(options: dict[str, object]) -> None:
    layer = layer_of(BSSR(**options))  # type: ignore[arg-type]
    layer(torch.randn(3, 40)).square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all() and layer.weight.grad.any()


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep": 5}, {"group": 30}, {"kappa": 0.0}])
def test_contradictory_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BSSR(**options)  # type: ignore[arg-type]


def test_partial_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="3 inputs are no whole blocks of 4"):
        BSSRLinear(nn.Linear(3, 8), BSSR())
