"""From a compressed layer to the numbers it is executed with: codes, scales, folded bias, quantizer of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitsr.errors import UnsupportedLayer
from bitsr.parts.layers import QuantLayer
from bitsr.parts.quantizer import AffineQuantizer, DecidedWeight
from bitsr.program.steps import Quantizer


@dataclass(frozen=True)
class Codes:
    """Weight codes, uint8 and channels-last, with one float32 ``scale`` (and ``mid``) per output channel."""

    codes: NDArray[np.uint8]
    scale: NDArray[np.float32]
    mid: NDArray[np.float32] | None
    bits: int


def to_numpy(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def channels_last(weight: NDArray[Any]) -> NDArray[Any]:
    """OIHW -> (out, kh, kw, in / groups); the weight of a linear stays (out, in)."""
    return np.ascontiguousarray(np.moveaxis(weight, 1, -1))


def codes_of(decided: DecidedWeight) -> Codes:
    rows = decided.codes.shape[0]

    def per_row(value: Tensor) -> NDArray[np.float32]:
        return np.broadcast_to(to_numpy(value).reshape(-1), rows).astype(np.float32)

    codes = channels_last(decided.codes.cpu().numpy().astype(np.uint8))
    return Codes(codes, per_row(decided.scale), None if decided.mid is None else per_row(decided.mid), decided.bits)


def row_sums(weight: Codes) -> NDArray[np.float64]:
    """sum_j w_ij of the dequantized weight, per output channel."""
    flat = weight.codes.reshape(len(weight.codes), -1)
    sums = (flat.sum(1, dtype=np.int64) - flat.shape[1] * 2 ** (weight.bits - 1)) * weight.scale.astype(np.float64)
    return sums if weight.mid is None else sums + flat.shape[1] * weight.mid.astype(np.float64)


def folded_bias(layer: QuantLayer, weight: Codes, lower: float) -> NDArray[np.float64]:
    """b_i + lower * sum_j w_ij: what remains of the input's offset once the products are taken over codes."""
    bias = 0.0 if layer.bias is None else to_numpy(layer.bias)
    return bias + lower * row_sums(weight)


def quantizer_of(quantizer: nn.Module | None, owner: str, *, zero_padded: bool = False) -> Quantizer | None:
    """The affine quantizer of ``owner``'s operand as exact float32 numbers.

    Raises:
        UnsupportedLayer: another kind of quantizer, bounds per channel, bounds that are no finite numbers, or a
            zero-padded input whose grid misses real zero.
    """
    if quantizer is None:
        return None
    if not isinstance(quantizer, AffineQuantizer):
        raise UnsupportedLayer(
            f"{owner}: {type(quantizer).__name__} is not affine and cannot be packed (repq: set softmax=affine)"
        )
    if quantizer.levels != 2**quantizer.bits - 1:
        raise UnsupportedLayer(f"{owner}: a grid of {quantizer.levels + 1} levels cannot be packed; set narrow=false")
    lower, step = quantizer.grid()
    if lower.numel() != 1 or step.numel() != 1:
        raise UnsupportedLayer(f"{owner}: bounds per channel cannot be packed, only one pair per feature map")
    packed = Quantizer(quantizer.bits, lower.item() + 0.0, step.item())  # + 0.0: no negative zero
    if not np.isfinite([packed.lower, packed.step]).all() or packed.step <= 0:
        raise UnsupportedLayer(f"{owner}: lower bound {packed.lower}, step {packed.step}; calibrate it again")
    if zero_padded:
        on_grid = torch.equal(-packed.zero * step, lower) and 0 <= packed.zero <= packed.levels
        if not on_grid:
            raise UnsupportedLayer(f"{owner}: it pads with zeros, but zero is no level of its input; set integer_zero")
    return packed
