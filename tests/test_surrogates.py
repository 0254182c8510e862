"""Values and gradients of binarizers, masks and RPReLU, each beside its formula, and what changes over the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitsr.methods.binary.bssr import BSSRLinear
from bitsr.methods.binary.config import BSSR, Binary
from bitsr.methods.binary.training import baseline_layer
from bitsr.parts.binarizers import ActivationBinarizer, RPReLU
from bitsr.parts.binary_layers import BinaryLayer
from bitsr.parts.masks import Masks

Formula = Callable[[Tensor], Tensor]


def spread(rows: int) -> Tensor:
    """Numbers on all sides of what surrogates turn at: 0.1, 1 and 1.5."""
    numbers = torch.linspace(-2, 2, 8 * rows)
    return numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(rows))].view(rows, 8)


def upstream(like: Tensor) -> Tensor:
    """A gradient to start from."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(9))


def signs(z: Tensor) -> Tensor:
    return torch.where(z < 0, -1.0, 1.0)


def inside(z: Tensor, bound: float = 1.0) -> Tensor:
    return torch.where(z.abs() > bound, 0.0, 1.0)


def triangle(z: Tensor) -> Tensor:
    return torch.where(z.abs() < 1, 2 - 2 * z.abs(), torch.zeros_like(z))


def reste_slope(z: Tensor, o: float) -> Tensor:
    falling = z.abs() ** ((1 - o) / o) / o
    return torch.where(z.abs() <= 0.1, torch.full_like(z, 0.1 ** (1 / o) / 0.1), falling) * inside(z, 1.5)


def row_size(weight: Tensor) -> Tensor:
    return weight.abs().mean(1, keepdim=True)


def centred(weight: Tensor) -> Tensor:
    return weight - weight.mean(1, keepdim=True)


def layer_of(binarizer: str, **options: Any) -> BinaryLayer:
    source = nn.Linear(8, 4)
    source.weight.data = spread(4)
    return baseline_layer(source, Binary(binarizer=binarizer, **options))  # type: ignore[arg-type]


# ---- weights --------------------------------------------------------------------------------------------------------


def reste_gradient(grad: Tensor, weight: Tensor, o: float) -> Tensor:
    """Of the sign and of the scale, which is that of the whole tensor."""
    return grad * weight.abs().mean() * reste_slope(weight, o) + signs(weight) * (grad * signs(weight)).mean()


def biper_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    return grad * row_size(weight) * 20 * (20 * weight).cos()


VALUES: dict[str, Formula] = {
    "dorefa": lambda w: w.abs().mean() * signs(w),
    "reste": lambda w: w.abs().mean() * signs(w),
    "biper": lambda w: row_size(w) * signs((20 * w).sin()),
    "bhvit": lambda w: row_size(w) * signs(centred(w)),
    "xnor": lambda w: row_size(w) * signs(w),
    "bireal": lambda w: row_size(w) * signs(w),
    "reactnet": lambda w: row_size(w) * signs(w),
    "bbcu": lambda w: row_size(w) * signs(w),
}
GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dorefa": lambda g, w: g,
    "reste": lambda g, w: reste_gradient(g, w, 1.0),
    "biper": biper_gradient,
    "bhvit": lambda g, w: centred(g * inside(centred(w))),
    "xnor": lambda g, w: g * inside(w),
    "bireal": lambda g, w: g * inside(w) * row_size(w),
    "reactnet": lambda g, w: g * inside(w),
    "bbcu": lambda g, w: g * inside(w),
}


def assert_weight_gradient(layer: BinaryLayer, expected: Tensor) -> None:
    layer.effective_weight().backward(upstream(layer.weight))
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(VALUES))
def test_weights(name: str) -> None:
    layer, weight = layer_of(name), spread(4)
    torch.testing.assert_close(layer.effective_weight().detach(), VALUES[name](weight))
    assert_weight_gradient(layer, GRADIENTS[name](upstream(weight), weight))


# ---- inputs ---------------------------------------------------------------------------------------------------------

SURROGATES: dict[str, tuple[Callable[[], BinaryLayer], Formula]] = {
    "dorefa": (lambda: layer_of("dorefa"), inside),
    "dorefa unit": (lambda: layer_of("dorefa", unit_inputs=True), lambda z: torch.where((z >= 0) & (z <= 1), 1.0, 0.0)),
    "reste": (lambda: layer_of("reste"), lambda z: inside(z, 1.5)),
    "biper": (lambda: layer_of("biper").eval(), triangle),  # in training of what is divided by its deviation
    "bhvit": (lambda: layer_of("bhvit"), triangle),
    "xnor": (lambda: layer_of("xnor"), lambda z: row_size(z) * inside(z)),
    "xnor windows": (lambda: baseline_layer(nn.Conv2d(8, 4, 3), Binary(binarizer="xnor")), inside),
    "bireal": (lambda: layer_of("bireal"), triangle),
    "reactnet": (lambda: layer_of("reactnet"), triangle),
    "bbcu": (lambda: layer_of("bbcu"), triangle),
    "bssr": (lambda: bssr("tanh"), lambda z: 0.5 * (1 - (0.5 * z).tanh() ** 2)),
    "bssr bireal": (lambda: bssr("bireal"), triangle),
    "bssr clip": (lambda: bssr("clip"), inside),
}


