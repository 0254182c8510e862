"""Signs, their surrogate gradients and the binary layers of the literature, equal to the official code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bitsr.methods.binary.bhvit import BHViTActivation, BHViTWeight
from bitsr.methods.binary.biper import BiPerActivation, BiPerWeight
from bitsr.methods.binary.bireal import BiRealActivation, BiRealWeight
from bitsr.methods.binary.bssr_plus import BSSRPlusLinear
from bitsr.methods.binary.config import Binary, BSSRPlus
from bitsr.methods.binary.dorefa import DoReFaWeight, SignActivation, UnitActivation
from bitsr.methods.binary.reactnet import ReActNetWeight, RSign
from bitsr.methods.binary.reste import ReSTEActivation, ReSTEWeight, power
from bitsr.methods.binary.training import baseline_layer
from bitsr.methods.binary.xnor import XNORActivation, XNORWeight
from bitsr.parts.binarizers import ActivationBinarizer, RPReLU, exact_thresholds
from bitsr.parts.binary_layers import BinaryConv2d, BinaryLayer, BinaryLinear, matched
from bitsr.parts.masks import Masks
from bitsr.parts.sign import bireal, bsign, clip, reste, sign, tanh_sign

Tensors = dict[str, Tensor]


# ---- atoms ----------------------------------------------------------------------------------------------------------


def test_one_bit_has_no_third_value() -> None:
    assert bsign(torch.tensor([-1.0, -0.0, 0.0, 1e-30, -1e-30])).tolist() == [-1, 1, 1, 1, -1]


def test_surrogates_at_chosen_points() -> None:
    z = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.0])
    assert clip(z).tolist() == [0, 1, 1, 1, 1]
    assert bireal(z).tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("o", [1.0, 2.0, 3.0])
def test_reste_drops_by_its_power_at_the_small_region(o: float) -> None:
    inside, outside, beyond = reste(o)(torch.tensor([0.1, 0.1000001, 1.51])).tolist()
    assert inside == pytest.approx(0.1 ** (1 / o) / 0.1)
    assert outside == pytest.approx(inside / o, rel=1e-4)
    assert beyond == 0


def test_reste_goes_from_straight_through_to_its_end() -> None:
    assert power(0.0) == 1 and power(1.0) == pytest.approx(3.0)
    assert torch.equal(reste(1.0)(torch.linspace(-1.5, 1.5, 31)), torch.ones(31))


def test_slope_of_the_tanh_gets_the_gradient_of_what_stands_in() -> None:
    z = torch.randn(7, dtype=torch.float64)
    grad = torch.randn(7, dtype=torch.float64)
    kappa = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    tanh_sign(z, kappa).backward(grad)
    step = 1e-6
    difference = ((0.7 + step) * z).tanh() - ((0.7 - step) * z).tanh()
    assert kappa.grad is not None
    assert kappa.grad.item() == pytest.approx((grad * difference / (2 * step)).sum().item(), rel=1e-6)


def test_thresholds_are_exactly_where_the_sign_turns() -> None:
    generator = torch.Generator().manual_seed(0)
    gain, shift = torch.randn(2000, generator=generator), torch.randn(2000, generator=generator)
    gain[:3], shift[:3] = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, -1.0, 0.0])
    threshold, flipped = exact_thresholds(gain, shift)
    assert int(flipped.sum()) == int(((gain < 0) | ((gain == 0) & (shift < 0))).sum()) > 500
    for x in (threshold, threshold.nextafter(torch.tensor(-1e30)), torch.randn(2000, generator=generator)):
        ours = torch.where(x >= threshold, 1.0, -1.0) * torch.where(flipped, -1.0, 1.0)
        constant = gain == 0
        assert torch.equal(ours[~constant], bsign(gain * x + shift)[~constant])
    assert torch.where(flipped[:2], -1.0, 1.0).tolist() == [1, -1] and (threshold[:2] == -65504).all()


@pytest.mark.parametrize("width,channels", [(4, 8), (8, 4), (4, 4)])
def test_shortcuts_of_other_widths_repeat_or_average(width: int, channels: int) -> None:
    x = torch.arange(float(width)).view(1, 1, width)
    expected = {8: [0, 1, 2, 3, 0, 1, 2, 3], 4: [0.5, 2.5, 4.5, 6.5] if width == 8 else [0, 1, 2, 3]}[channels]
    assert matched(x, channels, -1).flatten().tolist() == expected
    assert matched(x.movedim(-1, 1), channels, 1).flatten().tolist() == expected


def test_a_shortcut_needs_widths_that_divide() -> None:
    with pytest.raises(ValueError, match="no shortcut from 6 to 4"):
        matched(torch.zeros(1, 6), 4, -1)


# ---- official code --------------------------------------------------------------------------------------------------


def source_of(tensors: Tensors, weight: str, bias: str) -> nn.Linear | nn.Conv2d:
    w, b = tensors[weight], tensors.get(bias)
    layer: nn.Linear | nn.Conv2d
    if w.ndim == 2:
        layer = nn.Linear(w.shape[1], w.shape[0], bias=b is not None)
    else:
        layer = nn.Conv2d(w.shape[1], w.shape[0], w.shape[2], padding=w.shape[2] // 2, bias=b is not None)
    layer.load_state_dict({"weight": w} | ({} if b is None else {"bias": b}))
    return layer


def layer_for(source: nn.Linear | nn.Conv2d, *parts: object, **options: object) -> BinaryLayer:
    return (BinaryLinear if isinstance(source, nn.Linear) else BinaryConv2d)(source, *parts, **options)  # type: ignore[arg-type]


PARAMETERS = {
    "weight": "weight", "weights": "weight", "binary_conv.weight": "weight", "bias": "bias",
    "channel_threshold": "activation.shift", "move0.bias": "activation.shift", "alpha": "binarizer.alpha",
    "relu.pr_bias0.bias": "rprelu.before", "relu.pr_prelu.weight": "rprelu.slope", "relu.pr_bias1.bias": "rprelu.after",
}  # fmt: skip  # official names and ours


def assert_equals(layer: BinaryLayer, tensors: Tensors, name: str, mode: str = "") -> None:
    """Output and all gradients that are stored; float32 sums in another order."""
    x = tensors[f"{name}x"].clone().requires_grad_()
    y = layer(x)
    y.backward(tensors[f"{name}{mode}grad_out"])
    start = f"{name}{mode}grad"
    gradients = {key[len(start) + 1 :]: value for key, value in tensors.items() if key.startswith(start)}
    pairs = [(y.detach(), tensors[f"{name}{mode}y"]), (x.grad, gradients.pop("x"))]
    del gradients["out"]
    pairs += [(layer.get_parameter(PARAMETERS[key]).grad, value) for key, value in gradients.items()]
    for ours, theirs in pairs:
        assert ours is not None
        torch.testing.assert_close(ours, theirs.view(ours.shape), rtol=0, atol=2e-6 * theirs.abs().max().item())


@pytest.mark.parametrize("o", ["1.0", "1.5", "2.0", "3.0"])
def test_official_reste(shared: Path, o: str) -> None:
    tensors = load_file(shared / "golden/binarisers.safetensors")
    x = tensors["reste.x"].clone().requires_grad_()
    y = sign(x, reste(float(o)))
    y.backward(tensors["reste.grad_out"])
    assert torch.equal(y[x != 0], tensors[f"reste.o{o}.t1.5.y"][x != 0])  # the official sign of 0 is 0
    torch.testing.assert_close(x.grad, tensors[f"reste.o{o}.t1.5.grad"], rtol=1e-6, atol=0)


WEIGHTS = {"xnor": XNORWeight, "reactnet": ReActNetWeight, "bbcu": ReActNetWeight}
ACTIVATIONS = {"xnor": XNORActivation, "reactnet": RSign, "bbcu": RSign, "reste": ReSTEActivation}
SHORTCUTS = {"reactnet": "before", "bbcu": "after"}


def rprelu_of(tensors: Tensors, name: str, axis: int) -> RPReLU | None:
    if f"{name}pr_prelu.weight" not in tensors:
        return None
    rprelu = RPReLU(len(tensors[f"{name}pr_prelu.weight"]), axis)
    names = {"before": "pr_bias0.bias", "slope": "pr_prelu.weight", "after": "pr_bias1.bias"}
    rprelu.load_state_dict({ours: tensors[name + theirs].flatten() for ours, theirs in names.items()})
    return rprelu


@pytest.mark.parametrize("kind", ["linear0", "linear1", "conv0", "conv1"])
@pytest.mark.parametrize("method", list(ACTIVATIONS))
def test_layers_of_the_baselines(shared: Path, method: str, kind: str) -> None:
    """As BiMaCoSR's repository builds them; with shortcuts where the widths are equal."""
    tensors, name = load_file(shared / "golden/binary_layers.safetensors"), f"{method}.{kind}."
    source = source_of(tensors, f"{name}sd.weight", f"{name}sd.bias")
    axis = -1 if isinstance(source, nn.Linear) else 1
    activation = ACTIVATIONS[method](source.weight.shape[1], axis)
    binarizer = WEIGHTS[method]() if method in WEIGHTS else ReSTEWeight(scale_of="row")
    for key in ("channel_threshold", "move0.bias"):
        if f"{name}sd.{key}" in tensors:
            activation.shift = nn.Parameter(tensors[f"{name}sd.{key}"].flatten())
    layer = layer_for(
        source, activation, binarizer, rprelu=rprelu_of(tensors, f"{name}sd.relu.", axis),
        shortcut=SHORTCUTS.get(method, "none") if kind.endswith("0") else "none",
    )  # fmt: skip
    if kind == "linear0" and activation.shift is not None:  # whose shortcut there is the shifted input
        tensors[f"{name}y"] = tensors[f"{name}y"] - activation.shift.detach()
        tensors[f"{name}grad.channel_threshold"] -= tensors[f"{name}grad_out"].sum((0, 1))
    assert_equals(layer, tensors, name)


