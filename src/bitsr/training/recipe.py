"""What a training run is made of: a YAML file with a closed list of fields.  Free of torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from bitsr.errors import ConfigError
from bitsr.fields import from_values
from bitsr.methods.binary.config import BSSR, Binary
from bitsr.methods.trained import trained_config


@dataclass(frozen=True)
class Distillation:
    """A second loss against a full-precision teacher.

    ``output``: weight of the mean absolute difference of the outputs.  ``features``: weight of the relative squared
    difference of what ``layers`` (names of modules, equal in both networks) give.  ``teacher``: a checkpoint; left
    out, the weights from which the run starts.
    """

    output: float = 0.0
    features: float = 0.0
    layers: tuple[str, ...] = ()
    teacher: str = ""

    def __post_init__(self) -> None:
        if bool(self.features) != bool(self.layers):
            raise ConfigError("distill: features (a weight) and layers (names of modules) are given together")


@dataclass(frozen=True)
class Recipe:
    """Sizes are in LR pixels, rates per step.

    ``arch`` with ``arch_args`` (keywords of its constructor) is trained from ``start`` ('linear': as the best linear
    upscaler, where its two ends are known); or the checkpoint ``init`` from its own weights; or the network of the
    checkpoint ``body``, which has another scale, from all of its weights but the upsampler's.  ``input_range`` (1 or
    255) is for a checkpoint whose weights do not tell it.  ``method`` is {name:
    ..., option: value, ...}, or empty for full precision.  ``lr`` is the peak after a linear rise over ``warmup``
    steps; 'cosine' falls to ``lr_end``, 'multistep' multiplies by ``gamma`` at each of ``milestones``.  ``loss`` has
    the weight 1 unless ``loss_weight`` says otherwise, beside ``distill``.  ``ema`` is the decay of the averaged
    weights, which are those that are validated and kept.  ``clip_norm`` bounds the norm of the gradient (0: not).
    ``batch`` is that of all processes together.  ``rest_bits`` 8: what a method of signs leaves in floating point,
    convolutions and products of attention, is rounded to 8 bits on crops of the training pictures when the trained
    network is packed; the log's hold-out is from before that.
    """

    arch: str = ""
    arch_args: dict[str, Any] = field(default_factory=dict)
    scale: int = 4
    start: Literal["random", "linear"] = "random"
    body: str = ""
    init: str = ""
    input_range: float | None = None
    method: dict[str, Any] = field(default_factory=dict)
    steps: int = 1000
    batch: int = 8
    crop: int = 32
    loss: Literal["l1", "charbonnier"] = "l1"
    loss_weight: float = 1.0
    distill: Distillation | None = None
    optimizer: Literal["adam", "adamw"] = "adam"
    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    schedule: Literal["cosine", "multistep"] = "cosine"
    lr: float = 5e-4
    lr_end: float = 1e-6
    milestones: tuple[int, ...] = ()
    gamma: float = 0.5
    warmup: int = 100
    ema: float = 0.999
    seed: int = 0
    bf16: bool = False
    compile: bool = False
    checkpoint_every: int = 100
    validate_every: int = 500
    validation_pictures: int = 10
    rest_bits: Literal[8, 16] = 16

    def __post_init__(self) -> None:
        for name in ("scale", "steps", "batch", "crop", "checkpoint_every", "validate_every", "validation_pictures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} is at least 1, got {getattr(self, name)}")
        for name in ("seed", "lr", "lr_end", "gamma", "warmup", "clip_norm", "weight_decay", "loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"recipe: {name} is at least 0, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"recipe: ema is a decay from 0 to below 1, got {self.ema}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"recipe: betas are two numbers from 0 to below 1, got {self.betas}")
        if bool(self.milestones) != (self.schedule == "multistep"):
            raise ConfigError("recipe: schedule: multistep and milestones are given together")
        if self.start == "linear" and self.crop < 5:
            raise ConfigError(f"recipe: start linear fits filters of 5x5, larger than a crop of {self.crop}")
        if self.init and self.body:
            raise ConfigError("recipe: init is a checkpoint of this scale, body one of another: give one of them")
        if (self.init or self.body) and (self.arch_args or self.start == "linear"):
            given = "init" if self.init else "body"
            raise ConfigError(f"recipe: {given} brings its own network and weights: leave out arch_args and start")
        config = trained_config(self.method)
        if self.rest_bits < 16 and not isinstance(config, BSSR | Binary):
            raise ConfigError("recipe: rest_bits is for methods of signs (bssr, bssr_plus, binary)")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :func:`recipe_from` takes back, as YAML and JSON hold them."""
        values = dataclasses.asdict(self, dict_factory=_plain)
        return {key: value for key, value in values.items() if value is not None}


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in items}


def recipe_from(values: Any) -> Recipe:
    """A recipe from plain values; raises `ConfigError` for unknown fields, wrong types and contradictions."""
    if not isinstance(values, dict):
        raise ConfigError("a recipe is a mapping of field: value")
    return from_values(Recipe, values, "recipe")


def load_recipe(path: str | Path) -> Recipe:
    """A recipe from a YAML file."""
    try:
        return recipe_from(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
