"""bitsr compresses image super-resolution (SR) networks to few bits and runs the packed result.

    module = bitsr.load("swinir_x4.pth")                     # any supported checkpoint, found from its weights
    small = bitsr.compress(module, bitsr.Best(4, 4), pictures)
    bitsr.save(small, "swinir_x4.bitsr")                     # one small file
    model = bitsr.open("swinir_x4.bitsr")                    # from here on without torch
    sr = model(lr)                                           # uint8 or float32, HxWx3 -> (scale H)x(scale W)x3

`load`, `compress`, `compress_within`, `lower`, `save` and `train` need the extra `torch`; everything else runs without
it.  Names are imported when they are first used: `import bitsr` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitsr.archs.load import load
    from bitsr.archs.upscaler import ModuleUpscaler
    from bitsr.data.calibration import calibration_crops
    from bitsr.descriptor import Descriptor
    from bitsr.errors import BitsrError
    from bitsr.evaluation.evaluate import evaluate
    from bitsr.lowering.entry import lower, save
    from bitsr.methods.compress import compress
    from bitsr.methods.ptq.config import (
        BRECQ,
        GPTQ,
        PAMS,
        AdaRound,
        Best,
        DBDCPac,
        Dobi,
        GranularDQ,
        HarmoQ,
        HarmoQLiteral,
        MinMax,
        Percentile,
        QDrop,
        RepQ,
        SmoothQuant,
        SVDQuant,
        TwoDQuant,
    )
    from bitsr.methods.ptq.goals import Budget, MaxDrop
    from bitsr.methods.ptq.mixed import allocate_bits, compress_within
    from bitsr.runtime.model import Model, open
    from bitsr.training.recipe import Distillation, Recipe, load_recipe
    from bitsr.training.train import train

__version__ = "0.1.0"

_HOMES = {
    "AdaRound": "bitsr.methods.ptq.config",
    "BRECQ": "bitsr.methods.ptq.config",
    "Best": "bitsr.methods.ptq.config",
    "BitsrError": "bitsr.errors",
    "Budget": "bitsr.methods.ptq.goals",
    "DBDCPac": "bitsr.methods.ptq.config",
    "Descriptor": "bitsr.descriptor",
    "Distillation": "bitsr.training.recipe",
    "Dobi": "bitsr.methods.ptq.config",
    "GPTQ": "bitsr.methods.ptq.config",
    "GranularDQ": "bitsr.methods.ptq.config",
    "HarmoQ": "bitsr.methods.ptq.config",
    "HarmoQLiteral": "bitsr.methods.ptq.config",
    "MaxDrop": "bitsr.methods.ptq.goals",
    "MinMax": "bitsr.methods.ptq.config",
    "Model": "bitsr.runtime.model",
    "ModuleUpscaler": "bitsr.archs.upscaler",
    "PAMS": "bitsr.methods.ptq.config",
    "Percentile": "bitsr.methods.ptq.config",
    "QDrop": "bitsr.methods.ptq.config",
    "Recipe": "bitsr.training.recipe",
    "RepQ": "bitsr.methods.ptq.config",
    "SVDQuant": "bitsr.methods.ptq.config",
    "SmoothQuant": "bitsr.methods.ptq.config",
    "TwoDQuant": "bitsr.methods.ptq.config",
    "allocate_bits": "bitsr.methods.ptq.mixed",
    "calibration_crops": "bitsr.data.calibration",
    "compress": "bitsr.methods.compress",
    "compress_within": "bitsr.methods.ptq.mixed",
    "evaluate": "bitsr.evaluation.evaluate",
    "load": "bitsr.archs.load",
    "load_recipe": "bitsr.training.recipe",
    "lower": "bitsr.lowering.entry",
    "open": "bitsr.runtime.model",
    "save": "bitsr.lowering.entry",
    "train": "bitsr.training.train",
}

__all__ = [
    "AdaRound",
    "BRECQ",
    "Best",
    "BitsrError",
    "Budget",
    "DBDCPac",
    "Descriptor",
    "Distillation",
    "Dobi",
    "GPTQ",
    "GranularDQ",
    "HarmoQ",
    "HarmoQLiteral",
    "MaxDrop",
    "MinMax",
    "Model",
    "ModuleUpscaler",
    "PAMS",
    "Percentile",
    "QDrop",
    "Recipe",
    "RepQ",
    "SVDQuant",
    "SmoothQuant",
    "TwoDQuant",
    "allocate_bits",
    "calibration_crops",
    "compress",
    "compress_within",
    "evaluate",
    "load",
    "load_recipe",
    "lower",
    "open",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    """The public name ``name``, imported now (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bitsr' has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "torch":
            raise
        from bitsr.errors import ConfigError

        raise ConfigError(f"bitsr.{name} needs torch, which is not installed: pip install 'bitsr[torch]'") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
