"""The peers, and what each is given: the same network in floating point, exported or quantized in the peer's own way.

A variant prepares a file once; `bitsr.bench.job` loads it, here for the timing and in a fresh process for its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.bench.case import CALIBRATION, Case, network_pictures
from bitsr.errors import ConfigError
from bitsr.export.write import INPUT, to_onnx
from bitsr.format import write_program


@dataclass(frozen=True)
class Variant:
    """``prepare(case, folder)`` gives the file that ``loader`` loads; it is made once and kept in ``folder``.
    ``packages`` must be installed; ``of_codes``: it runs the file's own codes, so there must be some."""

    name: str
    loader: str
    prepare: Callable[[Case, Path], Path]
    option: str = ""
    packages: tuple[str, ...] = ()
    of_codes: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that it needs and that are not installed."""
        return tuple(package for package in self.packages if not find_spec(package))


def ours(backend: str) -> Variant:
    """One of our backends on the file as it is."""
    return Variant(backend, "ours", packed_program, backend)


def packed_program(case: Case, folder: Path) -> Path:
    path = folder / "program.bitsr"
    if not path.exists():
        write_program(case.program, path)
    return path


def torch_module(case: Case, folder: Path) -> Path:
    from bitsr.bench.module import module_of

    path = folder / "module.pt"
    if not path.exists():
        import torch

        torch.save(module_of(case), path)
    return path


def onnx_float(case: Case, folder: Path) -> Path:
    return _onnx(case, folder / "float.onnx", quantized=False)


def onnx_codes(case: Case, folder: Path) -> Path:
    """The file's own codes as Q/DQ."""
    return _onnx(case, folder / "codes.onnx", quantized=True)


def _onnx(case: Case, path: Path, quantized: bool) -> Path:
    if not path.exists():
        path.write_bytes(to_onnx(case.program, quantized=quantized).SerializeToString())
    return path


def onnxruntime_int8(case: Case, folder: Path) -> Path:
    """ONNX Runtime's static quantization, weights per channel; of a transformer only what multiplies, as its guide
    advises."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    path, folded = folder / "onnxruntime_int8.onnx", folder / "folded.onnx"
    if path.exists():
        return path

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(_pictures(case))

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.left, None)
            return None if x is None else {INPUT: x}

    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("height", case.height)
    options.add_free_dimension_override_by_name("width", case.width)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(str(onnx_float(case, folder)), options, providers=["CPUExecutionProvider"])
    quantize_static(
        str(folded), str(path), Pictures(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"] if case.is_transformer else None,
    )  # fmt: skip
    return path


def openvino_int8(case: Case, folder: Path) -> Path:
    """NNCF's post-training quantization, on the graph with its size known."""
    import nncf
    import openvino
    from openvino.passes import ConstantFolding, Manager

    path = folder / "openvino_int8.xml"
    if path.exists():
        return path
    model = openvino.Core().read_model(onnx_float(case, folder))
    model.reshape([1, case.program.channels, case.height, case.width])
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
    small = nncf.quantize(
        model, nncf.Dataset(_pictures(case)), subset_size=CALIBRATION,
        model_type=nncf.ModelType.TRANSFORMER if case.is_transformer else None,
        target_device=nncf.TargetDevice.CPU,
    )  # fmt: skip
    openvino.save_model(small, path, compress_to_fp16=False)
    return path


def _pictures(case: Case) -> list[NDArray[np.float32]]:
    """Calibration pictures, 1xCxHxW."""
    crops = network_pictures(case.program.descriptor, case.height, case.width, CALIBRATION)
    return [np.ascontiguousarray(crop.transpose(2, 0, 1)[None]) for crop in crops]


ORT, OPENVINO = ("onnx", "onnxruntime"), ("onnx", "openvino")
PEERS: dict[str, tuple[Variant, ...]] = {
    "eager": (Variant("eager", "torch", torch_module, "eager", ("torch",)),),
    "compile": (Variant("compile", "torch", torch_module, "compile", ("torch",)),),
    "onnxruntime": (
        Variant("onnxruntime", "onnxruntime", onnx_float, packages=ORT),
        Variant("onnxruntime-int8", "onnxruntime", onnxruntime_int8, packages=ORT),
        Variant("onnxruntime-codes", "onnxruntime", onnx_codes, packages=ORT, of_codes=True),
    ),
    "openvino": (
        Variant("openvino", "openvino", onnx_float, "f32", OPENVINO),
        Variant("openvino-bf16", "openvino", onnx_float, "bf16", OPENVINO),
        Variant("openvino-int8", "openvino", openvino_int8, packages=(*OPENVINO, "nncf")),
        Variant("openvino-codes", "openvino", onnx_codes, packages=OPENVINO, of_codes=True),
    ),
}


def choose(names: list[str] | None) -> list[Variant]:
    """The variants of the named peers; those that are installed, where none are named.

    Raises:
        ConfigError: a name is unknown, or nothing of a named peer is installed.
    """
    if unknown := sorted(set(names or ()) - set(PEERS)):
        raise ConfigError(f"unknown peer {unknown[0]!r}, use some of {', '.join(PEERS)}")
    for name in names or ():
        if all(variant.missing for variant in PEERS[name]):
            missing = ", ".join(PEERS[name][0].missing)
            raise ConfigError(f"peer {name} needs {missing}, not installed: pip install 'bitsr[torch,bench]'")
    chosen = [variant for name in (names if names is not None else PEERS) for variant in PEERS[name]]
    return [variant for variant in chosen if not variant.missing]
