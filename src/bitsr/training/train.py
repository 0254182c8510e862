"""One call from a recipe to trained weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import nn

from bitsr.archs.detect import network_of
from bitsr.archs.load import NOTE
from bitsr.data.files import write_atomically
from bitsr.errors import ConfigError, UnsupportedLayer
from bitsr.lowering.entry import save as save_packed
from bitsr.methods.compress import compress
from bitsr.methods.ptq.config import Best
from bitsr.methods.trained import trained_config
from bitsr.training.checkpoint import NAME
from bitsr.training.log import read_log
from bitsr.training.loop import Run
from bitsr.training.recipe import Recipe
from bitsr.training.team import assembled, device_of

REST_CROPS, REST_SIZE = 32, 48  # pictures that bounds of `rest_bits` are searched on

OnStep = Callable[[int, int, dict[str, Any] | None], None]


@dataclass(frozen=True)
class Trained:
    """What a call of :func:`train` left in the folder.

    ``weights``: the averaged weights as a packed file or a checkpoint; None in all processes but the leading one, and
    where the network cannot be packed, which ``unpacked`` then says.  ``entry``: the newest line of the log.
    ``left_out``: linears that a method of signs left in floating point.
    """

    done: bool
    step: int
    weights: Path | None
    entry: dict[str, Any]
    unpacked: str = ""
    left_out: tuple[str, ...] = ()


def train(
    recipe: Recipe, folders: Sequence[Path], out: Path, *, resume: bool = False, minutes: float | None = None,
    device: str = "cpu", on_step: OnStep | None = None,
) -> Trained:  # fmt: skip
    """Train on the pictures under ``folders``, every tenth of them held out, and write to the folder ``out``.

    It gets recipe.yaml, log.jsonl, checkpoint.pt, and, at the end of the call, the averaged weights:
    weights.safetensors (fp16) in full precision, model.bitsr of a compressed network.  ``resume`` goes on from the
    checkpoint in ``out``, if there is one; ``minutes`` stops after that long, to be resumed.  Started by torchrun, all
    processes share each batch.

    Raises `BitsrError` for pictures, checkpoints and recipes that do not fit, and for a loss that is no number.
    """
    until = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    began_before = (out / NAME).exists()
    if began_before and not resume:
        raise ConfigError(f"{out} holds a run already; go on with --resume, or choose another --out")
    where = device_of(device)
    with assembled(where) as team:
        run = Run(recipe, folders, out, where, team, resume=began_before)
        out.mkdir(parents=True, exist_ok=True)
        if team.leads:
            write_atomically(out / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False).encode())
        done = run.train(until, on_step if team.leads else None)
        if not team.leads:
            return Trained(done, run.progress.step, None, {})
        entry = next(reversed(read_log(out)), None) or run.entry()
        try:
            weights, problem = write_weights(run, out), ""
        except UnsupportedLayer as error:
            weights, problem = None, str(error)
        return Trained(done, run.progress.step, weights, entry, problem, tuple(run.method.left_out(run.model)))


def write_weights(run: Run, out: Path) -> Path:
    """The averaged weights: packed where the recipe compresses, else a checkpoint in fp16."""
    frozen = run.frozen().cpu()
    if trained_config(run.recipe.method) is not None:
        if run.recipe.rest_bits < 16:
            frozen = with_rounded_rest(frozen, run)
        path = out / "model.bitsr"
        save_packed(frozen, path)
        return path
    path = out / "weights.safetensors"
    write_atomically(path, save(_halved(frozen), {NOTE: json.dumps(_origin(run, frozen))}))
    return path


def with_rounded_rest(frozen: nn.Module, run: Run) -> nn.Module:
    """A network of signs in which all other layers and the products of attention have ``rest_bits``; branches beside
    layers of signs stay in half precision."""
    bits, seed = run.recipe.rest_bits, run.recipe.seed
    crops = run.data.lr_crops(REST_CROPS, REST_SIZE, seed)
    small = compress(frozen, Best(w_bits=bits, a_bits=bits), crops, seed=seed)
    small.compression = {**frozen.compression, "rest_bits": bits}  # type: ignore[assignment, dict-item]
    return small


def _origin(run: Run, module: nn.Module) -> dict[str, Any]:
    """One entry of the metadata (several would stand in random order), with what the weights do not tell."""
    network = network_of(module)
    config = network.untold_of(module) if network else {}
    return {"arch": run.recipe.arch, "steps": run.progress.step, "config": config}


def _halved(module: nn.Module) -> dict[str, Any]:
    """The state dict in fp16, without buffers that follow from the hyper-parameters."""
    network = network_of(module)
    derived = network.derived if network else ()
    state = {key: value for key, value in module.state_dict().items() if key.rpartition(".")[2] not in derived}
    return {key: (v.half() if v.is_floating_point() else v).contiguous() for key, v in state.items()}
