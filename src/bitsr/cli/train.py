"""`bitsr train`: a recipe and pictures become weights, or a packed file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from bitsr.cli.console import Flag, UsageError, counting, human_bytes, option, print_table
from bitsr.cli.models import need_file, set_threads
from bitsr.data.files import check_output
from bitsr.errors import ConfigError
from bitsr.training.recipe import load_recipe


def train(
    recipe: Annotated[Positional[Path], option("RECIPE")],
    /,
    *,
    data: Annotated[str, option("DIR[,DIR...]")],
    output: Annotated[Path | None, option("DIR", "-o", "--output", name="out")] = None,
    init: Annotated[Path | None, option("FILE")] = None,
    resume: Flag = False,
    minutes: Annotated[float | None, option("N")] = None,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: Annotated[int | None, option("N")] = None,
) -> int:
    """Train a network, in full precision or compressed, as a YAML recipe says.  Every tenth picture is held out.

    Args:
        recipe: YAML file; docs/training.md lists its fields
        data: folders of HR pictures, separated by commas; LR is made by the MATLAB-exact bicubic
        output: folder for checkpoint, log and weights (default: runs/ and the recipe's name)
        init: checkpoint to start from, instead of the recipe's
        resume: go on from the checkpoint in the folder, if there is one
        minutes: stop after so many minutes, to be resumed
        device: where it is trained; torchrun starts several processes
        threads: CPU threads
    """
    folders = [Path(word.strip()) for word in data.split(",") if word.strip()]
    if not folders:
        raise UsageError("train needs at least one folder in --data")
    if minutes is not None and minutes <= 0:
        raise UsageError(f"--minutes {minutes:g}: more than 0")
    chosen = load_recipe(need_file(recipe))
    if init is not None:
        chosen = dataclasses.replace(chosen, init=str(init))
    out = output or Path("runs") / recipe.stem
    check_output(out, folder=True)
    try:
        set_threads(threads)
        from bitsr.training.train import train as run
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ConfigError("training needs torch, which is not installed: pip install 'bitsr[torch]'") from None
    with counting(f"training {recipe.stem}") as advance:
        trained = run(
            chosen, folders, out, resume=resume, minutes=minutes, device=device,
            on_step=lambda step, steps, entry: advance(step, steps, _newest(recipe.stem, entry)),
        )  # fmt: skip
    if not trained.entry:  # one of several processes, and not the one that reports
        return 0
    entry, file = trained.entry, trained.weights
    size = f"{file} ({human_bytes(file.stat().st_size)})" if file else "not packed"
    steps, psnr = f"{trained.step}/{chosen.steps}", f"{entry['holdout_psnr_y']:.2f}"
    print_table(
        ("run", "steps", "minutes", "hold-out PSNR-Y", "weights"),
        [(out, steps, f"{entry['seconds'] / 60:.1f}", psnr, size)],
    )
    if trained.unpacked:
        print(f"No packed file: {trained.unpacked}")
    if trained.left_out:
        print(f"In floating point stay {', '.join(trained.left_out)}")
    if not trained.done:
        print(f"Stopped after {minutes:g} minutes; the same command with --resume goes on.")
    return 0


def _newest(name: str, entry: dict[str, Any] | None) -> str:
    """The label of the progress bar, with the newest line of the log."""
    return f"training {name}" + (f", hold-out {entry['holdout_psnr_y']:.2f} dB" if entry else "")
