"""Reading state dicts from `.safetensors` and, as plain tensors only, from `.pth` files; nothing in a file is run."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bitsr.archs.network import StateDict
from bitsr.errors import CheckpointError

WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of torch's DistributedDataParallel, and of torch.compile
PICKLES = (".pth", ".pt", ".ckpt", ".bin")


def read_state_dict(path: Path) -> StateDict:
    """The state dict in a file, in float32, freed from wrappers (`params_ema` before `params` before the others) and
    from the prefixes `module.` and `_orig_mod.`.

    Raises `CheckpointError` if the file is missing, damaged, holds code or non-finite weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: is empty; get the file again")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix in PICKLES:
        content = _read_pickle(path)
    else:
        raise CheckpointError(f"{path}: a checkpoint ends in .safetensors, {', '.join(PICKLES)}, not {path.suffix!r}")
    state = {key: _cast(value) for key, value in _unwrap(content, path).items()}
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise CheckpointError(f"{path}: {key} holds {bad} NaN or infinite values of {value.numel()}")
    return state


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({_brief(error)})") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as almost any exception
        if isinstance(error, pickle.UnpicklingError) and (name := _refused(str(error))):
            raise CheckpointError(
                f"{path}: holds code or objects ({name}), which are never run; save the tensors alone: "
                "torch.save(model.state_dict(), path)"
            ) from error
        raise CheckpointError(f"{path}: truncated, damaged or no checkpoint ({_brief(error)})") from error


def _refused(message: str) -> str | None:
    """The global that the weights-only unpickler names in its refusal."""
    found = re.search(r"(?:GLOBAL|unrecognized function|Unsupported class) (\S+)", message)
    return found.group(1).rstrip(".,") if found else None


def _brief(error: Exception) -> str:
    """The gist of an exception, on one line; without torch's advice to load without protection."""
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return (lines[0] if lines and " " in lines[0] else type(error).__name__)[:160]


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds no state dict (expected tensors by name, or {', '.join(WRAPPERS)})")
    if odd := next((key for key, value in content.items() if not isinstance(value, Tensor)), None):
        raise CheckpointError(f"{path}: {odd} is a {type(content[odd]).__name__}, expected a tensor")
    names = {str(key): value for key, value in content.items()}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _cast(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