def bssr(surrogate: Any) -> BinaryLayer:
    return BSSRLinear(nn.Linear(8, 4), BSSR(activation_surrogate=surrogate))


def assert_input_gradients(activation: ActivationBinarizer, surrogate: Formula) -> None:
    """Those of x, gain and shift are what comes after times the surrogate of gain * x + shift."""
    x, gain, shift = spread(6).requires_grad_(), torch.ones(8), torch.zeros(8)
    if activation.gain is not None:
        gain = activation.gain.data = torch.linspace(-1.5, 2, 8)
    if activation.shift is not None:
        shift = activation.shift.data = torch.linspace(-0.3, 0.3, 8)
    grad = upstream(x)
    activation(x).backward(grad)
    z = gain * x.detach() + shift
    passed = grad * surrogate(z)
    expected = [(x, passed * gain), (activation.gain, (passed * x).sum(0)), (activation.shift, passed.sum(0))]
    for ours, gradient in expected:
        if ours is not None:
            torch.testing.assert_close(ours.grad, gradient.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(SURROGATES))
def test_inputs(name: str) -> None:
    make, surrogate = SURROGATES[name]
    assert_input_gradients(make().activation, surrogate)


# ---- over the training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step,o", [(0, 1.0), (50, 3 - math.sqrt(2)), (100, 3.0)])
def test_re_ste_turns_into_the_sign_for_weights_and_inputs(step: int, o: float) -> None:
    layer, weight = layer_of("reste"), spread(4)
    layer.on_step(step, 100)
    assert_weight_gradient(layer, reste_gradient(upstream(weight), weight, o))
    assert_input_gradients(layer.activation, lambda z: reste_slope(z, o))


@pytest.mark.parametrize("step,binary", [(0, False), (199, False), (200, True), (299, True)])
def test_biper_is_binary_in_the_last_third(step: int, binary: bool) -> None:
    layer, weight = layer_of("biper"), spread(4)
    layer.on_step(step, 300)
    carrier = (20 * weight).sin()
    expected = row_size(weight) * (signs(carrier) if binary else carrier)
    torch.testing.assert_close(layer.effective_weight().detach(), expected)
    assert_weight_gradient(layer, biper_gradient(upstream(weight), weight))


# ---- masks and RPReLU -----------------------------------------------------------------------------------------------

MASKS: dict[str, tuple[Callable[[], BinaryLayer], bool, float]] = {  # (.., is the gradient dense, decay)
    "srste": (lambda: layer_of("none", mask="srste"), True, 2e-4),
    "bimask": (lambda: layer_of("none", mask="bimask"), True, 2e-4),
    "tmask": (lambda: layer_of("none", mask="tmask"), True, 2e-4),
    "sste": (lambda: layer_of("none", mask="sste"), True, 0.0),
    "asp": (lambda: layer_of("none", mask="asp"), False, 0.0),
    "bssr": (lambda: BSSRLinear(nn.Linear(8, 4), BSSR()), False, 0.002),
    "bssr decoupled": (lambda: BSSRLinear(nn.Linear(8, 4), BSSR(decay_mode="decoupled")), False, 0.0),
}


@pytest.mark.parametrize("name", list(MASKS))
def test_what_is_not_kept(name: str) -> None:
    make, dense, decay = MASKS[name]
    masks, weight = make().masks, (10 * spread(4)).requires_grad_()
    assert isinstance(masks, Masks)
    mask, grad = masks.mask(weight), upstream(weight)
    masks.pruned(masks.latent(weight, mask), mask, weight).backward(grad)
    assert weight.grad is not None and mask.view(4, 2, 4).sum(2).eq(2).all()
    assert torch.equal(weight.grad[mask], grad[mask])
    dropped = (grad if dense else 0 * grad) + decay * weight.detach()
    torch.testing.assert_close(weight.grad[~mask], dropped[~mask], rtol=0, atol=1e-6)


def test_rprelu() -> None:
    rprelu, x = RPReLU(8, -1), spread(6).requires_grad_()
    for parameter, low, high in ((rprelu.before, -0.7, 0.6), (rprelu.slope, 0.1, 0.4), (rprelu.after, -0.2, 0.5)):
        parameter.data = torch.linspace(low, high, 8)
    grad = upstream(x)
    y = rprelu(x)
    y.backward(grad)
    z = (x + rprelu.before).detach()
    torch.testing.assert_close(y.detach(), z.clamp(min=0) + rprelu.slope.data * z.clamp(max=0) + rprelu.after.data)
    passed = torch.where(z > 0, grad, rprelu.slope.data * grad)
    torch.testing.assert_close(x.grad, passed)
    torch.testing.assert_close(rprelu.before.grad, passed.sum(0))
    torch.testing.assert_close(rprelu.slope.grad, (grad * z.clamp(max=0)).sum(0))
    torch.testing.assert_close(rprelu.after.grad, grad.sum(0))
