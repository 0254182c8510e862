"""Settling by trial what weights do not tell: the right reading of a trained network upscales a smooth picture well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.errors import PictureError

LIMIT = 0.02  # rms difference from bicubic, of a range of 1, that a trained network keeps on a smooth picture
MARGIN = 3.0  # how many times closer than any other reading the right one must be


def smooth_picture(size: int = 32) -> NDArray[np.float32]:
    """size x size x 3 RGB in [0, 1]: slow waves of different colours, nothing that upscaling could get wrong."""
    y, x = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size), indexing="ij")
    waves = [np.sin(2.5 * x + 1.5 * y), np.cos(3 * y - x), np.sin(2 * x - 3 * y + 1)]
    return (0.5 + 0.4 * np.stack(waves, axis=-1)).astype(np.float32)


def distance(module: nn.Module) -> float:
    """rms difference between the network's output and the smooth picture's bicubic upscaling; inf if not finite."""
    upscale = ModuleUpscaler(module)
    picture = smooth_picture()
    try:
        out = upscale(picture)
    except PictureError:  # NaN or infinite
        return float("inf")
    batch = torch.from_numpy(picture).permute(2, 0, 1)[None]
    target = F.interpolate(batch, scale_factor=upscale.descriptor.scale, mode="bicubic", align_corners=False)
    return float(np.sqrt(np.mean((out - target[0].permute(1, 2, 0).numpy()) ** 2)))


def best_reading(readings: Sequence[nn.Module]) -> int | None:
    """Index of the one reading that is plausible and stands out from the others; None if there is no such one."""
    distances = np.array([distance(module) for module in readings])
    first, second = np.argsort(distances)[:2]
    stands_out = distances[first] <= LIMIT and distances[second] >= MARGIN * distances[first]
    return int(first) if stands_out else None
