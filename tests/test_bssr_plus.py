"""BSSR+: what each part does, and what is packed."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitsr
from bitsr.archs.detect import descriptor_of
from bitsr.errors import ConfigError
from bitsr.format import read_program
from bitsr.lowering import lower
from bitsr.methods.binary.bssr import BSSRLinear
from bitsr.methods.binary.bssr_plus import BSSRPlusLinear, LearnedScales
from bitsr.methods.binary.config import BSSR, BSSRPlus
from bitsr.methods.binary.plus_training import PlusTraining
from bitsr.methods.binary.sign_start import best_blocks, fit_scales, fit_signs, latent_weight, lloyd_thresholds, spread
from bitsr.methods.binary.training import SignTraining, binary_layers
from bitsr.methods.ptq.scope import execution_order
from bitsr.methods.trained import dump_trained, trained_config
from bitsr.parts.branches import LowRank, Sparse
from bitsr.parts.masks import magnitude_mask
from bitsr.parts.sign import bsign
from bitsr.program import steps
from bitsr.program.binary import patterns
from bitsr.program.reference import run
from tiny import hwc, make, picture

BARE: dict[str, Any] = {
    "start": "weights", "learned_scale": False, "masked_gradient": False, "surrogate_of": "raw", "kappa": 0.5,
    "centre": True,
    "rho": 0.002, "activation_surrogate": "tanh",
}  # fmt: skip


def crops(count: int, size: int) -> list[Any]:
    return [np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8) for i in range(count)]


def plus(**options: Any) -> PlusTraining:
    return PlusTraining(BSSRPlus(**({"calibration": 4, "calibration_size": 12} | options)), crops, 0)


def signs_and_targets(inputs: int = 24, outputs: int = 5, rows: int = 400) -> tuple[Tensor, Tensor]:
    """Correlated signs, and any linear function of what they came from."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 8, generator=generator) @ torch.randn(8, inputs, generator=generator)
    return bsign(x + 0.3), x @ torch.randn(inputs, outputs, generator=generator) + 2


def moments(inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    a, y = (v.double() - v.double().mean(0) for v in (inputs, target))
    return a.T @ a / len(a) + 0.01 * torch.eye(a.shape[1]), y.T @ a / len(a)


def error(weight: Tensor, moment: Tensor, cross: Tensor) -> Tensor:
    """Of each row, up to a constant."""
    return ((weight @ moment) * weight).sum(1) - 2 * (weight * cross).sum(1)


# ---- the start ------------------------------------------------------------------------------------------------------


def test_thresholds_lie_halfway_between_the_means_of_their_sides() -> None:
    two = torch.tensor([0.0] * 90 + [1.0] * 10)
    x = torch.stack([two, torch.linspace(-1, 3, 100), torch.full((100,), 0.7)], 1)
    torch.testing.assert_close(lloyd_thresholds(x)[:2], torch.tensor([0.5, 1.0]), rtol=0, atol=1e-5)
    assert lloyd_thresholds(x).isfinite().all()


def test_a_layer_of_signs_is_found_again() -> None:
    generator = torch.Generator().manual_seed(1)
    a = bsign(torch.randn(4000, 16, generator=generator))
    planted = bsign(torch.randn(6, 16, generator=generator)) * magnitude_mask(
        torch.rand(6, 16, generator=generator), 2, 4
    )
    scale = torch.rand(6, 2, generator=generator) + 0.5
    fitted = fit_signs(a, a @ (planted * spread(scale, (8, 8))).T + 3, (8, 8), 2, 4)
    assert torch.equal(fitted.signs, planted)
    torch.testing.assert_close(fitted.scale, scale, rtol=0.02, atol=0)
    torch.testing.assert_close(fitted.bias, torch.full((6,), 3.0), rtol=0, atol=0.02)


def test_scales_are_those_of_least_squares() -> None:
    a, y = signs_and_targets()
    moment, cross = moments(a, y)
    signs = bsign(cross) * magnitude_mask(cross, 2, 4)
    scale = fit_scales(signs, moment, cross, (16, 8))
    best = error(signs * spread(scale, (16, 8)), moment, cross)
    for delta in (-1e-3, 1e-3):
        for group in range(2):
            other = scale.clone()
            other[:, group] += delta
            assert (error(signs * spread(other, (16, 8)), moment, cross) > best).all()


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_each_block_takes_its_best_state(keep: int) -> None:
    a, y = signs_and_targets(8)
    moment, cross = moments(a, y)
    states = torch.from_numpy(patterns(keep, 4)).double()
    signs, scale = states[torch.zeros(5, 2, dtype=torch.long)].flatten(1), torch.full((5, 1), 0.8).double()
    found = best_blocks(signs, scale, moment, cross, (8,), keep, 4)
    assert (error(0.8 * found, moment, cross) <= error(0.8 * signs, moment, cross)).all()
    assert found.abs().view(5, 2, 4).sum(2).eq(keep).all()
    for _ in range(10):
        found = best_blocks(found, scale, moment, cross, (8,), keep, 4)
    settled = error(0.8 * found, moment, cross)
    for place, state in product((0, 4), states):
        other = found.clone()
        other[:, place : place + 4] = state
        assert (error(0.8 * other, moment, cross) >= settled - 1e-9).all()


def test_the_latent_weight_has_the_fitted_signs_and_mask() -> None:
    a, y = signs_and_targets()
    fitted = fit_signs(a, y, (16, 8), 2, 4)
    latent = latent_weight(fitted, (16, 8))
    mask = magnitude_mask(latent, 2, 4)
    assert torch.equal(bsign(latent) * mask, fitted.signs)


def test_the_start_is_nearer_to_the_teacher_than_its_weights_are() -> None:
    model = make("swinir light x4")
    x = picture(model, 16, 16)
    with torch.no_grad():
        expected = model(x)
        distances = [
            float((plus(start=start).prepare(model).eval()(x) - expected).square().mean())
            for start in ("weights", "least_squares")
        ]
    assert distances[1] < 0.7 * distances[0]


def test_a_resumed_run_is_not_fitted_again() -> None:
    model = make("swinir light x4")
    method = plus(rank=2, diagonal=True)
    state = method.prepare(model).state_dict()
    method.crops = None  # type: ignore[assignment]
    rebuilt = method.rebuild(model, state).state_dict()
    assert state.keys() == rebuilt.keys() and all(torch.equal(rebuilt[key], value) for key, value in state.items())


def test_branches_take_a_part_of_the_start() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 8) @ torch.randn(8, 24)
    source = nn.Linear(24, 12)
    target = source(x).detach()
    errors = {}
    for name, options in {
        "none": {},
        "diagonal": {"diagonal": True},
        "rank": {"rank": 2},
        "sparse": {"sparse": 2},
    }.items():
        layer = BSSRPlusLinear(source, BSSRPlus(**options))  # type: ignore[arg-type]
        layer.fit(x, target)
        errors[name] = float((layer(x) - target).square().mean().detach())
    assert errors["diagonal"] < errors["none"] and errors["rank"] < 0.7 * errors["none"]
    assert errors["sparse"] < 0.9 * errors["none"]