@pytest.mark.parametrize("name", ["linear.recu0", "linear.recu1", "conv"])
def test_official_bhvit(shared: Path, name: str) -> None:
    tensors, name = load_file(shared / "golden/binarisers.safetensors"), f"bhvit.{name}."
    source = source_of(tensors, f"{name}weight", f"{name}bias")
    axis = -1 if isinstance(source, nn.Linear) else 1
    layer = layer_for(source, BHViTActivation(source.weight.shape[1], axis), BHViTWeight(name.endswith("recu1.")))
    assert_equals(layer, tensors, name)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("stage", [1, 2])
def test_official_biper(shared: Path, stage: int, mode: str) -> None:
    tensors, name = load_file(shared / "golden/binarisers.safetensors"), f"biper.stage{stage}.f20.0."
    source = source_of(tensors, f"{name}weight", "none")
    binarizer = BiPerWeight(source.weight)
    binarizer.alpha = nn.Parameter(tensors[f"{name}alpha"].view(-1, 1, 1, 1))
    layer = layer_for(source, BiPerActivation(6, 1), binarizer).train(mode == "train")
    layer.on_step(2 * (stage - 1), 3)
    assert_equals(layer, tensors, name, f"{mode}.")


def test_official_reactnet(shared: Path) -> None:
    tensors = load_file(shared / "golden/binarisers.safetensors")
    tensors["weight"] = tensors["reactnet_orig.weights"].view(8, 6, 3, 3)
    layer = layer_for(source_of(tensors, "weight", "none"), RSign(6, 1), ReActNetWeight())
    assert_equals(layer, tensors, "reactnet_orig.")


