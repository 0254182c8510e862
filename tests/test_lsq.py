"""LSQ: values and gradients of learned steps, the start from post-training bounds, and what freezing leaves."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import bitsr
from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.methods.ptq.config import HarmoQ
from bitsr.methods.qat.config import LSQ
from bitsr.methods.qat.lsq import LearnedGrid, LearnedQuantizer, LearnedSteps, LearnedWeight, latent
from bitsr.methods.registry import METHODS
from bitsr.methods.trained import dump_trained, trained_config
from bitsr.parts.layers import QuantLayer, quantized_layers
from bitsr.parts.quantizer import AffineQuantizer, DecidedWeight
from bitsr.training.log import read_log
from bitsr.training.recipe import Distillation, Recipe
from bitsr.training.train import train
from small_files import picture, write_checkpoint, write_pictures
from tiny import make

CROPS = [picture(20, 20, seed) for seed in range(4)]


def method(**options):
    return LearnedSteps(LSQ(**options), lambda count, size: CROPS[:count], seed=0)


# ---- quantizers ------------------------------------------------------------------------------------------------------


def by_the_equations(x, step, lower, levels, grad):
    """x^, dL/dx, dL/ds, dL/do as the module's docstring has them, for one step."""
    exact = (x - lower) / step
    codes = exact.round().clamp(0, levels)
    above, below = exact >= levels, exact <= 0
    inside = ~above & ~below
    by_step = torch.where(above, torch.full_like(x, levels), torch.where(below, torch.zeros_like(x), codes - exact))
    return codes * step + lower, grad * inside, (grad * by_step).sum(), (grad * (above | below)).sum()


