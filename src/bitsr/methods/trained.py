"""From the entry ``method`` of a training recipe to its config, and from that to the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from bitsr.errors import ConfigError
from bitsr.fields import from_values
from bitsr.methods.binary.config import BSSR, Binary, BSSRPlus
from bitsr.methods.qat.config import LSQ

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bitsr.methods.training_method import TrainingMethod

TRAINED: dict[str, type] = {"lsq": LSQ, "bssr": BSSR, "bssr_plus": BSSRPlus, "binary": Binary}
FULL_PRECISION = "none"


class LRCrops(Protocol):
    """Gives LR crops of training pictures, HxWx3 uint8 RGB: ``count`` of them, at most ``size`` pixels a side."""

    def __call__(self, count: int, size: int) -> list[NDArray[np.uint8]]: ...


def trained_config(values: Mapping[str, Any]) -> Any:
    """The config of {"name": ..., option: value, ...}; None where nothing or `none` is asked for.

    Raises `ConfigError` for unknown names, options and values.
    """
    options = dict(values)
    name = options.pop("name", FULL_PRECISION)
    if name == FULL_PRECISION:
        if options:
            raise ConfigError(f"method: name is missing beside {', '.join(options)}; known: {', '.join(TRAINED)}")
        return None
    if name not in TRAINED:
        raise ConfigError(f"unknown training method {name!r}; known: {', '.join(TRAINED)}")
    return from_values(TRAINED[name], options, f"method {name}")


def dump_trained(config: Any) -> dict[str, Any]:
    """Plain values that :func:`trained_config` takes back."""
    (name,) = (name for name, kind in TRAINED.items() if type(config) is kind)
    return {"name": name, **dataclasses.asdict(config)}


def training_method(config: Any, crops: LRCrops, seed: int) -> TrainingMethod:
    """The method that a config's type stands for; ``crops`` and ``seed`` are for its start.  Imports torch."""
    match config:
        case None:
            from bitsr.methods.training_method import FullPrecision

            return FullPrecision()
        case LSQ():
            from bitsr.methods.qat.lsq import LearnedSteps

            return LearnedSteps(config, crops, seed)
        case BSSRPlus():
            from bitsr.methods.binary.plus_training import PlusTraining

            return PlusTraining(config, crops, seed)
        case Binary(mask="drc"):
            from bitsr.methods.binary.drc_training import DRCTraining

            return DRCTraining(config, crops, seed)
        case BSSR() | Binary():
            from bitsr.methods.binary.training import SignTraining

            return SignTraining(config)
    raise ConfigError(f"unknown config {type(config).__name__}")
