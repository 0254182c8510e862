"""Training: data, the linear start, and a resumed run that equals an uninterrupted one bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from bitsr.data.imresize import imresize
from bitsr.training.dataset import CropDataset, split
from bitsr.training.linear_start import fit_filters
from bitsr.training.loop import Recipe, Run, validation_psnr


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(11):
        coarse = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(imresize(coarse, 8)[::2, ::2]).save(tmp_path / f"p{i:02}.png")
    return tmp_path


def test_hold_out_is_never_trained_on(folder):
    train, held = split([folder])
    assert len(held) == 2 and len(train) == 9 and not set(train) & set(held)


def test_crops_are_aligned(folder):
    data = CropDataset(split([folder])[0], scale=2, crop=16)
    lr, hr = data.batch(4, np.random.default_rng(0))
    assert lr.shape == (4, 3, 16, 16) and hr.shape == (4, 3, 32, 32)
    again = imresize(hr[0].permute(1, 2, 0).numpy(), 0.5)[4:-4, 4:-4]
    assert np.abs(again - lr[0].permute(1, 2, 0).numpy()[4:-4, 4:-4]).mean() < 0.01


def test_linear_start_is_at_least_bicubic(folder, tmp_path):
    run = Run(Recipe("rfdn", {"nf": 28}, scale=2, crop=16), [folder], tmp_path / "run")
    start = validation_psnr(run.model, run.validation, 2)
    from bitsr.evaluation.metrics import psnr_y

    bicubic = np.mean([psnr_y(imresize(lr, 2), hr, 2) for lr, hr in run.validation])
    assert start > bicubic - 0.5
    assert fit_filters(run.data, np.random.default_rng(0), 2).sum((1, 2)) == pytest.approx(1, abs=0.02)


def test_resumed_run_is_bit_equal(folder, tmp_path):
    recipe = Recipe(
        "rfdn", {"nf": 28}, scale=2, steps=6, batch=2, crop=16, warmup=2, checkpoint_every=3, validate_every=6
    )
    whole = Run(recipe, [folder], tmp_path / "whole")
    whole.train(minutes=10)
    part = Run(recipe, [folder], tmp_path / "part")
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 5:  # killed in the middle of step 5, after the checkpoint of step 3
            raise KeyboardInterrupt

    part.model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        part.train(minutes=10)
    resumed = Run(recipe, [folder], tmp_path / "part")
    resumed.resume()
    assert resumed.step == 3
    resumed.train(minutes=10)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    for key, value in whole.ema.state_dict().items():
        assert torch.equal(value, resumed.ema.state_dict()[key]), key


def test_recipes_are_valid():
    from pathlib import Path

    import yaml

    for path in (Path(__file__).parents[1] / "recipes/train").glob("*.yaml"):
        assert Recipe(**yaml.safe_load(path.read_text())).learning_rate(0) > 0