def test_official_bbcu(shared: Path) -> None:
    tensors, name = load_file(shared / "golden/binarisers.safetensors"), "bbcu_orig."
    source = source_of(tensors, f"{name}sd.binary_conv.weight", "none")
    assert isinstance(source, nn.Conv2d)
    layer = baseline_layer(source, Binary(binarizer="bbcu"))
    layer.activation.shift = nn.Parameter(tensors[f"{name}sd.move0.bias"].flatten())
    layer.rprelu = rprelu_of(tensors, f"{name}sd.relu.", 1)
    assert_equals(layer, tensors, name)


# ---- all of them ----------------------------------------------------------------------------------------------------

EVERY = {
    "dorefa": (SignActivation, DoReFaWeight),
    "dorefa unit": (UnitActivation, DoReFaWeight),
    "reste": (ReSTEActivation, ReSTEWeight),
    "biper": (BiPerActivation, None),
    "bhvit": (BHViTActivation, BHViTWeight),
    "xnor": (XNORActivation, XNORWeight),
    "bireal": (BiRealActivation, BiRealWeight),
    "reactnet": (RSign, ReActNetWeight),
}


@pytest.mark.parametrize("name", list(EVERY))
def test_every_method_gives_two_values_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    source, (activation, binarizer) = nn.Linear(8, 4), EVERY[name]
    layer = BinaryLinear(
        source, activation(8, -1), BiPerWeight(source.weight) if binarizer is None else binarizer(), Masks(2, 4)
    )
    x = torch.randn(5, 8, requires_grad=True)
    signs = layer.activation(x)
    assert signs.abs().amax(1).allclose(x.abs().mean(1) if name == "xnor" else torch.ones(5))
    assert len(signs[0].unique()) <= 2
    weight = layer.effective_weight()
    assert (weight != 0).view(4, 2, 4).sum(2).eq(2).all()
    assert all(len(row[row != 0].abs().unique()) == 1 for row in weight)
    layer(x).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0
    if not layer.activation.token_scale:
        threshold, flipped = layer.activation.thresholds()
        low, high = layer.activation.levels
        assert torch.equal(torch.where((x >= threshold) ^ flipped, high, low), signs)


