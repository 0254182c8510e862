"""Checkpoints: everything that the next step depends on, in a file that is whole or not there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from bitsr.data.files import write_atomically
from bitsr.errors import CheckpointError, ConfigError
from bitsr.training.recipe import Recipe

NAME = "checkpoint.pt"
# may change between two parts of one run: no step depends on them
FREE = ("checkpoint_every", "validate_every", "validation_pictures", "rest_bits")


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Temporary file, fsync, rename: a kill at any moment leaves the old state or the new one."""
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(folder / NAME, content.getvalue())


def read_checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    """The state in a folder, tensors on ``device``; nothing in the file is run."""
    path = folder / NAME
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damage shows as almost any exception
        raise CheckpointError(f"{path}: cannot be read ({type(error).__name__}); remove it to start again") from error


def check_same_run(state: dict[str, Any], recipe: dict[str, Any], pictures: int) -> None:
    """Raises `ConfigError` where the run in a checkpoint had another recipe or other pictures: going on would be
    neither run.  A field that is younger than the checkpoint had its default."""
    old = Recipe().to_dict() | state["recipe"]
    for key in sorted((old.keys() | recipe.keys()) - set(FREE)):
        if old.get(key) != recipe.get(key):
            raise ConfigError(
                f"the run to resume had {key}: {old.get(key)!r}, this recipe has {recipe.get(key)!r}; use another "
                "--out, or start from its weights with --init"
            )
    if state["pictures"] != pictures:
        raise ConfigError("the run to resume had other training pictures; give the same --data, or another --out")
