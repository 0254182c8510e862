"""The torch module of a network, also where only its packed file is at hand: eager and compiled torch run it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.bench.case import Case, network_pictures
from bitsr.errors import BitsrError, ConfigError
from bitsr.format import is_packed
from bitsr.program.dataflow import tensors_of
from bitsr.program.program import Program
from bitsr.program.reference import run
from bitsr.program.steps import Affine

PROBE = 24  # side of the picture on which module and program must agree


def module_of(case: Case) -> Any:
    """The `nn.Module` of the file; that of a packed file gets the values that its codes stand for.

    Raises:
        ConfigError: the packed file's network is none that `bitsr.load` knows.
    """
    import bitsr

    if not is_packed(case.name):
        return bitsr.load(case.name)
    descriptor = case.twin.descriptor
    for input_range in (1.0, 255.0):  # weights do not tell it
        try:
            module = load_state(state_of(case.twin), arch=descriptor.arch, color=descriptor.color, range=input_range)
        except BitsrError:
            continue
        if agrees(module, case.twin):
            return module
    raise ConfigError(f"{case.name}: no network that bitsr can load computes what the packed file computes")


def state_of(twin: Program) -> dict[str, NDArray[np.float32]]:
    """The state dict behind a floating-point program, whose tensors are named after layers, but for those of `Affine`:
    networks that can be loaded make them, of a picture's mean for instance."""
    made = {name for step in twin.steps if isinstance(step, Affine) for name in tensors_of(step)}
    state = {}
    for name, value in twin.tensors.items():
        if name in made:
            continue
        key = name.replace(".bias_table", ".relative_position_bias_table")
        state[key] = np.ascontiguousarray(np.moveaxis(value, -1, 1) if value.ndim == 4 else value)
    return state


def load_state(state: dict[str, NDArray[np.float32]], *, arch: str, color: Any, range: float) -> Any:
    """`bitsr.load` of a state dict in memory."""
    from safetensors.numpy import save_file

    import bitsr

    with TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        save_file(state, path)
        return bitsr.load(path, arch=arch, color=color, input_range=range)


def agrees(module: Any, twin: Program) -> bool:
    import torch

    side = max(PROBE, twin.descriptor.min_size)
    (x,) = network_pictures(twin.descriptor, side, side, 1)
    with torch.inference_mode():
        made = module(torch.from_numpy(x.transpose(2, 0, 1)[None].copy()))[0].numpy().transpose(1, 2, 0)
    expected = run(twin, x)
    return made.shape == expected.shape and bool(np.abs(made - expected).max() <= 1e-3 * np.ptp(expected))
