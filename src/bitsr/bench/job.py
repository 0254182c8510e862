"""How each runtime is loaded from a prepared file; a job is all that a fresh process needs to know.

Every runtime gets its best case: inference only, one picture, its size known in advance, as many threads as asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.errors import ConfigError

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Job:
    """``loader`` is a key of `LOADERS`, ``file`` what was prepared for it; ``option`` is the loader's own."""

    loader: str
    file: str
    height: int
    width: int
    channels: int
    threads: int
    option: str = ""

    @property
    def planes(self) -> bool:
        """Whether pictures are 1xCxHxW; ours are HxWxC."""
        return self.loader != "ours"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))


def load(job: Job) -> Run:
    """A function from picture to picture."""
    return LOADERS[job.loader](job)


def load_ours(job: Job) -> Run:
    """``option`` is the backend."""
    from bitsr.format import read_program
    from bitsr.runtime.backends import make_runner

    return make_runner(read_program(job.file), job.option, job.threads)[1]


def load_torch(job: Job) -> Run:
    """``option`` is "eager" or "compile"; channels last where that is the faster of the two layouts."""
    import torch

    torch.set_num_threads(job.threads)
    module = torch.load(job.file, weights_only=False).eval().requires_grad_(False)  # a file that we have just written
    example = torch.rand(1, job.channels, job.height, job.width)

    def seconds(layout: torch.memory_format) -> float:
        module.to(memory_format=layout)
        module(example.contiguous(memory_format=layout))
        start = time.perf_counter()
        module(example.contiguous(memory_format=layout))
        return time.perf_counter() - start

    with torch.inference_mode():
        layout = min((torch.channels_last, torch.contiguous_format), key=seconds)
    module = module.to(memory_format=layout)
    compiled = torch.compile(module) if job.option == "compile" else module

    @torch.inference_mode()
    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return compiled(torch.from_numpy(x).contiguous(memory_format=layout)).numpy()

    return run


def load_onnxruntime(job: Job) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name("height", job.height)
    options.add_free_dimension_override_by_name("width", job.width)
    session = onnxruntime.InferenceSession(job.file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def load_openvino(job: Job) -> Run:
    """``option`` is the precision of floating-point layers: "f32", "bf16", or "" for what OpenVINO takes by itself."""
    import openvino

    core = openvino.Core()
    if job.option == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError("this CPU has no bf16 instructions")
    model = core.read_model(job.file)
    model.reshape([1, job.channels, job.height, job.width])
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": job.threads}
    if job.option:
        config["INFERENCE_PRECISION_HINT"] = job.option
    request = core.compile_model(model, "CPU", config).create_infer_request()
    return lambda x: request.infer({0: x})[0]


LOADERS: dict[str, Callable[[Job], Run]] = {
    "ours": load_ours,
    "torch": load_torch,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
}
