"""Start a network from the same network at another scale.

All but the upsampler has the same shape at every scale.  Where that is a single convolution, the one that
serves the taken body best is a least-squares problem, so that training begins near the end instead of with noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle, unfold

from bitsr.training.data import CropDataset
from bitsr.training.least_squares import least_squares

BATCHES, CROPS = 24, 8


def body_start(model: nn.Module, body: nn.Module, data: CropDataset, rng: np.random.Generator) -> None:
    """Take over what ``body`` has under the same name and in the same shape; fit the rest if it is one convolution."""
    own, other = model.state_dict(), body.state_dict()
    same = {name: value for name, value in other.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(same, strict=False)
    new = {name.rpartition(".")[0] for name, _ in model.named_parameters() if name not in same}
    rest = [model.get_submodule(name) for name in new]
    if len(rest) == 1 and isinstance(rest[0], nn.Conv2d) and rest[0].out_channels == 3 * data.scale**2:
        fit_last(model, rest[0], data, rng)


@torch.no_grad()
def fit_last(model: nn.Module, last: nn.Conv2d, data: CropDataset, rng: np.random.Generator) -> None:
    """Make ``last``, whose outputs are the phases of the picture, the least-squares one on random crops of ``data``."""
    assert last.bias is not None and isinstance(last.padding, tuple)
    last.weight.zero_()
    last.bias.zero_()
    features: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))

    def part(lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        wanted = pixel_unshuffle(hr - model(lr), data.scale)  # what this convolution has to add
        x = unfold(features.pop(), last.kernel_size, padding=last.padding).transpose(1, 2).flatten(0, 1)  # type: ignore[arg-type]
        x = torch.cat([x, torch.ones(len(x), 1)], 1)
        return x.double(), wanted.permute(0, 2, 3, 1).flatten(0, 2).double()

    solved = least_squares(part(*data.batch(CROPS, rng)) for _ in range(BATCHES))
    handle.remove()
    lr, _ = data.batch(1, rng)
    zero = model(lr)
    last.bias.fill_(1)
    unit = float((model(lr) - zero).mean())  # of a network that works on 0..255, 1/255
    found = solved.T.float() / unit
    last.weight.copy_(found[:, :-1].reshape(last.weight.shape))
    last.bias.copy_(found[:, -1])