def test_a_sparse_branch_takes_its_weights_out_of_the_signs() -> None:
    torch.manual_seed(0)
    source = nn.Linear(12, 8)
    layer = BSSRPlusLinear(source, BSSRPlus(start="weights", sparse=2))
    (few,) = layer.branches
    assert isinstance(few, Sparse) and len(few.places) == 24
    torch.testing.assert_close(few.weight() + layer.weight, source.weight, rtol=0, atol=0)
    kept = few.weight() != 0
    assert source.weight[kept].abs().min() >= source.weight[~kept].abs().max()
    assert Sparse(3, 2, 99).places.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_low_rank_branch_is_no_larger_than_its_matrix() -> None:
    x = torch.randn(300, 16)
    layer = BSSRPlusLinear(nn.Linear(16, 4), BSSRPlus(rank=8))
    layer.fit(x, x[:, :4] + x[:, 4:8])
    (branch,) = layer.branches
    assert isinstance(branch, LowRank) and branch.down.weight.shape == (4, 16) and branch.up.weight.shape == (4, 4)


def test_branches_are_no_layers_to_compress() -> None:
    model, method = make("swinir light x4"), plus(start="weights", rank=1)
    frozen = method.freeze(method.prepare(model))
    order = execution_order(frozen, torch.rand(1, 3, 8, 8))
    assert any(".branches." in name for name, _ in frozen.named_modules())
    assert order and not any(".branches." in name for name in order)


def test_scales_of_inputs_that_were_constant_can_still_be_learned() -> None:
    torch.manual_seed(0)
    layer, x = BSSRPlusLinear(nn.Linear(64, 3), BSSRPlus()), torch.randn(400, 64)
    quiet = torch.cat([torch.ones(400, 32), x[:, 32:]], 1)
    layer.fit(quiet, quiet[:, 32:35])
    assert isinstance(layer.binarizer, LearnedScales)
    assert (layer.binarizer.learned > 0).all() and layer.binarizer.learned[:, 0].max() < 0.01
    layer(x).backward(x[:, :3])
    assert layer.binarizer.learned.grad is not None and (layer.binarizer.learned.grad != 0).all()


# ---- training -------------------------------------------------------------------------------------------------------


def test_without_its_parts_it_is_bssr() -> None:
    torch.manual_seed(0)
    source, x = nn.Linear(40, 6), torch.randn(5, 40)
    ours, plain = BSSRPlusLinear(source, BSSRPlus(**BARE)), BSSRLinear(source, BSSR())
    for layer in (ours, plain):
        layer.on_step(0, 10)
        layer(x).square().sum().backward()
    assert torch.equal(ours(x), plain(x))
    for (name, a), (other, b) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert name == other and a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)


