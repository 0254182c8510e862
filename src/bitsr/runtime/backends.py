"""What runs a program: the native engine, or the plain interpreter on NumPy or torch arrays."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitsr.errors import ConfigError
from bitsr.program.program import Program
from bitsr.program.reference import run

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Backend = Literal["auto", "native", "native-bf16", "torch", "reference"]


def make_runner(program: Program, backend: str = "auto", threads: int | None = None) -> tuple[str, Runner]:
    """(name of the backend, function from the program's HxWxC input to its output).

    "auto" is the fastest that is installed: native, else torch, else reference.  Raises `ConfigError` for a backend
    that is unknown or not installed.
    """
    check_threads(threads)
    if backend == "auto":
        backend = "native" if native_is_built() else "torch" if find_spec("torch") else "reference"
    if backend not in MAKERS:
        raise ConfigError(f"unknown backend {backend!r}, use one of auto, {', '.join(MAKERS)}")
    return backend, MAKERS[backend](program, threads)


MOST_THREADS = 4096


def check_threads(threads: int | None) -> None:
    """Raises `ConfigError` for less than one thread or senselessly many; None leaves the number to the backend."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"threads must be at least 1 and at most {MOST_THREADS}, got {threads}")


def native_is_built() -> bool:
    """Whether bitsr was installed with its native engine."""
    try:
        import bitsr._native  # noqa: F401
    except ImportError:
        return False
    return True


class NativeRunner:
    """The native engine on all cores that this process may use, or on ``threads`` of them."""

    def __init__(self, program: Program, threads: int | None, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        if not native_is_built():
            raise ConfigError(
                "this installation has no native engine (no C++ compiler when it was installed); reinstall with a "
                "compiler or use backend reference or torch"
            )
        from bitsr import _native
        from bitsr.engine.engine import Engine

        try:
            _native.isa()
        except RuntimeError as error:
            raise ConfigError(str(error)) from None
        self._engine = Engine(program, precision)
        self._threads = threads or usable_cores()
        self.arena_bytes = lru_cache(maxsize=8)(self._engine.arena_bytes)  # of a picture of some height and width

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._engine(x, self._threads)


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


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


MAKERS: dict[str, Callable[[Program, int | None], Runner]] = {
    "native": NativeRunner,
    "native-bf16": partial(NativeRunner, precision="bf16"),
    "torch": torch_runner,
    "reference": reference_runner,
}
