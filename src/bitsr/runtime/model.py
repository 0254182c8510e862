"""A packed model, ready to upscale: reads the file, runs its program, and needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitsr.descriptor import Descriptor
from bitsr.errors import BitsrError
from bitsr.format import read_program
from bitsr.program.program import Program
from bitsr.runtime.backends import make_runner
from bitsr.runtime.color import check_finite, check_rgb, from_float, from_network, to_float, to_network
from bitsr.runtime.images import Report, upscale_path
from bitsr.runtime.memory import input_pixels_that_fit
from bitsr.runtime.padding import crop_to, pad_to_minimum
from bitsr.runtime.tiles import Tiling, run_tiled


class Model:
    """Callable from an RGB picture HxWx3 to its upscaled RGB picture (H scale)x(W scale)x3 of the same dtype.

    Attributes:
        program: what is run.
        backend: what runs it: "native", "native-bf16", "torch" or "reference" (NumPy).
        name: how it is called in tables: the file's name, else the network's.
        file_bytes: size on disk; None for a program that came from no file.
    """

    def __init__(
        self, program: Program, *, backend: str = "auto", threads: int | None = None, path: str | Path | None = None
    ) -> None:
        """See `open` for ``backend`` and ``threads``."""
        self.program = program
        self.backend, self._run = make_runner(program, backend, threads)
        self.name = Path(path).stem if path is not None else program.descriptor.arch
        self.file_bytes = os.stat(path).st_size if path is not None else None

    @property
    def descriptor(self) -> Descriptor:
        """Scale, colour, padding and tiling of the network."""
        return self.program.descriptor

    def __call__(self, lr: NDArray) -> NDArray:
        """Upscale a picture of uint8, uint16 or float32 in [0, 1]; integers are rounded to nearest, all are clamped.

        Raises `PictureError` for another shape or dtype, and when the network gives NaN or infinity.
        """
        return self.upscale_array(lr)[0]

    def upscale_array(self, lr: NDArray, tile: int | Literal["auto"] = "auto") -> tuple[NDArray, Tiling]:
        """As calling the model, in tiles with a core of ``tile`` LR pixels; also tells how the picture was run."""
        check_rgb(lr)
        descriptor = self.descriptor
        rgb, size = pad_to_minimum(to_float(lr), descriptor.min_size)
        x, side = to_network(rgb, descriptor)
        out, tiling = run_tiled(self._run_checked, x, descriptor, tile, self._pixels_that_fit())
        rgb = crop_to(from_network(out, side, descriptor), size, descriptor.scale)
        if lr.dtype == np.float32:  # in place where that is not the caller's own picture: pictures may be large
            rgb = np.clip(rgb, 0, 1, out=None if np.may_share_memory(rgb, lr) else rgb)
        return from_float(rgb, lr.dtype), tiling

    def upscale(self, path_in: str | Path, path_out: str | Path, tile: int | Literal["auto"] = "auto") -> Report:
        """Upscale a picture file, or a folder into another; see `bitsr.runtime.images.upscale_path`."""
        return upscale_path(self, Path(path_in), Path(path_out), tile)

    def _pixels_that_fit(self) -> int:
        return input_pixels_that_fit(self.program, getattr(self._run, "arena_bytes", None))

    def _run_checked(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        out = self._run(x)
        expected = (x.shape[0] * self.descriptor.scale, x.shape[1] * self.descriptor.scale)
        if out.shape[:2] != expected:
            raise BitsrError(f"{self.name}: the program gives {out.shape[:2]} for {x.shape[:2]}, not {expected}")
        check_finite(out, self.name)
        return out


def open(path: str | Path, *, backend: str = "auto", threads: int | None = None) -> Model:  # noqa: A001
    """Open a packed file.

    ``backend`` is "native" (the engine in C++), "native-bf16" (the same, but what is not integer is multiplied in
    bfloat16, which is less exact), "torch" (the plain interpreter on torch arrays), "reference" (on NumPy) or "auto",
    the fastest that is installed.  ``threads`` limits the CPU threads of native (left out: all cores that the process
    may use) and of torch; NumPy takes those of its BLAS library (OMP_NUM_THREADS).

    Raises `PackedFileError` for a file that is missing, damaged or of a newer version, `ConfigError` for an unknown
    backend.
    """
    return Model(read_program(path), backend=backend, threads=threads, path=path)
