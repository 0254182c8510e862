"""The two verbs: a module becomes a program, or a packed file."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitsr.archs.detect import descriptor_of
from bitsr.lowering.builder import Builder, Precision
from bitsr.program.program import Program


def lower(module: nn.Module, *, precision: Precision = "fp16", meta: Mapping[str, Any] | None = None) -> Program:
    """The program that computes what ``module``, compressed or not, computes on one picture.

    Args:
        module: a network of ``bitsr.archs``, or one with a ``descriptor`` and a registered lowering.
        precision: of the tensors that integers do not need: norms, bias tables, floating-point layers.  The numbers
            of quantized layers are always float32.
        meta: provenance to keep in the program.

    Raises:
        UnsupportedLayer: a layer cannot be expressed as steps; the text names it.
        ConfigError: the module has no descriptor, or ``precision`` is unknown.
    """
    builder = Builder(descriptor_of(module), precision, module)
    return builder.program(builder.apply(builder.input, module), meta)


def save(module: nn.Module, path: str | PathLike[str], *, precision: Precision = "fp16") -> None:
    """Lower ``module`` and write the packed file, its folder as well.  The same module gives the same bytes.

    The file notes the versions it was made with and, where the module was compressed, ``module.compression`` (a dict).

    Raises:
        UnsupportedLayer, ConfigError: as :func:`lower`.
    """
    from bitsr.format import write_program

    program = lower(module, precision=precision, meta=_provenance(module))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_program(program, Path(path))


def _provenance(module: nn.Module) -> dict[str, Any]:
    from bitsr import __version__

    meta: dict[str, Any] = {"bitsr": __version__, "torch": torch.__version__}
    compression = getattr(module, "compression", None)
    return meta | ({"compression": dict(compression)} if isinstance(compression, Mapping) else {})
