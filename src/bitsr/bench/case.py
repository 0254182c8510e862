"""What is timed: the network of a file, and one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.data.calibration import calibration_crops
from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError
from bitsr.export.floating import floating
from bitsr.format import is_packed, read_program
from bitsr.program import steps
from bitsr.program.dataflow import binary_layers, packed_weights
from bitsr.program.program import Program
from bitsr.runtime.color import to_float, to_network

CALIBRATION = 12  # pictures on which peers calibrate their own quantization
LARGEST_CROP = 128  # LR pixels; larger pictures are mirrored from crops of that size


@dataclass(frozen=True, eq=False)
class Case:
    """``name`` is the file as the user gave it; ``twin`` the program in floating point, which peers run."""

    name: str
    program: Program
    twin: Program
    height: int
    width: int

    @property
    def is_quantized(self) -> bool:
        """Whether the file holds codes."""
        return any(packed_weights(self.program)) or any(binary_layers(self.program))

    @property
    def is_transformer(self) -> bool:
        return any(isinstance(step, steps.WindowAttention) for step in self.program.steps)

    def network(self) -> tuple[Any, ...]:
        """Equal for files of the same network, compressed or not: its layers are of the same shapes."""
        shapes = []
        for step in self.twin.steps:
            if isinstance(step, steps.Linear | steps.Conv2d):
                shapes.append(self.twin.tensors[str(step.weight)].shape)
            elif isinstance(step, steps.SparseLinear):
                shapes.append((step.rows, step.columns))
            elif isinstance(step, steps.BinaryLinear | steps.BinaryConv2d):
                shapes.append((*self.twin.tensors[step.weight.codes].shape[:-1], sum(step.weight.groups)))
        return self.twin.descriptor, len(self.twin.steps), tuple(shapes)


def open_case(path: Path, height: int, width: int) -> Case:
    """The network of a packed file or of a checkpoint, which needs torch.

    Raises:
        ConfigError: the network takes no picture as small as that.
    """
    if is_packed(path):
        program = read_program(path)
    else:
        import bitsr

        program = bitsr.lower(bitsr.load(path), precision="fp32")
    least = program.descriptor.min_size
    if min(height, width) < least:
        raise ConfigError(f"{path}: pictures of {width}x{height} are too small, the sides must be at least {least}")
    return Case(str(path), program, floating(program), height, width)


def network_pictures(descriptor: Descriptor, height: int, width: int, count: int) -> list[NDArray[np.float32]]:
    """Bundled pictures in the network's colours, HxWxC in [0, 1]."""
    side = min(max(height, width), LARGEST_CROP)
    crops = calibration_crops(None, descriptor.scale, count, side)
    margins = [(0, max(0, height - side)), (0, max(0, width - side)), (0, 0)]
    return [
        np.ascontiguousarray(to_network(to_float(np.pad(crop, margins, "reflect")[:height, :width]), descriptor)[0])
        for crop in crops
    ]
