"""From a checkpoint to a ready network: `bitsr.load`."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from bitsr.archs.checkpoint import read_state_dict
from bitsr.archs.detect import detect
from bitsr.archs.known import known_checkpoint
from bitsr.archs.network import Config, Network, StateDict
from bitsr.archs.probe import best_reading
from bitsr.descriptor import Color
from bitsr.errors import CheckpointError, ConfigError, UnknownNetwork

NOTE = "bitsr"  # key in the metadata of safetensors files
OPTIONS = {"color": "--color", "feature_range": "--input-range", "img_range": "--input-range", "upscale": "--scale"}


def load(
    path: str | PathLike[str],
    *,
    arch: str | None = None,
    scale: int | None = None,
    color: Color | None = None,
    input_range: float | None = None,
) -> nn.Module:
    """Load a checkpoint as a network in eval mode whose attribute ``descriptor`` tells how to use it.

    The module takes and gives NCHW float32 with values in [0, 1], RGB unless ``descriptor.color`` says otherwise. The
    network and its hyper-parameters are read from the state dict. What weights cannot tell comes from the options,
    from the table of known checkpoints, or from a trial on a small picture.

    Args:
        path: ``.safetensors``, or ``.pth``/``.pt`` with nothing but tensors in it; fp16 becomes fp32.
        arch: name of the network, if only this one is meant.
        scale: the expected scale; another one in the file is an error. SRCNN's weights do not tell it.
        color: "rgb", "y" or "ycbcr": what the network's channels mean.
        input_range: 1 or 255: the range on which the network was trained.

    Raises:
        CheckpointError: the file is missing, damaged, holds code or non-finite weights, or does not fit its network.
        UnknownNetwork: no known network has these keys.
        ConfigError: an option contradicts the file, or one is needed.
    """
    path = Path(path)
    state = read_state_dict(path)
    try:
        network, config = detect(state, arch)
        state = network.canonical(state)
        known = known_checkpoint(path)
        config |= known.config if known else {}
        config |= _noted(path, network)
        config |= _options(network, config, color, input_range, scale)
        module = _settle(network, config, state)
        descriptor = network.descriptor(module)
    except (CheckpointError, UnknownNetwork, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from error
    if scale is not None and scale != descriptor.scale:
        raise ConfigError(f"{path}: the network upscales by {descriptor.scale}, not by {scale}")
    if color is not None:
        descriptor = replace(descriptor, color=color)
    module.descriptor = descriptor  # type: ignore[assignment]  # a plain attribute beside the modules
    return module.eval()


def _noted(path: Path, network: Network) -> Config:
    """What `bitsr train` noted in a safetensors file of that which weights do not tell."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            noted = json.loads((file.metadata() or {}).get(NOTE, "{}"))["config"]
        return {key: float(noted[key]) for key in network.untold if isinstance(noted.get(key), int | float)}
    except (ValueError, KeyError, TypeError, AttributeError):  # somebody else's note
        return {}


def _options(
    network: Network, config: Config, color: Color | None, input_range: float | None, scale: int | None
) -> Config:
    """The explicit options as keywords of the constructor."""
    chosen: Config = {}
    if color is not None:
        luma = color == "y"
        if luma != (_channels(config) == 1):
            raise ConfigError(f"color {color!r} has {1 if luma else 3} channels, the network takes {_channels(config)}")
        if "color" in network.undecided:
            chosen["color"] = color
    if scale is not None and "upscale" in network.undecided:
        chosen["upscale"] = scale
    if input_range is not None:
        if input_range not in (1, 255):
            raise ConfigError(f"the input range is 1 or 255, got {input_range}")
        if network.range_keyword:
            chosen[network.range_keyword] = float(input_range)
        elif input_range != 1:
            raise ConfigError(f"{network.name} always works on the range 0..1")
    return chosen


def _channels(config: Config) -> int:
    return next(config[key] for key in ("in_chans", "in_nc", "num_in_ch", "channels") if key in config)


def _settle(network: Network, config: Config, state: StateDict) -> nn.Module:
    """Build the network; where hyper-parameters are open, build all readings and keep the one that stands out."""
    if not (open_keywords := [key for key in network.undecided if key not in config]):
        return _build(network, config, state)
    readings = [
        config | dict(zip(open_keywords, values, strict=True))
        for values in product(*(network.undecided[key] for key in open_keywords))
    ]
    modules = [_build(network, reading, state) for reading in readings]
    if modules and (best := best_reading(modules)) is not None:
        return modules[best]
    values = {key: " or ".join(map(str, network.undecided[key])) for key in open_keywords}
    wanted = [f"{key} ({values[key]})" if values[key] else key for key in open_keywords]
    options = list(dict.fromkeys(OPTIONS[key] for key in open_keywords if key in OPTIONS))
    mend = f"build {network.name} in Python and load the weights"
    if options:
        mend = f"give {' and '.join(options)} (to bitsr compress, which packs the network as it is with --bits 16)"
    raise ConfigError(f"neither the weights nor a trial tell {' and '.join(wanted)} of this {network.name}; {mend}")


def _build(network: Network, config: Config, state: StateDict) -> nn.Module:
    """The network with its weights, after a check of every key and shape."""
    try:
        module = network.build(**config)
    except ValueError as error:
        raise CheckpointError(f"no {network.name} has these shapes: {error}") from error
    own = module.state_dict()
    derived = network.derived
    missing = [key for key in own if key not in state and key.rpartition(".")[2] not in derived]
    unexpected = [key for key in state if key not in own and key != "mean"]
    if missing or unexpected:
        raise CheckpointError(f"keys do not fit {network.name}: {_some(missing, unexpected)}")
    for key, value in state.items():
        if key in own and value.is_floating_point() != own[key].is_floating_point():
            raise CheckpointError(f"{key} is {value.dtype}, {network.name} needs {own[key].dtype}")
        if key in own and value.shape != own[key].shape:
            raise CheckpointError(f"{key} has shape {tuple(value.shape)}, {network.name} needs {tuple(own[key].shape)}")
    module.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
    _take_mean(module, state)
    return module


def _some(missing: list[str], unexpected: list[str]) -> str:
    """The first few of the keys that are missing and of those that should not be there."""
    parts = []
    for word, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            parts.append(f"{word} {', '.join(keys[:3])}{more}")
    return "; ".join(parts)


def _take_mean(module: nn.Module, state: StateDict) -> None:
    """Some releases store the colour mean that SwinIR and EDSR subtract."""
    own: Any = getattr(module, "mean", None)
    if "mean" not in state:
        return
    if own is None or own.numel() != state["mean"].numel():
        raise CheckpointError(f"unexpected key mean of shape {tuple(state['mean'].shape)}")
    own.copy_(state["mean"].reshape(own.shape))
