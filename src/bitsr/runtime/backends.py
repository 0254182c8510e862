"""What runs a program: the plain interpreter on NumPy, or the same lines on torch arrays."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from bitsr.errors import ConfigError
from bitsr.program.program import Program
from bitsr.program.reference import run

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def make_runner(program: Program, backend: str = "auto", threads: int | None = None) -> tuple[str, Runner]:
    """(name of the backend, function from the program's HxWxC input to its output).

    "auto" is the fastest that is installed.  Raises `ConfigError` for a backend that is unknown or not installed.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    if backend == "auto":
        backend = "torch" if find_spec("torch") else "reference"
    if backend not in MAKERS:
        raise ConfigError(f"unknown backend {backend!r}, use one of auto, {', '.join(MAKERS)}")
    return backend, MAKERS[backend](program, threads)


def reference_runner(program: Program, threads: int | None) -> Runner:
    """The interpreter that defines what a program means, on NumPy; ``threads`` is its BLAS library's affair."""
    return lambda x: run(program, x)


def torch_runner(program: Program, threads: int | None) -> Runner:
    """The same interpreter on torch arrays (CPU)."""
    if not find_spec("torch"):
        raise ConfigError("backend torch needs torch, which is not installed: pip install 'bitsr[torch]'")
    import torch

    from bitsr.lowering.torch_arrays import TorchArrays

    arrays = TorchArrays()

    def run_on_torch(x: NDArray[np.float32]) -> NDArray[np.float32]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            with torch.inference_mode():
                return run(program, x, arrays)
        finally:
            torch.set_num_threads(before)

    return run_on_torch


MAKERS: dict[str, Callable[[Program, int | None], Runner]] = {"reference": reference_runner, "torch": torch_runner}
