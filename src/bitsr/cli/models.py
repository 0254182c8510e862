"""A model as the user names it: a packed file (`.bitsr`), a checkpoint, or the word `bicubic`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import bitsr
from bitsr.errors import BitsrError, CheckpointError, ConfigError
from bitsr.evaluation.evaluate import Bicubic
from bitsr.format import is_packed
from bitsr.runtime.backends import check_threads

BICUBIC = "bicubic"


@dataclass(frozen=True)
class Opened:
    """A model ready to run: ``upscaler`` maps HxWx3 uint8 to (scale H)x(scale W)x3 uint8."""

    name: str
    upscaler: Callable[[NDArray], NDArray]
    scale: int
    backend: str
    file_bytes: int | None = None


def need_file(path: str | Path) -> Path:
    """The path, if there is such a file; else `BitsrError`."""
    path = Path(path)
    if not path.is_file():
        raise BitsrError(f"{path}: {'is a folder, expected a file' if path.is_dir() else 'no such file'}")
    return path


def set_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads, if a number is given."""
    if threads is None:
        return
    check_threads(threads)
    import torch

    torch.set_num_threads(threads)


def load_checkpoint(path: str | Path, device: str = "cpu", threads: int | None = None, **options: Any) -> Any:
    """The `nn.Module` of a checkpoint; packed files are refused with a word of help.  Sets torch's threads if given.

    ``options`` are those of `bitsr.load`.
    """
    if is_packed(need_file(path)):
        raise CheckpointError(f"{path} is packed already; give the checkpoint it was made from")
    module = bitsr.load(path, **options)
    import torch

    set_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here")
    return module.to(device)


def open_model(
    name: str, *, scale: int | None = None, backend: str = "auto", threads: int | None = None, device: str = "cpu"
) -> Opened:
    """Open a model by name; ``scale`` is needed for `bicubic` and checked for the others.

    Raises:
        BitsrError: no such file, unreadable, or of another scale.
    """
    if name == BICUBIC:
        if scale is None:
            raise ConfigError("bicubic needs --scale")
        if scale < 1:
            raise ConfigError(f"--scale {scale}: at least 1")
        return Opened(BICUBIC, Bicubic(scale), scale, "numpy")
    path = need_file(name)
    upscaler: Callable[[NDArray], NDArray]
    if is_packed(path):
        model = bitsr.open(path, backend=backend, threads=threads)
        upscaler, descriptor, used = model, model.descriptor, model.backend
    else:
        module = load_checkpoint(path, device, threads, scale=scale)
        upscaler, descriptor, used = bitsr.ModuleUpscaler(module, device), module.descriptor, "eager"
    if scale is not None and scale != descriptor.scale:
        raise ConfigError(f"{name} upscales by {descriptor.scale}, not by {scale}")
    return Opened(name, upscaler, descriptor.scale, used, path.stat().st_size)