def test_learned_scales_get_the_gradient_of_what_is_kept() -> None:
    torch.manual_seed(0)
    layer = BSSRPlusLinear(nn.Linear(40, 6), BSSRPlus(start="weights")).double()
    x, upstream = torch.randn(7, 40).double(), torch.randn(7, 6).double()
    layer(x).backward(upstream)
    binarizer = layer.binarizer
    assert isinstance(binarizer, LearnedScales) and binarizer.learned.grad is not None
    with torch.no_grad():
        binarizer.learned[2, 1] += 1e-6
        up = (layer(x) * upstream).sum()
        binarizer.learned[2, 1] -= 2e-6
        down = (layer(x) * upstream).sum()
    assert binarizer.learned.grad[2, 1].item() == pytest.approx(((up - down) / 2e-6).item(), rel=1e-6)


@pytest.mark.parametrize("masked_gradient", [True, False])
def test_weights_that_are_not_kept_can_come_back(masked_gradient: bool) -> None:
    torch.manual_seed(0)
    layer = BSSRPlusLinear(nn.Linear(40, 6), BSSRPlus(start="weights", masked_gradient=masked_gradient, rho=0.0))
    layer(torch.randn(7, 40)).square().sum().backward()
    assert layer.masks is not None and layer.weight.grad is not None
    assert bool(layer.weight.grad[~layer.masks.mask(layer.weight)].any()) == masked_gradient


def test_one_slope_for_the_whole_network() -> None:
    student = plus(kappa_scope="global", activation_surrogate="tanh").prepare(make("swinir light x4"))
    assert len({id(layer.binarizer.kappa) for layer in binary_layers(student)}) == 1
    assert len({id(layer.activation.kappa) for layer in binary_layers(student)}) == 1


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"diagonal": True, "rank": 2, "sparse": 2}, {"keep": 4}])
def test_it_learns_and_is_packed(options: dict[str, Any], tmp_path: Path) -> None:
    model = make("swinir light x4")
    method = plus(**options)
    student = method.prepare(model)
    torch.manual_seed(0)
    x, target = picture(model, 8, 8), torch.rand(1, 3, 32, 32)
    optimizer = torch.optim.Adam(method.parameter_groups(student), 1e-3)
    losses = []
    for step in range(6):
        method.on_step(student, step, 6)
        loss = (student(x) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    frozen, x = method.freeze(student), picture(model)
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), student.eval()(x), rtol=0, atol=1e-6)
    expected = hwc(frozen(x))
    assert np.abs(run(lower(frozen, precision="fp32"), hwc(x)) - expected).mean() < 1e-3 * np.ptp(expected)
    path = tmp_path / "small.bitsr"
    bitsr.save(frozen, path)
    program = read_program(path)
    assert sum(isinstance(step, steps.BinaryLinear) for step in program.steps) == 8 and not method.left_out(student)
    assert program.meta["compression"]["method"] == "bssr_plus"
    ours = bitsr.open(path)(hwc(x))
    assert np.abs(ours - bitsr.open(path, backend="reference")(hwc(x))).max() < 1e-4


def test_a_file_is_as_large_as_that_of_bssr(tmp_path: Path) -> None:
    model = make("swinir light x4")
    sizes = []
    for name, method in {"bssr": SignTraining(BSSR()), "bssr_plus": plus()}.items():
        frozen = method.freeze(method.prepare(model))
        frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
        bitsr.save(frozen, tmp_path / f"{name}.bitsr")
        program = read_program(tmp_path / f"{name}.bitsr")
        sizes.append({key: value.nbytes for key, value in program.tensors.items()})
    assert sizes[0] == sizes[1]


def test_options_come_from_recipes() -> None:
    values = {"name": "bssr_plus", "rank": 2, "start": "weights", "keep": 1}
    config = trained_config(values)
    assert isinstance(config, BSSRPlus) and trained_config(dump_trained(config)) == config


@pytest.mark.parametrize("options", [
    {"rank": -1}, {"sparse": -1}, {"calibration": 0}, {"tiling": "flat"}, {"learned_scale": False}, {"group": 0},
    {"gain": "scalar"}, {"order": "binarize"}, {"scale_from": "centred"}, {"add_mean": True}, {"scale_gradient": True},
])  # fmt: skip
def test_contradictory_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BSSRPlus(**options)


# ---- the order -------------------------------------------------------------------------------------------------------


def test_binarized_first_all_weights_of_a_block_are_alike() -> None:
    weight = torch.tensor([[0.1, -0.2, 0.3, 0.4, 0.5, 0.6, -0.7, 0.8]])
    layer = BSSRLinear(nn.Linear(8, 1), BSSR(order="binarize"))
    layer.weight.data = weight
    mean = weight.mean()
    expected = weight.abs().mean() * bsign(weight - mean) * torch.tensor([[1.0, 1, 0, 0, 1, 1, 0, 0]])
    torch.testing.assert_close(layer.effective_weight(), expected)
