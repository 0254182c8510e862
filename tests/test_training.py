"""Training: data, starts, recipes, losses, and killed runs that end bit-equal to uninterrupted ones."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import bitsr
from bitsr.archs.rfdn import RFDN
from bitsr.archs.swinir import SwinIR
from bitsr.cli.main import main
from bitsr.data.imresize import imresize
from bitsr.errors import BitsrError, ConfigError
from bitsr.evaluation.metrics import psnr_y
from bitsr.training.average import Average
from bitsr.training.data import CropDataset, split
from bitsr.training.linear_start import ENDS, fit_filters
from bitsr.training.log import read_log
from bitsr.training.loop import Run
from bitsr.training.losses import Distiller, charbonnier, l1
from bitsr.training.recipe import Distillation, Recipe, load_recipe, recipe_from
from bitsr.training.schedule import learning_rate
from bitsr.training.train import train
from small_files import write_checkpoint, write_pictures

TINY = Recipe(
    "rfdn", {"nf": 8}, scale=2, steps=6, batch=2, crop=16, warmup=2, checkpoint_every=3,
    validate_every=6, validation_pictures=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("train"), np.random.default_rng(0)
    for i in range(11):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(imresize(coarse, 4)).save(folder / f"p{i:02}.png")
    return folder


def states_equal(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


# ---- data ------------------------------------------------------------------------------------------------------------


def test_hold_out_is_never_trained_on(folder):
    train, held = split([folder])
    assert len(held) == 2 and len(train) == 9 and not set(train) & set(held)


def test_crops_are_aligned_and_of_every_turn(folder):
    data = CropDataset(split([folder])[0], scale=2, crop=16)
    places = data.draw(64, np.random.default_rng(0))
    assert {(p.mirrored, p.turns) for p in places} == {(m, t) for m in (False, True) for t in range(4)}
    low, high = data.cut(places)
    assert low.dtype == torch.uint8 and low.shape == (64, 3, 16, 16) and high.shape == (64, 3, 32, 32)
    for lr, hr in zip(low[:8], high[:8], strict=True):
        again = imresize(hr.permute(1, 2, 0).numpy(), 0.5)[4:-4, 4:-4].astype(float)
        assert np.abs(again - lr.permute(1, 2, 0).numpy()[4:-4, 4:-4]).max() <= 1


def test_lr_is_made_by_the_exact_bicubic_before_it_is_cut(folder):
    data = CropDataset(split([folder])[0], scale=2, crop=16)
    lr, hr = data.pairs[0].lr, data.pairs[0].hr
    assert np.array_equal(lr, imresize(hr, 0.5))
    assert all(crop.shape == (24, 24, 3) for crop in data.lr_crops(3, 48, 0))  # the pictures allow no more


@pytest.mark.parametrize("crop, words", [(64, "large enough"), (0, "at least 1")])
def test_crops_that_cannot_be(folder, tmp_path, crop, words):
    with pytest.raises(BitsrError, match=words):
        Run(dataclasses.replace(TINY, crop=crop), [folder], tmp_path)


# ---- recipes ---------------------------------------------------------------------------------------------------------


def test_recipes_of_the_repository_are_valid():
    paths = list((Path(__file__).parents[1] / "recipes/train").glob("*.yaml"))
    assert paths
    for path in paths:
        recipe = load_recipe(path)
        assert recipe_from(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe


def test_committed_weights_are_what_their_recipes_train():
    recipes = Path(__file__).parents[1] / "recipes"
    weights = sorted((recipes / "weights").glob("*.safetensors"))
    assert weights
    for path in weights:
        recipe, module = load_recipe(recipes / "train" / f"{path.stem}.yaml"), bitsr.load(path)
        assert (module.descriptor.arch, module.descriptor.scale) == (recipe.arch, recipe.scale)
        assert path.stat().st_size < 2.5e6


@pytest.mark.parametrize(
    "values, words",
    [
        ({"stepz": 3}, "no field 'stepz'"),
        ({"steps": "many"}, "steps is int"),
        ({"lr": "fast"}, "lr is a number"),
        ({"batch": 0}, "at least 1"),
        ({"loss": "l2"}, "loss is one of l1, charbonnier"),
        ({"milestones": [3]}, "multistep"),
        ({"distill": {"features": 1.0}}, "together"),
        ({"distill": 1}, "distill is a mapping"),
        ({"method": {"name": "magic"}}, "unknown training method 'magic'"),
        ({"method": {"w_bits": 4}}, "name is missing"),
        ({"method": {"name": "lsq", "w_bits": 5}}, "w_bits=5"),
        ({"init": "a.pth", "start": "linear"}, "leave out"),
        (["steps"], "a mapping"),
    ],
)  # fmt: skip
def test_bad_recipes_name_the_cause(values, words):
    with pytest.raises(ConfigError, match=words):
        recipe_from(values)


def test_numbers_as_yaml_reads_them():
    assert recipe_from(yaml.safe_load("lr: 1e-3\nema: 0\nmilestones: [2, 4]\nschedule: multistep")).lr == 1e-3


def test_schedules():
    cosine = Recipe(steps=100, warmup=10, lr=1.0, lr_end=0.0)
    assert learning_rate(cosine, 0) == pytest.approx(0.1) and learning_rate(cosine, 50) == pytest.approx(0.5)
    falling = [learning_rate(cosine, step) for step in range(10, 100)]
    assert falling == sorted(falling, reverse=True) and falling[-1] < 0.001
    steps = Recipe(steps=9, warmup=0, lr=1.0, schedule="multistep", milestones=(3, 6), gamma=0.5)
    assert [learning_rate(steps, step) for step in range(9)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


# ---- losses, averages, starts ----------------------------------------------------------------------------------------


def test_losses_on_known_numbers():
    a, b = torch.tensor([0.0, 3.0, 4.0]), torch.tensor([0.0, 0.0, 0.0])
    assert float(l1(a, b)) == pytest.approx(7 / 3)
    assert float(charbonnier(a, b)) == pytest.approx((1e-3 + 3 + 4) / 3, rel=1e-6)


def test_distillation_is_zero_against_itself_and_counts_features():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1))
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1))
    student.load_state_dict(teacher.state_dict())
    distiller = Distiller(Distillation(output=1.0, features=2.0, layers=("0",)), teacher, student)
    lr = torch.rand(2, 3, 5, 5)
    assert distiller(lr, student(lr)).item() == 0
    with torch.no_grad():
        student[0].weight *= 0.5
        student[0].bias *= 0.5
    loss = distiller(lr, student(lr))
    expected = 2 * 0.25 + l1(student(lr), teacher(lr)).item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert student[0].weight.grad.abs().sum() > 0 and teacher[0].weight.grad is None


def test_average_follows_and_takes_buffers():
    model = nn.BatchNorm1d(2)
    average = Average(model, 0.5)
    with torch.no_grad():
        model.weight += 1
        model.running_mean += 3
    average.update(model, step=1000)
    assert average.model.weight.tolist() == [1.5, 1.5] and average.model.running_mean.tolist() == [3, 3]


@pytest.mark.parametrize("arch, options", [("rfdn", {"nf": 28}), ("swinir", {
    "depths": [1], "num_heads": [2], "embed_dim": 28, "window_size": 4, "img_size": 16})])  # fmt: skip
def test_linear_start_is_at_least_bicubic(folder, tmp_path, arch, options):
    run = Run(dataclasses.replace(TINY, arch=arch, arch_args=options, start="linear"), [folder], tmp_path / "run")
    start = run.validate()
    bicubic = np.mean([psnr_y(imresize(pair.lr, 2), pair.hr, 2) for pair in run.validation])
    assert start > bicubic - 0.5 and type(run.model) in ENDS
    assert fit_filters(run.data, np.random.default_rng(0), 2).sum((1, 2)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("network, options", [(RFDN, {"nf": 16}), (SwinIR, {
    "depths": [1], "num_heads": [2], "embed_dim": 12, "window_size": 4, "img_size": 16, "img_range": 255.0,
    "upsampler": "pixelshuffledirect"})])  # fmt: skip
def test_body_of_another_scale(folder, tmp_path, network, options):
    """All but the last convolution is that of the checkpoint; that one is the best for its features."""
    torch.manual_seed(0)
    body = network(**options, upscale=3)
    file = write_checkpoint(tmp_path / "x3.safetensors", body)
    recipe = dataclasses.replace(TINY, arch="", arch_args={}, body=str(file), input_range=options.get("img_range", 1))
    run = Run(recipe, [folder], tmp_path / "run")
    last = next(name for name, value in body.state_dict().items() if value.shape[0] == 27).rpartition(".")[0]
    taken = {name: value for name, value in run.model.state_dict().items() if not name.startswith(last)}
    states_equal(taken, {name: value for name, value in body.state_dict().items() if not name.startswith(last)})
    start = run.validate()
    assert start > np.mean([psnr_y(imresize(pair.lr, 2), pair.hr, 2) for pair in run.validation]) - 0.5
    with torch.no_grad():
        for factor in (0.97, 1.03):
            run.average.model.get_submodule(last).weight *= factor
            assert run.validate() < start
            run.average.model.get_submodule(last).weight /= factor


def test_unknown_ends_and_networks_are_refused(folder, tmp_path):
    for change, words in (
        ({"arch": "edsr", "arch_args": {}, "start": "linear"}, "not for EDSR"),
        ({"start": "linear"}, "needs 27 features"),
        ({"arch": "resnet"}, "arch is one of"),
        ({"arch_args": {"depth": 3}}, "arch_args"),
        (
            {
                "arch": "espcn",
                "arch_args": {},
            },
            "only RGB",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            Run(dataclasses.replace(TINY, **change), [folder], tmp_path / "run")


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_training_learns_and_its_weights_load(folder, tmp_path):
    recipe = dataclasses.replace(
        TINY, steps=24, lr=3e-3, ema=0.9, loss="charbonnier", optimizer="adamw", weight_decay=1e-4, clip_norm=1.0
    )
    trained = train(recipe, [folder], tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert trained.done and [entry["step"] for entry in log] == [0, 6, 12, 18, 24]
    assert log[-1]["loss"] < 0.9 * log[1]["loss"] and log[-1]["holdout_psnr_y"] > log[0]["holdout_psnr_y"] + 0.1
    run = Run(recipe, [folder], tmp_path / "run", resume=True)
    module = bitsr.load(trained.weights, input_range=1)
    for key, value in run.frozen().state_dict().items():
        assert torch.equal(value.half().float(), module.state_dict()[key])


def test_distilled_from_the_start(folder, tmp_path):
    """Against its own start, without another loss, nothing is to be learned: the output loss is 0 in the first step."""
    init = write_checkpoint(tmp_path / "init.safetensors", RFDN(nf=16, upscale=2))
    recipe = Recipe(
        init=str(init), input_range=1, scale=2, steps=2, batch=2, crop=16, validate_every=1, loss_weight=0.0,
        distill=Distillation(output=1.0, features=1.0, layers=("B1", "LR_conv")), validation_pictures=1,
    )  # fmt: skip
    train(recipe, [folder], tmp_path / "run")
    first, second = read_log(tmp_path / "run")[1:]
    assert first["loss"] < 1e-6 and second["loss"] < 1e-3


def test_parts_of_a_run_equal_the_whole(folder, tmp_path):
    """Cut by the clock at once, interrupted in the middle of step 5, cut again, and resumed each time."""
    whole = train(TINY, [folder], tmp_path / "whole")

    def interrupt(step, steps, entry):
        if step == 5:
            raise KeyboardInterrupt

    out = tmp_path / "part"
    assert train(TINY, [folder], out, minutes=1e-9).step == 0
    with pytest.raises(ConfigError, match="--resume"):
        train(TINY, [folder], out)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, [folder], out, resume=True, on_step=interrupt)
    cut = train(TINY, [folder], out, resume=True, minutes=1e-9)
    assert cut.step == 3 and not cut.done
    resumed = train(TINY, [folder], out, resume=True)
    assert resumed.done and resumed.weights.read_bytes() == whole.weights.read_bytes()
    same = [{k: v for k, v in entry.items() if k != "seconds"} for entry in read_log(out)]
    assert same == [{k: v for k, v in entry.items() if k != "seconds"} for entry in read_log(tmp_path / "whole")]


def test_only_the_same_run_is_resumed(folder, tmp_path):
    train(TINY, [folder], tmp_path / "run", minutes=1e-9)
    with pytest.raises(ConfigError, match="had batch: 2"):
        train(dataclasses.replace(TINY, batch=4), [folder], tmp_path / "run", resume=True)
    other = write_pictures(tmp_path / "other", ["a.png", "b.png", "c.png"])
    with pytest.raises(ConfigError, match="other training pictures"):
        train(TINY, [other], tmp_path / "run", resume=True)
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(BitsrError, match="cannot be read"):
        train(TINY, [folder], tmp_path / "run", resume=True)


def test_a_run_from_before_a_field_existed_is_resumed(folder, tmp_path):
    train(TINY, [folder], tmp_path / "run", minutes=1e-9)
    file = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    del state["recipe"]["clip_norm"]
    torch.save(state, file)
    with pytest.raises(ConfigError, match="had clip_norm: 0.0"):
        train(dataclasses.replace(TINY, clip_norm=1.0), [folder], tmp_path / "run", resume=True)
    assert train(TINY, [folder], tmp_path / "run", resume=True).done


def command(recipe: Recipe, folder: Path, out: Path, *words: str) -> list[str]:
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    return ["train", str(path), "--data", str(folder), "--out", str(out), "--threads", "1", *words]


def test_killed_process_ends_bit_equal(folder, tmp_path):
    """kill -9 somewhere behind the first checkpoint; what the command then leaves equals an uninterrupted run."""
    recipe = dataclasses.replace(TINY, steps=60, checkpoint_every=7, validate_every=20)
    threads = torch.get_num_threads()
    assert main(command(recipe, folder, tmp_path / "whole")) == 0
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "bitsr", *command(recipe, folder, out)], stdout=subprocess.DEVNULL
    )
    while not (out / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (out / "weights.safetensors").exists()
    with open(out / "log.jsonl", "a") as log:
        log.write('{"step": 40, "lo')  # as a kill in the middle of a line leaves it
    assert main(command(recipe, folder, out, "--resume")) == 0
    torch.set_num_threads(threads)
    whole, resumed = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "killed"))
    for part in ("model", "average"):
        states_equal(whole[part], resumed[part])
    for key, state in whole["optimizer"]["state"].items():
        states_equal(state, resumed["optimizer"]["state"][key])
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1] and [e["step"] for e in read_log(out)] == [0, 20, 40, 60]


def test_two_processes_give_the_losses_of_one(folder, tmp_path):
    recipe = dataclasses.replace(TINY, steps=4, batch=4, validate_every=1)
    train(recipe, [folder], tmp_path / "one")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bitsr"]
    done = subprocess.run(
        [*launcher, *command(recipe, folder, tmp_path / "two")], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = read_log(tmp_path / "one")[1:], read_log(tmp_path / "two")[1:]
    assert [e["loss"] for e in two] == pytest.approx([e["loss"] for e in one], rel=1e-5)
    assert [e["holdout_psnr_y"] for e in two] == pytest.approx([e["holdout_psnr_y"] for e in one], abs=1e-3)
    assert done.stdout.count("hold-out PSNR-Y") == 1  # the leading process reports, the other is quiet


def test_a_batch_that_cannot_be_dealt_out_is_refused(folder, tmp_path):
    from bitsr.training.team import Team

    with pytest.raises(ConfigError, match="equal parts"):
        Run(TINY, [folder], tmp_path, team=Team(0, 3))


@pytest.mark.parametrize("wrong", [
    {"lr": float("nan")}, {"lr": -1e-3}, {"warmup": -5}, {"clip_norm": -1.0}, {"weight_decay": -1.0},
    {"betas": (0.9, 1.5)}, {"crop": 4, "start": "linear"}, {"body": "a.pth", "init": "b.pth"},
])  # fmt: skip
def test_senseless_numbers_are_refused(wrong):
    with pytest.raises(ConfigError, match="recipe: "):
        dataclasses.replace(TINY, **wrong)


def test_the_method_none_is_full_precision(folder, tmp_path):
    trained = train(dataclasses.replace(TINY, steps=2, method={"name": "none"}), [folder], tmp_path / "run")
    assert trained.weights.name == "weights.safetensors"


def test_a_loss_that_is_no_number_stops_the_run(folder, tmp_path):
    recipe = dataclasses.replace(TINY, lr=1e30, warmup=0)
    with pytest.raises(BitsrError, match="no finite number"):
        train(recipe, [folder], tmp_path / "run")


def test_command_reports_its_errors(folder, tmp_path, capsys):
    for words, message in (
        ([str(tmp_path / "none.yaml"), "--data", str(folder)], "no such file"),
        (command(TINY, tmp_path / "nowhere", tmp_path / "run")[1:], "no such folder"),
        ([*command(TINY, folder, tmp_path / "run")[1:], "--init", "none.pth"], "leave out"),
    ):
        assert main(["train", *words]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1


@pytest.mark.skipif(os.environ.get("BITSR_SLOW") != "1", reason="takes half a minute; BITSR_SLOW=1")
def test_compiled_and_bf16(folder, tmp_path):
    plain = dataclasses.replace(TINY, arch="msrresnet", arch_args={"num_feat": 8, "num_block": 1})
    train(plain, [folder], tmp_path / "eager")
    train(dataclasses.replace(plain, compile=True), [folder], tmp_path / "compiled")
    train(dataclasses.replace(plain, bf16=True), [folder], tmp_path / "bf16")
    losses = [read_log(tmp_path / name)[-1]["loss"] for name in ("eager", "compiled", "bf16")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3) and losses[2] == pytest.approx(losses[0], rel=0.02)
