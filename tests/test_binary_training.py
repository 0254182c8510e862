"""Networks of signs in training: what is replaced, what is learned, what is packed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitsr
from bitsr.archs.detect import descriptor_of
from bitsr.archs.mambairv2 import MambaIRv2Light
from bitsr.archs.swinir import SwinIR
from bitsr.data.pictures import write_picture
from bitsr.errors import ConfigError
from bitsr.format import read_bytes, read_program, to_bytes
from bitsr.lowering import lower
from bitsr.methods.binary.biper import BiPerWeight
from bitsr.methods.binary.config import BSSR, Binary, BSSRPlus
from bitsr.methods.binary.plus_training import PlusTraining
from bitsr.methods.binary.training import SignTraining, binary_layers, linears
from bitsr.methods.trained import dump_trained, trained_config
from bitsr.parts.frozen_binary import FrozenBinary
from bitsr.parts.pointwise import pointwise_as_linears
from bitsr.program import steps
from bitsr.program.counting import tensor_bytes
from bitsr.program.reference import run
from bitsr.training.log import read_log
from bitsr.training.recipe import load_recipe, recipe_from
from bitsr.training.train import Trained, train
from tiny import hwc, make, picture

BINARIZERS = ("none", "dorefa", "reste", "biper", "bhvit", "xnor", "bireal", "reactnet", "bbcu")
MASKS = ("none", "srste", "bimask", "tmask", "sste", "asp")


def steps_of_training(method: SignTraining, student: nn.Module, count: int = 3, rate: float = 1e-3) -> list[float]:
    torch.manual_seed(0)
    x = picture(make("swinir light x4"), 8, 8)
    target = torch.rand(1, 3, 32, 32)
    optimizer = torch.optim.Adam(method.parameter_groups(student), rate)
    losses = []
    for step in range(count):
        method.on_step(student, step, count)
        loss = (student(x) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_swinir_light_has_96_linears_of_691200_weights() -> None:
    with torch.device("meta"):
        module = SwinIR(
            upscale=4, embed_dim=60, depths=(6, 6, 6, 6), num_heads=(6, 6, 6, 6), window_size=8, mlp_ratio=2,
            upsampler="pixelshuffledirect",
        )  # fmt: skip
    chosen = dict(linears(module, 4))
    assert len(chosen) == 96
    assert sum(layer.weight.numel() for layer in chosen.values()) == 691_200


@pytest.mark.parametrize("skip,layers,weights", [((), 180, 404_480), (("route",), 140, 368_640)])
def test_linears_of_mambairv2_light(skip: tuple[str, ...], layers: int, weights: int) -> None:
    chosen = dict(linears(MambaIRv2Light(), 4, skip))
    assert len(chosen) == layers
    assert sum(layer.weight.numel() for layer in chosen.values()) == weights


def test_pointwise_convolutions_are_linears_too() -> None:
    model = MambaIRv2Light()
    pointwise_as_linears(model)
    chosen = dict(linears(model, 4, ("route",)))
    assert len(chosen) == 160
    assert sum(layer.weight.numel() for layer in chosen.values()) == 414_720


@pytest.mark.parametrize("plus", [False, True])
def test_pointwise_convolutions_are_packed_as_signs(plus: bool) -> None:
    model = make("mambairv2 light x4")
    x = picture(model)
    as_linears = copy.deepcopy(model)
    pointwise_as_linears(as_linears)
    with torch.no_grad():
        torch.testing.assert_close(as_linears(x), model(x), rtol=0, atol=1e-5)
    crop = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    method = SignTraining(BSSR(pointwise=True))
    if plus:
        method = PlusTraining(BSSRPlus(pointwise=True), lambda count, size: [crop], 0)
    frozen = method.freeze(method.prepare(model))
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    with torch.no_grad():
        expected = hwc(frozen(x))
    program = lower(frozen, precision="fp32")
    assert sum("in_proj" in step.output for step in program.steps if isinstance(step, steps.BinaryLinear)) == 2
    assert np.abs(run(program, hwc(x)) - expected).mean() < 1e-3 * np.ptp(expected)


def test_mambairv2_light_is_packed_with_all_its_linears_as_signs() -> None:
    model = MambaIRv2Light(depths=(1,), num_heads=(4,)).eval()
    method = SignTraining(BSSR())
    frozen = method.freeze(method.prepare(model))
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    made = lower(frozen).steps
    assert sum(isinstance(step, steps.BinaryLinear) for step in made) == 9
    assert {step.output.split(".")[-1] for step in made if isinstance(step, steps.Linear)} == {"x_proj", "dt_proj"}


def test_a_packed_swinir_light_is_as_small_as_counted(tmp_path: Path) -> None:
    """Untrained signs of the bundled network: 637 KiB with fp16 convolutions, 458 with 8-bit ones, of which 150 are
    linears."""
    model = bitsr.load(Path(bitsr.__file__).parent / "assets/models/swinir_light_x4.safetensors")
    method = SignTraining(BSSR())
    frozen = method.freeze(method.prepare(model))
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    path = tmp_path / "light.bitsr"
    bitsr.save(frozen, path)
    sizes = tensor_bytes(read_program(path))
    assert sum(size for name, size in sizes.items() if name.endswith((".codes", ".scale"))) <= 152 * 1024
    assert path.stat().st_size <= 660 * 1024
    crops = [np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)]
    bitsr.save(bitsr.compress(frozen, bitsr.MinMax(w_bits=8, a_bits=8), crops), path)
    assert path.stat().st_size <= 480 * 1024


@pytest.mark.parametrize("network", ["edsr", "imdn", "rfdn", "msrresnet x4"])
@pytest.mark.parametrize("binarizer", ["dorefa", "reste", "biper", "bhvit", "xnor", "bireal", "reactnet", "bbcu"])
def test_convolutions_of_signs_are_trained_packed_and_run(network: str, binarizer: Any) -> None:
    model = make(network)
    method = SignTraining(Binary(binarizer=binarizer, convolutions=True))
    student, x = method.prepare(model).train(), picture(model)
    method.on_step(student, 9, 10)
    (student(x) ** 2).sum().backward()
    signs = list(binary_layers(student))
    gradients = [layer.weight.grad for layer in signs]
    assert len(signs) > 1 and all(g is not None and g.isfinite().all() for g in gradients)
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    assert all(type(student.get_submodule(name)) is nn.Conv2d for name in (names[0], names[-1]))
    frozen = method.freeze(student)
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    program = lower(frozen, precision="fp32")
    assert sum(isinstance(step, steps.BinaryConv2d) for step in program.steps) == len(signs)
    with torch.no_grad():
        expected = hwc(frozen(x))
    assert np.abs(run(program, hwc(x)) - expected).mean() < 1e-3 * np.ptp(expected)


def test_convolutions_of_signs_may_be_left_out_by_name() -> None:
    model = make("edsr")
    every = SignTraining(Binary(convolutions=True)).prepare(model)
    some = SignTraining(Binary(convolutions=True, skip=("upsample",))).prepare(model)
    assert len(list(binary_layers(every))) > len(list(binary_layers(some))) > 0
    method = SignTraining(Binary(convolutions=True, skip=("upsample",)))
    assert method.left_out(some) and all("upsample" in name for name in method.left_out(some))
    with pytest.raises(ConfigError, match="convolutions: true"):
        SignTraining(Binary()).prepare(model)
    with pytest.raises(ConfigError, match="binarizers of signs"):
        Binary(binarizer="none", convolutions=True)


@pytest.mark.parametrize("config", [BSSR(), *(Binary(binarizer=name, mask="srste") for name in BINARIZERS)])  # type: ignore[arg-type]
def test_every_method_learns_and_what_it_freezes_gives_the_same(config: Any) -> None:
    model = make("swinir light x4")
    method = SignTraining(config)
    before = copy.deepcopy(model.state_dict())
    student = method.prepare(model)
    losses = steps_of_training(method, student, 6)
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    frozen, x = method.freeze(student), picture(model)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), student.eval()(x), rtol=0, atol=1e-6)
    assert all(not p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("mask", MASKS)
def test_masks_in_training(mask: Any) -> None:
    method = SignTraining(Binary(binarizer="bhvit", mask=mask))
    student = method.prepare(make("swinir light x4"))
    steps_of_training(method, student)
    frozen = method.freeze(student)
    layers = [layer for layer in frozen.modules() if isinstance(layer, FrozenBinary)]
    assert len(layers) == 8
    assert {(layer.keep, layer.block) for layer in layers} == {(1, 1) if mask == "none" else (2, 4)}


def test_bssr_becomes_a_packed_file_that_runs_without_its_float_weights(tmp_path: Path) -> None:
    model = make("swinir light x4")
    method = SignTraining(BSSR())
    student = method.prepare(model)
    steps_of_training(method, student)
    frozen = method.freeze(student)
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    bitsr.save(frozen, tmp_path / "small.bitsr")
    opened = bitsr.open(tmp_path / "small.bitsr", backend="reference")
    x = picture(model)
    expected, ours = hwc(frozen(x)).clip(0, 1), opened(hwc(x))
    # scales and thresholds are packed in half precision, and a sign may turn: the picture differs little
    assert np.sqrt(np.mean((ours - expected) ** 2)) < 2e-2 * np.ptp(expected)
    program = lower(frozen, precision="fp32")
    assert np.abs(run(program, hwc(x)).clip(0, 1) - expected).mean() < 1e-3 * np.ptp(expected)
    assert sum(isinstance(step, steps.BinaryLinear) for step in program.steps) == 8


def test_what_is_beside_the_weights_is_not_decayed() -> None:
    method = SignTraining(BSSR())
    student = method.prepare(make("swinir light x4"))
    weights, beside = method.parameter_groups(student)
    assert beside["weight_decay"] == 0.0 and "weight_decay" not in weights
    assert len(beside["params"]) == 8 * 4  # shift, gain and two slopes
    everything = {id(p) for p in student.parameters()}
    assert {id(p) for group in (weights, beside) for p in group["params"]} == everything


def test_one_slope_for_the_whole_network() -> None:
    student = SignTraining(BSSR(kappa_scope="global")).prepare(make("swinir light x4"))
    slopes = {id(layer.binarizer.kappa) for layer in binary_layers(student)}
    assert len(slopes) == 1


def test_layers_can_be_left_out() -> None:
    student = SignTraining(BSSR(skip=("mlp", "qkv"))).prepare(make("swinir light x4"))
    assert len(list(binary_layers(student))) == 2
    with pytest.raises(ConfigError, match="no linear layers"):
        SignTraining(BSSR()).prepare(make("edsr"))
    with pytest.raises(ConfigError, match="no layer has 'qvk' in its name"):
        SignTraining(BSSR(skip=("qvk",))).prepare(make("swinir light x4"))
    with pytest.raises(ConfigError, match="skip .* leaves no layer"):
        SignTraining(BSSR(skip=("mlp", "attn"))).prepare(make("swinir light x4"))
    with pytest.raises(ConfigError, match="whole blocks of 8"):
        SignTraining(BSSR(block=8, keep=1, group=8, skip=("fc2",))).prepare(make("swinir light x4"))


def test_full_blocks_train_and_are_packed() -> None:
    model = make("swinir light x4")
    method = SignTraining(Binary(full_block=True, mask="srste"))
    student = method.prepare(model)
    steps_of_training(method, student)
    frozen, x = method.freeze(student), picture(model)
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    expected, ours = hwc(frozen(x)), run(lower(frozen, precision="fp32"), hwc(x))
    assert np.abs(ours - expected).mean() < 1e-3 * np.ptp(expected)


def test_scales_per_token_are_packed() -> None:
    model = make("swinir light x4")
    method = SignTraining(Binary(binarizer="xnor"))
    frozen, x = method.freeze(method.prepare(model)), picture(model)
    frozen.descriptor = descriptor_of(model)  # type: ignore[assignment]
    program = read_bytes(to_bytes(lower(frozen, precision="fp32")))
    assert all(step.token_scale for step in program.steps if isinstance(step, steps.BinaryLinear))
    expected, ours = hwc(frozen(x)), run(program, hwc(x))
    assert np.abs(ours - expected).mean() < 1e-3 * np.ptp(expected)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "bssr", "group": 16, "tiling": "balanced", "kappa": 2, "skip": ["route"]},
        {"name": "binary", "binarizer": "reste", "mask": "bimask"},
    ],
)
def test_options_come_from_recipes(values: Mapping[str, Any]) -> None:
    config = trained_config(values)
    assert trained_config(dump_trained(config)) == config


@pytest.mark.parametrize(
    "values,problem",
    [
        ({"name": "bssr", "kappa": 99}, "kappa lies in"),
        ({"name": "binary", "binarizer": "sgn"}, "binarizer is one of"),
        ({"name": "binary", "mask": "tmask", "keep": 1}, "tmask keeps 2 of 4"),
        ({"name": "binary", "unit_inputs": True}, "option of dorefa"),
        ({"name": "binary", "keep": 4}, "keeps some weights"),
        ({"name": "bssr", "keep": 4, "block": 8}, "no codes of at most 8 bits"),
        ({"name": "binary", "mask": "srste", "keep": 4, "block": 8}, "no codes of at most 8 bits"),
        ({"name": "binary", "binarizer": "none", "full_block": True}, "choose a binarizer"),
        ({"name": "binary", "binarizer": "bbcu", "full_block": True}, "its own RPReLU"),
        ({"name": "binary", "binarizer": "none"}, "compresses nothing"),
        ({"name": "binary", "mask": "tmask", "convolutions": True}, "made for linears"),
    ],
)
def test_wrong_options_are_named(values: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        trained_config(values)


def trained_in(tmp_path: Path, method: Mapping[str, Any], **entries: Any) -> Trained:
    """Two steps of a tiny SwinIR on noise."""
    (tmp_path / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        write_picture(tmp_path / f"photos/{i}.png", rng.integers(0, 256, (48, 48, 3), np.uint8))
    recipe = recipe_from(
        {
            "arch": "swinir", "scale": 2, "steps": 2, "batch": 1, "crop": 8, "warmup": 1, "method": method, **entries,
            "arch_args": {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "img_size": 8},
        }
    )  # fmt: skip
    return train(recipe, [tmp_path / "photos"], tmp_path / "run")


def test_a_recipe_trains_bssr_to_a_packed_file(tmp_path: Path) -> None:
    trained = trained_in(tmp_path, {"name": "bssr"})
    assert trained.done and trained.weights is not None and trained.weights.suffix == ".bitsr"
    info = bitsr.open(trained.weights, backend="reference")
    assert info(np.zeros((8, 8, 3), np.float32)).shape == (16, 16, 3)


def test_the_log_says_how_much_of_the_masks_has_moved(tmp_path: Path) -> None:
    """Between two entries; a run that was interrupted says the same, one without masks nothing."""
    rate: dict[str, Any] = {"steps": 4, "validate_every": 2, "checkpoint_every": 3, "lr": 1e-2}
    trained_in(tmp_path / "dense", {"name": "binary"}, **rate)
    trained_in(tmp_path / "whole", {"name": "binary", "binarizer": "biper", "mask": "srste"}, **rate)

    def interrupt(step: int, steps: int, entry: dict[str, Any] | None) -> None:
        if step == 3:
            raise KeyboardInterrupt

    recipe = load_recipe(tmp_path / "whole/run/recipe.yaml")
    folders, parts = [tmp_path / "whole/photos"], tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folders, parts, on_step=interrupt)
    train(recipe, folders, parts, resume=True)
    runs = (tmp_path / "whole/run", parts, tmp_path / "dense/run")
    whole, resumed, dense = ([entry.get("mask_moved") for entry in read_log(run)] for run in runs)
    assert whole == resumed and whole[0] is None and all(0 < moved < 1 for moved in whole[1:])
    assert dense == [None] * 3


@pytest.mark.parametrize("method", [{"name": "bssr"}, {"name": "bssr_plus", "calibration": 2}, {"name": "binary"}])
def test_what_is_left_beside_signs_takes_8_bits(method: Mapping[str, Any], tmp_path: Path) -> None:
    whole, small = (trained_in(tmp_path / str(bits), method, rest_bits=bits) for bits in (16, 8))
    assert whole.weights is not None and small.weights is not None
    assert small.weights.stat().st_size < whole.weights.stat().st_size
    for trained, packed in ((whole, False), (small, True)):
        found = read_program(trained.weights).steps
        assert any(isinstance(step, steps.BinaryLinear) for step in found)
        convolutions = [step for step in found if isinstance(step, steps.Conv2d)]
        assert {isinstance(step.weight, steps.PackedWeight) for step in convolutions} == {packed}
        assert {step.quantizer is not None for step in convolutions} == {packed}
    x = np.random.default_rng(1).random((16, 16, 3), np.float32)
    a, b = (bitsr.open(r.weights)(x) for r in (whole, small))
    assert 0 < np.abs(a - b).mean() < 0.05
    assert read_program(small.weights).meta["compression"]["rest_bits"] == 8
    run = whole.weights.parent
    recipe = replace(load_recipe(run / "recipe.yaml"), rest_bits=8)
    again = train(recipe, [run.parent / "photos"], run, resume=True)
    assert again.weights == whole.weights and again.weights.read_bytes() == small.weights.read_bytes()


def test_branches_beside_signs_stay_in_half_precision(tmp_path: Path) -> None:
    method = {"name": "bssr_plus", "calibration": 2, "rank": 2, "skip": ["qkv"]}
    trained = trained_in(tmp_path, method, rest_bits=8)
    assert trained.weights is not None
    linears = [step for step in read_program(trained.weights).steps if isinstance(step, steps.Linear)]
    packed = [isinstance(step.weight, steps.PackedWeight) for step in linears]
    assert sum(packed) == len(trained.left_out) > 0 and not all(packed)
    assert packed == [step.quantizer is not None for step in linears]


@pytest.mark.parametrize("options", [{"add_mean": True}, {"tiling": "flat", "group": 8}])
def test_readings_without_a_file_are_trained_and_measured(options: Mapping[str, Any], tmp_path: Path) -> None:
    trained = trained_in(tmp_path, {"name": "bssr", **options})
    assert trained.done and trained.weights is None and "cannot be packed" in trained.unpacked
    assert np.isfinite(trained.entry["holdout_psnr_y"])


def test_linears_that_stay_in_floating_point_are_named(tmp_path: Path) -> None:
    everything = trained_in(tmp_path / "all", {"name": "bssr"})
    some = trained_in(tmp_path / "some", {"name": "bssr", "skip": ["qkv"]})
    assert everything.left_out == ()
    assert len(some.left_out) == 2 and all(name.endswith("attn.qkv") for name in some.left_out)


def test_biper_starts_from_what_is_kept() -> None:
    student = SignTraining(Binary(binarizer="biper", mask="srste")).prepare(make("swinir light x4"))
    for layer in binary_layers(student):
        assert layer.masks is not None and isinstance(layer.binarizer, BiPerWeight)
        size, kept = layer.weight.detach().abs(), layer.masks.mask(layer.weight)
        mean = (size * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
        torch.testing.assert_close(layer.binarizer.alpha.detach(), mean)
        assert (mean > size.mean(1, keepdim=True)).all()