def test_feature_maps_by_the_equations():
    torch.manual_seed(0)
    x, grad = torch.randn(3, 4, 5, requires_grad=True), torch.randn(3, 4, 5)
    start = AffineQuantizer(3, -0.7, 1.1)
    quantizer = LearnedQuantizer(start)
    with torch.no_grad():
        quantizer.grid.gain *= 1.3
        quantizer.grid.shift += 0.4
    step0 = 1.8 / 7
    y, grad_x, grad_s, grad_o = by_the_equations(x.detach(), 1.3 * step0, -0.7 + 0.4 * step0, 7, grad)
    out = quantizer(x)
    out.backward(grad)
    g = 1 / np.sqrt(x.numel() * 7)
    assert torch.allclose(out, y, atol=1e-6) and torch.allclose(x.grad, grad_x)
    assert quantizer.grid.gain.grad == pytest.approx(float(grad_s) * g * step0, rel=1e-4)
    assert quantizer.grid.shift.grad == pytest.approx(float(grad_o) * g * step0, rel=1e-4)
    with torch.no_grad():
        assert torch.equal(quantizer(x), quantizer.frozen()(x)) and torch.allclose(quantizer(x), y, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_against_the_code_of_quantnas(shared, bits):
    """Its gradients count the elements of the whole weight, ours those of a row; activations are unsigned there."""
    golden = load_file(shared / "golden" / "quantnas_atoms_head.safetensors")
    case = {key.rpartition(".")[2]: value for key, value in golden.items() if key.startswith(f"lsq.b{bits}.perchan.")}
    weight = golden["lsq.weight"].clone().requires_grad_(True)
    learned = LearnedWeight(DecidedWeight(bits, torch.zeros_like(weight), case["s"].flatten(), None))
    out = learned(weight)
    out.backward(case["grad_out"])
    assert torch.allclose(out, case["y"], atol=1e-6) and torch.allclose(weight.grad, case["grad_x"], atol=1e-6)
    expected = case["grad_s"] * case["s"] * len(weight) ** 0.5
    assert torch.allclose(learned.grid.gain.grad, expected, rtol=1e-3, atol=1e-5)

    case = {key.rpartition(".")[2]: v for key, v in golden.items() if key.startswith(f"lsq.b{bits}.pos_pertensor.")}
    x = golden["lsq.x4d"].clone().requires_grad_(True)
    quantizer = LearnedQuantizer(AffineQuantizer(bits, 0.0, case["s"] * (2**bits - 1)))
    out = quantizer(x)
    out.backward(case["grad_out"])
    assert torch.allclose(out, case["y"], atol=1e-6) and torch.allclose(x.grad, case["grad_x"], atol=1e-6)
    assert torch.allclose(quantizer.grid.gain.grad, case["grad_s"] * case["s"], rtol=1e-3, atol=1e-5)


def test_zero_stays_a_level_where_the_layer_pads_with_it():
    quantizer = LearnedQuantizer(AffineQuantizer(4, -0.31, 1.2, integer_zero=True))
    with torch.no_grad():
        quantizer.grid.shift += 0.37
        quantizer.grid.gain *= 0.83
    assert quantizer(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    assert quantizer(torch.zeros(3, requires_grad=True)).abs().max() < 1e-6


def test_a_dead_row_and_a_vanishing_step_stay_finite():
    weight = torch.tensor([[1.0, 1.0], [0.3, -0.2]], requires_grad=True)
    learned = LearnedWeight(DecidedWeight(4, torch.zeros(2, 2), torch.tensor([0.0, 0.1]), torch.tensor([1.0, 0.0])))
    with torch.no_grad():
        learned.grid.gain[1] = -3
    out = learned(weight)
    out.sum().backward()
    assert out.isfinite().all() and weight.grad.isfinite().all() and learned.frozen(weight)().isfinite().all()
    assert torch.allclose(out[0], torch.ones(2), atol=1e-4)


def test_latent_weights_round_to_the_decided_codes():
    """Whatever chose the codes: GPTQ does not round to the nearest."""
    torch.manual_seed(0)
    weight, codes = torch.randn(5, 9), torch.randint(0, 16, (5, 9))
    decided = DecidedWeight(4, codes, torch.full((5,), 0.2), torch.zeros(5))
    learned = LearnedWeight(decided)
    start = latent(weight, decided, learned)
    assert torch.equal(learned.frozen(start).codes, decided.codes)
    kept = learned.frozen(weight).codes == codes
    assert kept.any() and not kept.all() and torch.equal(start[kept], weight[kept])


# ---- the method ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, bits, start",
    [
        ("swinir light x4", (4, 4), "best"),
        ("imdn", (8, 8), "dobi"),
        ("rfdn", (3, 32), "dobi"),
        ("rfdn", (2, 4), "best"),
    ],
)
def test_starts_as_post_training_quantization_left_it(name, bits, start):
    model = make(name)
    lsq = method(w_bits=bits[0], a_bits=bits[1], start=start)
    student = lsq.prepare(model)
    config = bitsr.Best(*bits, learn_steps=0) if start == "best" else bitsr.Dobi(*bits)
    reference = bitsr.compress(model, config, CROPS)
    x = torch.rand(1, 3, 17, 19)
    with torch.no_grad():
        expected = reference(x)
        assert (lsq.freeze(student)(x) - expected).abs().max() < 0.02 * expected.std()
        assert torch.equal(lsq.freeze(student)(x), student.eval()(x))
    ours = {n: (m.w_bits, m.a_bits) for n, m in quantized_layers(student).items() if isinstance(m, QuantLayer)}
    theirs = {n: (m.w_bits, m.a_bits) for n, m in quantized_layers(reference).items() if isinstance(m, QuantLayer)}
    assert ours == theirs


def test_bits_of_single_layers_are_those_of_the_start():
    fc1 = "layers.0.residual_group.blocks.0.mlp.fc1"
    student = method(layer_bits={fc1: (3, 2)}, conv_bits=6, attention_bits=8, start="minmax").prepare(
        make("swinir light x4")
    )
    layers = quantized_layers(student)
    assert (layers[fc1].w_bits, layers[fc1].a_bits) == (3, 2) and layers["conv_after_body"].w_bits == 6
    products = [layer for layer in layers.values() if not isinstance(layer, QuantLayer)]
    assert products and all(product.a_bits == 8 for product in products)


def test_everything_is_trained_once_and_reached_by_the_gradient():
    student = method().prepare(make("swinir light x4"))
    weights, grids = method(step_rate=7.0).parameter_groups(student)
    assert (weights["lr_factor"], grids["lr_factor"], grids["weight_decay"]) == (1.0, 7.0, 0.0)
    parameters = [*weights["params"], *grids["params"]]
    assert len(parameters) == len(set(parameters)) == len(list(student.parameters()))
    assert len(grids["params"]) == sum(
        1 + (m.shift is not None) for m in student.modules() if isinstance(m, LearnedGrid)
    )
    student(torch.rand(1, 3, 16, 16)).square().sum().backward()
    silent = [n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()]
    assert len(silent) < 0.1 * len(parameters), silent  # offsets of one-sided maps get none, as nothing is below them


def test_frozen_networks_are_packed(tmp_path):
    lsq = method()
    student = lsq.prepare(make("rfdn"))
    with torch.no_grad():
        for grid in (m for m in student.modules() if isinstance(m, LearnedGrid)):
            grid.gain *= 0.9
    small = lsq.freeze(student)
    assert isinstance(student.fea_conv.quantizer, LearnedQuantizer)  # can be trained on
    bitsr.save(small, tmp_path / "model.bitsr")
    packed = bitsr.open(tmp_path / "model.bitsr")
    lr = picture(24, 21)
    difference = packed(lr).astype(float) - ModuleUpscaler(small)(lr)
    assert np.abs(difference).mean() < 0.5 and packed.program.meta["compression"]["method"] == "lsq"


def test_config_round_trip():
    config = LSQ(2, 8, "paper", start="percentile", step_rate=3.0)
    assert trained_config(dump_trained(config)) == config


def test_training_brings_the_network_back_to_its_teacher_and_packs_it(tmp_path):
    folder = write_pictures(tmp_path / "pictures", [f"{i}.png" for i in range(6)])
    recipe = Recipe(
        init=str(write_checkpoint(tmp_path / "init.safetensors", make("imdn"))), scale=2, steps=30, batch=2, crop=16,
        lr=1e-3, warmup=0, loss_weight=0.0, distill=Distillation(output=1.0), validate_every=10, validation_pictures=1,
        method={"name": "lsq", "w_bits": 2, "a_bits": 2, "calibration": 4},
    )  # fmt: skip
    trained = train(recipe, [folder], tmp_path / "run")
    losses = [entry["loss"] for entry in read_log(tmp_path / "run")[1:]]
    assert losses[2] < 0.8 * losses[0], losses
    assert trained.weights.name == "model.bitsr" and bitsr.open(trained.weights).descriptor.scale == 2


@dataclass(frozen=True)
class QuickHarmoQ(HarmoQ):
    abr_steps: int = 1
    groups: int = 1
    samples: int = 256
    distill_steps: int = 2


@pytest.mark.parametrize(
    "name,bits,start", [("swinir light x4", 4, "harmoq"), ("imdn", 8, "minmax"), ("swinir light x4", 3, "best")]
)
def test_a_resumed_run_is_not_calibrated_again(name, bits, start, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "harmoq", QuickHarmoQ)
    folder = write_pictures(tmp_path / "pictures", [f"{i}.png" for i in range(4)])
    model = make(name)
    recipe = Recipe(
        init=str(write_checkpoint(tmp_path / "init.safetensors", model)), input_range=1, scale=model.upscale,
        steps=2, batch=2, crop=8, checkpoint_every=1, validate_every=2, validation_pictures=1,
        method={"name": "lsq", "w_bits": bits, "a_bits": bits, "start": start, "calibration": 2},
    )  # fmt: skip
    whole = train(recipe, [folder], tmp_path / "whole")
    assert train(recipe, [folder], tmp_path / "part", minutes=1e-9).step == 0
    monkeypatch.delattr(LearnedSteps, "prepare")
    resumed = train(recipe, [folder], tmp_path / "part", resume=True)
    assert resumed.done and resumed.weights.read_bytes() == whole.weights.read_bytes()
