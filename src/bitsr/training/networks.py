"""The network that a recipe trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from bitsr.archs.detect import NETWORKS, descriptor_of, names, network_of
from bitsr.archs.load import load
from bitsr.errors import ConfigError
from bitsr.training.body_start import body_start
from bitsr.training.data import CropDataset
from bitsr.training.linear_start import ends_of, fit_filters, linear_start
from bitsr.training.recipe import Recipe


def full_precision(recipe: Recipe, data: CropDataset) -> nn.Module:
    """The network before any compression, with its descriptor: new, or from a checkpoint.

    Raises `ConfigError` for an unknown network, unknown keywords, another scale, and colours other than RGB.
    """
    module = _checkpoint(recipe) if recipe.init else _rescaled(recipe, data) if recipe.body else _new(recipe)
    descriptor = descriptor_of(module)
    if descriptor.color != "rgb":
        raise ConfigError(f"{descriptor.arch} works on {descriptor.color}; only RGB networks can be trained")
    if recipe.start == "linear":
        linear_start(ends_of(module), fit_filters(data, np.random.default_rng(recipe.seed)))
    module.descriptor = descriptor  # type: ignore[assignment]
    return module


def _new(recipe: Recipe) -> nn.Module:
    network = next((network for network in NETWORKS if network.name == recipe.arch), None)
    if network is None:
        raise ConfigError(
            f"recipe: arch is one of {', '.join(names())}; got {recipe.arch!r}. To start from a checkpoint give init, "
            "or --init FILE"
        )
    torch.manual_seed(recipe.seed)
    try:
        module = network.build(upscale=recipe.scale, **recipe.arch_args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"recipe: no {recipe.arch} with these arch_args: {error}") from error
    return module


def _checkpoint(recipe: Recipe) -> nn.Module:
    return load(Path(recipe.init), arch=recipe.arch or None, scale=recipe.scale, input_range=recipe.input_range)


def _rescaled(recipe: Recipe, data: CropDataset) -> nn.Module:
    """The network of the checkpoint ``recipe.body``, at the recipe's scale."""
    body = load(Path(recipe.body), arch=recipe.arch or None, input_range=recipe.input_range)
    network = network_of(body)
    config = network and network.detect(body.state_dict())
    assert network and config, "the network was just loaded"
    torch.manual_seed(recipe.seed)
    module = network.build(**config | network.untold_of(body) | {"upscale": recipe.scale})
    body_start(module, body, data, np.random.default_rng(recipe.seed))
    return module


def teacher_of(recipe: Recipe, start: nn.Module) -> nn.Module:
    """The network that a distilled one learns from: a checkpoint of its own, or ``start``, where the run begins."""
    assert recipe.distill is not None
    if recipe.distill.teacher:
        return load(Path(recipe.distill.teacher), scale=recipe.scale)
    if not recipe.init:
        raise ConfigError("distill: teacher names a checkpoint, unless the run starts from one (init)")
    return start