def assert_only_the_latent_weight_hears(layer: BinaryLayer) -> None:
    """A gradient at places of no kept weight goes to the latent weights of those places and to nothing else."""
    assert layer.masks is not None
    mask = layer.masks.mask(layer.weight)
    torch.manual_seed(1)
    (layer.effective_weight() * torch.randn(mask.shape) * ~mask).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad[~mask].abs().min() > 0
    assert not layer.weight.grad[mask].any()
    assert not any(p.grad is not None and p.grad.any() for p in layer.binarizer.parameters())


@pytest.mark.parametrize("name", sorted({*EVERY} - {"dorefa unit"}))
def test_scales_get_no_gradient_from_what_is_not_kept(name: str) -> None:
    torch.manual_seed(0)
    layer = baseline_layer(nn.Linear(8, 4), Binary(binarizer=name, mask="srste"))  # type: ignore[arg-type]
    assert_only_the_latent_weight_hears(layer)


@pytest.mark.parametrize("order", ["mask", "binarize"])
@pytest.mark.parametrize("learned", [True, False])
def test_nor_do_those_of_bssr_plus(learned: bool, order: Literal["mask", "binarize"]) -> None:
    torch.manual_seed(0)
    config = BSSRPlus(start="weights", learned_scale=learned, scale_gradient=not learned, order=order)
    assert_only_the_latent_weight_hears(BSSRPlusLinear(nn.Linear(8, 4), config))


def test_scales_are_those_of_the_kept_weights() -> None:
    weight = torch.tensor([[1.0, 0.1, 3.0, -0.2], [0.5, 0.0, -0.5, 0.1]])
    mask = Masks(2, 4).mask(weight)
    assert BiRealWeight()(weight, mask).abs()[:, 0].tolist() == [2.0, 0.5]
    assert DoReFaWeight()(weight, mask).abs()[0, 0].item() == 1.25


def test_a_gain_of_all_channels() -> None:
    activation = ActivationBinarizer(3, -1, shift=True, gain="scalar")
    assert activation.gain is not None and activation.gain.shape == (1,)
    threshold, flipped = activation.thresholds()
    assert threshold.shape == flipped.shape == (3,)
