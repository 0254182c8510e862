"""Start a network as the best linear upscaler instead of as noise.

The first and last 3x3 convolutions of most SR networks are joined by a long skip.  Nine features per colour carry the
3x3 neighbourhood through that skip unchanged; the last convolution then is any 5x5 filter of the input.  That filter
is fitted by least squares on training pictures, and the convolution in front of the skip starts small.  A short
training run begins above bicubic instead of spending a tenth of its steps to get there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitsr.archs.imdn import IMDN
from bitsr.archs.rfdn import RFDN
from bitsr.archs.swinir import SwinIR
from bitsr.errors import ConfigError
from bitsr.training.data import CropDataset
from bitsr.training.least_squares import least_squares

REACH = 5


class Ends(NamedTuple):
    """The 3x3 convolutions at a network's ends: picture -> features, in front of the long skip, features -> phases."""

    first: nn.Conv2d
    before_skip: nn.Conv2d
    last: nn.Conv2d


def _distillation_ends(model: Any) -> Ends:
    return Ends(model.fea_conv, model.LR_conv, model.upsampler[0])


def _swinir_ends(model: SwinIR) -> Ends:
    if model.upsampler != "pixelshuffledirect" or not isinstance(model.conv_after_body, nn.Conv2d):
        raise ConfigError("start: linear is for SwinIR with the upsampler 'pixelshuffledirect' and '1conv' alone")
    return Ends(model.conv_first, model.conv_after_body, model.upsample[0])  # type: ignore[arg-type]


ENDS: dict[type[nn.Module], Callable[[Any], Ends]] = {
    IMDN: _distillation_ends,
    RFDN: _distillation_ends,
    SwinIR: _swinir_ends,
}


def ends_of(model: nn.Module) -> Ends:
    """Raises `ConfigError` for a network whose ends are not known, or too narrow to carry 9 features per colour."""
    find = ENDS.get(type(model))
    if find is None:
        known = ", ".join(kind.__name__ for kind in ENDS)
        raise ConfigError(f"start: linear is known for {known}, not for {type(model).__name__}; use start: random")
    ends = find(model)
    if ends.first.out_channels < 27:
        raise ConfigError(f"start: linear needs 27 features, {type(model).__name__} has {ends.first.out_channels} here")
    return ends


def fit_filters(data: CropDataset, rng: np.random.Generator, batches: int = 24) -> NDArray[np.float64]:
    """Least-squares 5x5 filter for each of the scale**2 output phases: (scale**2, 5, 5), one for all colours."""
    s = data.scale

    def part(lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.unfold(lr.flatten(0, 1)[:, None], REACH).transpose(1, 2).flatten(0, 1)
        inner = hr.flatten(0, 1)[:, None, 2 * s : -2 * s, 2 * s : -2 * s]
        y = nn.functional.pixel_unshuffle(inner, s).permute(0, 2, 3, 1).reshape(-1, s * s)
        return x, y

    found: NDArray[np.float64] = least_squares(part(*data.batch(8, rng)) for _ in range(batches)).numpy()
    return found.T.reshape(s * s, REACH, REACH)


@torch.no_grad()
def linear_start(ends: Ends, filters: NDArray[np.float64], damp: float = 0.1) -> None:
    """Write the filters into the first and the last convolution; what else reaches the last one starts small."""
    first, before_skip, last = ends
    assert first.bias is not None and before_skip.bias is not None and last.bias is not None
    positions = [(i, j) for i in range(3) for j in range(3)]
    first.weight[:27] = 0
    last.weight[:, :27] = 0
    last.weight[:, 27:] *= damp
    first.bias[:27] = 0
    last.bias.zero_()
    count = np.zeros((REACH, REACH))
    for i, j in positions:
        for k, m in positions:
            count[i + k, j + m] += 1
    share = torch.from_numpy(filters / count).float()
    phases = share.shape[0]
    for colour in range(3):
        for n, (i, j) in enumerate(positions):
            feature = colour * 9 + n
            first.weight[feature, colour, i, j] = 1
            for k, m in positions:
                last.weight[colour * phases : (colour + 1) * phases, feature, k, m] = share[:, i + k, j + m]
    before_skip.weight *= damp
    before_skip.bias *= damp
