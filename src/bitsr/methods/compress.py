"""One verb: ``bitsr.compress(module, config, pictures)``.  The config's type picks the method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bitsr.errors import ConfigError
from bitsr.methods.ptq.config import PTQConfig
from bitsr.methods.ptq.pipeline import begin, finish
from bitsr.methods.registry import dump_config, stages_of


def compress(module: nn.Module, config: PTQConfig, images: Sequence[NDArray[np.uint8]], *, seed: int = 0) -> nn.Module:
    """A compressed copy of ``module``; the module itself is left as it is.

    ``module``: any network of linears and convolutions, NCHW in [0,1] -> NCHW.  ``images``: LR crops of one size,
    HxWx3 uint8 RGB. The result computes in simulated low precision; ``bitsr.save`` packs it for integer execution
    if the network can be lowered.  ``seed``: of everything random; equal ones give equal networks.

    Raises `ConfigError` for a config, pictures or weights that cannot serve, and for a network without such layers.
    """
    check_config(config)
    work = begin(module, images, config, seed)
    for stage in stages_of(config):
        stage(work)
    compressed = finish(work)
    compressed.compression = {**dump_config(config), "seed": seed, "calibration_pictures": len(images)}  # type: ignore[assignment]
    if hasattr(module, "descriptor"):
        compressed.descriptor = module.descriptor
    return compressed


def check_config(config: PTQConfig) -> None:
    """Raises `ConfigError` for anything else."""
    if not isinstance(config, PTQConfig):
        raise ConfigError(f"the config is one like bitsr.Best(w_bits=4, a_bits=4), got {config!r}")
