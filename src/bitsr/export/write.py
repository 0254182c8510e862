"""From a program to an ONNX file that has been compared with the program before it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bitsr import __version__
from bitsr.data.calibration import calibration_crops
from bitsr.data.files import write_atomically
from bitsr.errors import BitsrError, ConfigError
from bitsr.export.floating import floating
from bitsr.program.program import Program
from bitsr.program.reference import run
from bitsr.program.validate import check_program
from bitsr.runtime.color import to_float, to_network
from bitsr.runtime.padding import pad_to_minimum

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, IR_VERSION = 18, 8
INPUT, OUTPUT = "input", "output"
SIZES = ((24, 24), (17, 30), (33, 19))  # of the pictures on which file and program are compared
FLOAT_BOUND = 1e-4  # largest difference, as a share of the output's range
QUANTIZED_BOUND = 1e-2  # root mean square, likewise: a code that ties move to its neighbour changes what follows

Planes = NDArray[np.float32]  # 1xCxHxW


@dataclass(frozen=True)
class Agreement:
    """How a graph's output compares with the program's, as shares of the output's range over all sizes: the largest
    difference and the largest root mean square; and what ran the graph."""

    largest: float
    rms: float
    runtime: str


def export(program: Program, path: str | Path, *, quantized: bool = True) -> Agreement:
    """Write ``program`` as ONNX, once it has given the program's results on pictures of three sizes.

    Raises:
        ConfigError: the package onnx is not installed.
        BitsrError: the graph does not compute what the program computes; nothing is written.
    """
    model = to_onnx(program, quantized=quantized)
    data = model.SerializeToString()
    agreement = compare(program if quantized else floating(program), data)
    write_atomically(path, data)
    return agreement


def to_onnx(program: Program, *, quantized: bool = True) -> ModelProto:
    """The program as an ONNX model for pictures of any size.

    Input and output are 1xCxHxW float32 in the range of the network's colours; their sides are the free dimensions
    ``height`` and ``width``.  Weights of few bits are int8; quantized operands are uint8 between Q/DQ pairs.  With
    ``quantized=False`` the model is the program's floating-point twin instead.

    Raises:
        ConfigError: the package onnx is not installed.
        BadProgram: the program contradicts itself.
    """
    if not find_spec("onnx"):
        raise ConfigError("ONNX needs the package onnx, which is not installed: pip install 'bitsr[export]'")
    from onnx import TensorProto, checker, helper

    from bitsr.export.graph import PLANES, Graph
    from bitsr.export.steps import write_step

    check_program(program)
    program = program if quantized else floating(program)
    graph = Graph(program)
    graph.put(program.input, PLANES, INPUT)
    for step in program.steps:
        write_step(step, graph)
    graph.nodes.append(helper.make_node("Identity", [graph.get(program.output, PLANES)], [OUTPUT], OUTPUT))
    sides = {INPUT: ("height", "width"), OUTPUT: ("output_height", "output_width")}
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, program.channels, *dimensions])
        for name, dimensions in sides.items()
    }
    body = helper.make_graph(
        graph.nodes, program.descriptor.arch, [ends[INPUT]], [ends[OUTPUT]], initializer=graph.initializers
    )
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="bitsr", producer_version=__version__,
    )  # fmt: skip
    helper.set_model_props(model, {"bitsr.descriptor": json.dumps(program.descriptor.to_dict())})
    checker.check_model(model)
    return model


def compare(program: Program, data: bytes) -> Agreement:
    """Run the graph beside the program; raises `BitsrError` where they differ by more than the bounds allow."""
    runtime, graph = graph_runner(data)
    largest = rms = 0.0
    for crop in comparison_pictures(program):
        expected = run(program, crop)
        made = graph(crop.transpose(2, 0, 1)[None])[0].transpose(1, 2, 0)
        if made.shape != expected.shape:
            raise BitsrError(f"the ONNX graph gives {made.shape} for {crop.shape}, the program {expected.shape}")
        difference = (made - expected) / max(float(np.ptp(expected)), float(np.abs(expected).max()), 1e-30)
        largest = max(largest, float(np.abs(difference).max()))
        rms = max(rms, float(np.sqrt(np.mean(difference**2))))
    exact = floating(program).steps == program.steps
    found, bound = (largest, FLOAT_BOUND) if exact else (rms, QUANTIZED_BOUND)
    if not found <= bound:  # NaN is no agreement either
        what = "by up to" if exact else "in the root mean square by"
        raise BitsrError(
            f"the ONNX graph and the program differ {what} {found:.1e} of the output's range under {runtime} "
            f"(allowed: {bound:.0e}); nothing is written"
        )
    return Agreement(largest, rms, runtime)


def comparison_pictures(program: Program) -> list[NDArray[np.float32]]:
    """Crops of bundled pictures in the network's colours, one for each of `SIZES`, HxWxC."""
    descriptor = program.descriptor
    side = max(max(size) for size in SIZES)
    crops = calibration_crops(None, descriptor.scale, len(SIZES), side)
    return [
        to_network(pad_to_minimum(to_float(crop[:height, :width]), descriptor.min_size)[0], descriptor)[0]
        for crop, (height, width) in zip(crops, SIZES, strict=True)
    ]


def graph_runner(data: bytes) -> tuple[str, Callable[[Planes], Planes]]:
    """What runs ONNX here: ONNX Runtime without fusions that would change the arithmetic, else onnx's own evaluator."""
    if not find_spec("onnxruntime"):
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx.load_from_string(data))
        return "onnx.reference", lambda x: np.asarray(list(evaluator.run(None, {INPUT: x}))[0])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return "onnxruntime", lambda x: session.run(None, {INPUT: x})[0]
