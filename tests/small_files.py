"""Small real files for tests of the command line and the README: a checkpoint, pictures, a benchmark folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from bitsr.archs.msrresnet import MSRResNet


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth waves with a little noise: HxWx3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 9) + c) + np.cos(y / rng.uniform(3, 9)) for c in range(3)]
    values = 128 + 50 * np.stack(waves, axis=-1) + rng.normal(0, 2, (height, width, 3))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> NDArray[Any]:
    """HxWxC of uint8, uint16 or float32 in 0..1, every value as likely."""
    rng = np.random.default_rng(seed)
    if dtype is np.float32:
        return rng.random((height, width, channels), np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def write_checkpoint(path: Path, module: nn.Module | None = None, scale: int = 4) -> Path:
    """A network as it is; without one, an untrained MSRResNet of a few thousand weights."""
    if module is None:
        torch.manual_seed(0)
        module = MSRResNet(num_feat=8, num_block=1, upscale=scale)
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
    return path


def write_pictures(folder: Path, names: list[str], height: int = 48, width: int = 64) -> Path:
    """PNG pictures, each another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        Image.fromarray(picture(height, width, seed)).save(folder / name)
    return folder
