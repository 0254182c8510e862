"""A torch network as a plain function from picture to picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitsr.archs.detect import descriptor_of
from bitsr.runtime.color import check_finite, check_rgb, from_float, from_network, to_float, to_network
from bitsr.runtime.padding import crop_to, pad_to_minimum


class ModuleUpscaler:
    """Callable from an RGB picture HxWx3 to its upscaled RGB picture, of the same dtype.

    uint8 and uint16 are rounded to nearest and clamped; float32 in [0, 1] is clamped. The module is switched to eval
    mode and, where a ``device`` is given, moved there; its descriptor says which colours and which smallest size it
    takes.
    """

    def __init__(self, module: nn.Module, device: str | torch.device | None = None) -> None:
        self.descriptor = descriptor_of(module)
        self.module = (module if device is None else module.to(device)).eval()
        self.device = next((p.device for p in module.parameters()), torch.device("cpu"))

    @torch.inference_mode()
    def __call__(self, picture: NDArray) -> NDArray:
        """Raises `PictureError` unless the picture is HxWx3, not empty, and uint8, uint16 or float32 in [0, 1], and
        if the network gives NaN or infinite values."""
        check_rgb(picture)
        rgb, size = pad_to_minimum(to_float(picture), self.descriptor.min_size)
        x, side = to_network(rgb, self.descriptor)
        batch = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None].to(self.device)
        out = self.module(batch)[0].float().cpu().numpy().transpose(1, 2, 0)
        check_finite(out, self.descriptor.arch)
        out = crop_to(from_network(out, side, self.descriptor), size, self.descriptor.scale)
        return from_float(np.clip(out, 0, 1), picture.dtype)
