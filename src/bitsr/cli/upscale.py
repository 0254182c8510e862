"""`bitsr upscale`: pictures and folders of pictures through a model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image
from tyro.conf import Positional

import bitsr
from bitsr.cli.console import UsageError, counting, option
from bitsr.cli.models import load_checkpoint, need_file
from bitsr.data.files import check_output
from bitsr.data.pictures import SUFFIXES, list_pictures
from bitsr.errors import ConfigError, PictureError
from bitsr.format import is_packed
from bitsr.runtime.backends import Backend
from bitsr.runtime.images import Done, Failure, upscale_files


def upscale(
    inputs: Annotated[Positional[tuple[Path, ...]], option("IN...")],
    /,
    *,
    output: Annotated[Path, option("OUT", "-o")],
    model: Annotated[Path, option("FILE")],
    tile: Annotated[str, option("auto|N")] = "auto",
    threads: Annotated[int | None, option("N")] = None,
    backend: Backend = "auto",
) -> int:
    """Upscale pictures; transparency, 16 bit, orientation and colour profile are kept.

    A picture that cannot be read is reported and the rest goes on; the exit code then is 1.

    Args:
        inputs: pictures and folders of pictures
        output: a file name for one picture; a folder for several, where they keep their names
        model: packed file or checkpoint
        tile: side of the tiles in LR pixels; auto: as large as memory allows
        threads: CPU threads
        backend: what runs the model
    """
    if not inputs:
        raise UsageError("upscale needs at least one picture or folder")
    side = tile_side(tile)
    jobs = plan(inputs, output)
    check_output(output, folder=output != jobs[0][1])
    runner = open_runner(model, backend, threads)
    with counting("upscaling") as advance:
        number = count(1)

        def on_picture(outcome: Done | Failure) -> None:
            advance(next(number), len(jobs))
            if isinstance(outcome, Done):
                with suppress(BrokenPipeError):  # nobody reads on; the pictures are wanted all the same
                    print(outcome, flush=True)
            elif len(jobs) > 1:
                print(f"failed: {outcome}", file=sys.stderr, flush=True)

        report = upscale_files(runner, jobs, side, on_picture)
    if len(jobs) == 1 and report.failed:
        raise PictureError(str(report.failed[0]))
    if report.failed:
        names = ", ".join(str(failure.source) for failure in report.failed)
        raise PictureError(f"{len(report.failed)} of {len(jobs)} pictures failed: {names}")
    return 0


def tile_side(word: str) -> int | Literal["auto"]:
    """'auto' or a positive number."""
    if word == "auto":
        return "auto"
    if not word.isdecimal() or int(word) < 1:
        raise UsageError(f"--tile {word}: takes auto or a positive number")
    return int(word)


def plan(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """(source, target) of every picture; raises `BitsrError` if the only input is missing, a folder empty, or
    ``output`` unfit."""
    named = output.suffix.lower() in SUFFIXES and not output.is_dir()
    if named and (len(inputs) > 1 or inputs[0].is_dir()):
        raise ConfigError(f"-o {output} is one file; for several pictures give a folder")
    meant = output.suffix.lower() in Image.registered_extensions() and not output.is_dir()
    if not named and (meant or output.is_file()):
        raise ConfigError(f"-o {output} is neither a folder nor a picture that is written ({', '.join(SUFFIXES)})")
    if len(inputs) == 1 and not inputs[0].is_dir():
        need_file(inputs[0])
    return [(source, output if named else output / source.name) for source in _pictures(inputs)]


def _pictures(inputs: Iterable[Path]) -> Iterable[Path]:
    """Of folders and files; what is missing among several is reported when its turn comes."""
    for path in inputs:
        yield from list_pictures(path) if path.is_dir() else [path]


def open_runner(path: Path, backend: str, threads: int | None) -> bitsr.Model:
    """The model that runs a packed file, or a checkpoint lowered in memory."""
    if is_packed(need_file(path)):
        return bitsr.open(path, backend=backend, threads=threads)
    program = bitsr.lower(load_checkpoint(path, threads=threads), precision="fp32")
    return bitsr.Model(program, backend=backend, threads=threads)
