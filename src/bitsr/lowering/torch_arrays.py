"""The interpreter's array namespace on torch: CPU or CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bitsr.errors import ConfigError


class TorchArrays:
    """torch on ``device``.  Integer products use the int8 tensor cores of a GPU where the shapes allow, and otherwise
    floating point with exact sums; TensorFloat-32 keeps them exact, as codes have 8 bits."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {device}: torch sees no CUDA device here")
        self.slab = 1 << (26 if self.device.type == "cuda" else 19)

    def array(self, value: Any) -> Tensor:
        # a number becomes a tensor on the device: CUDA turns a division by a number into a product with its inverse
        copied = np.array(value, dtype=np.float32) if isinstance(value, float | int) else np.array(value)
        return torch.from_numpy(copied).to(self.device)

    def numpy(self, x: Tensor) -> NDArray[Any]:
        return x.cpu().numpy()

    def floats(self, x: Tensor) -> Tensor:
        return x.float()

    def codes(self, x: Tensor) -> Tensor:
        return x.to(torch.uint8)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a, b)

    def integer_matmul(self, a: Tensor, b: Tensor, largest: int) -> Tensor:
        if a.is_cuda and a.numel() == a.shape[-2] * a.shape[-1] and a.shape[-2] > 16 and b.numel() > 0:
            product = int8_matmul(a.reshape(a.shape[-2:]), b.reshape(b.shape[-2:]))
            return product.reshape(*a.shape[:-1], b.shape[-1])
        exact = torch.float32 if largest < 2**24 else torch.float64
        return torch.matmul(a.to(exact), b.to(exact)).to(torch.int32)

    def integer_sum(self, x: Tensor, axis: int) -> Tensor:
        return x.sum(axis, dtype=torch.int32)

    def sum(self, x: Tensor, axis: int) -> Tensor:
        return x.sum(axis, keepdim=True)

    def mean(self, x: Tensor, axis: int) -> Tensor:
        return x.mean(axis, keepdim=True)

    def max(self, x: Tensor, axis: int) -> Tensor:
        return x.amax(axis, keepdim=True)

    def sqrt(self, x: Tensor) -> Tensor:
        return x.sqrt()

    def tanh(self, x: Tensor) -> Tensor:
        return x.tanh()

    def erf(self, x: Tensor) -> Tensor:
        return x.erf()

    def softplus(self, x: Tensor) -> Tensor:
        return F.softplus(x)

    def exp_(self, x: Tensor) -> Tensor:
        return x.exp_()

    def rint_(self, x: Tensor) -> Tensor:
        return x.round_()

    def clip(self, x: Tensor, low: float | None, high: float | None) -> Tensor:
        return x.clamp(low, high)

    def maximum(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b)

    def take(self, x: Tensor, indices: NDArray[np.int64], axis: int) -> Tensor:
        return x.index_select(axis, torch.from_numpy(indices).to(self.device))

    def argmax(self, x: Tensor, axis: int) -> Tensor:
        return x.argmax(axis, keepdim=True)

    def whole(self, x: Tensor, count: int) -> Tensor:
        return x.clamp(0, count - 1).nan_to_num(0).long()

    def argsort(self, x: Tensor) -> Tensor:
        return x.argsort(stable=True)

    def pad(self, x: Tensor, margin: int, value: int) -> Tensor:
        return F.pad(x, (0, 0, margin, margin, margin, margin), value=value)

    def roll(self, x: Tensor, by: int) -> Tensor:
        return x.roll((by, by), (0, 1))

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return x.permute(*axes)

    def concatenate(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(parts), axis)


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """The exact int32 product of two uint8 or int8 matrices, (M, K) x (K, N) with M > 16, by ``torch._int_mm``.

    That takes signed operands and wants K and N in multiples of 8.  An unsigned operand is moved down by 128, and since
    (a' + 128)(b' + 128) = a'b' + 128 a' + 128 b' + 128^2, sums of rows and columns put the product right.
    """
    columns = b.shape[1]
    move_a, move_b = (128 if x.dtype == torch.uint8 else 0 for x in (a, b))
    a, b = ((x.to(torch.int16) - move).to(torch.int8) for x, move in ((a, move_a), (b, move_b)))
    k, n = -a.shape[1] % 8, -columns % 8
    # transposed and back: the second operand is wanted column by column
    a_padded, b_padded = F.pad(a, (0, k)), F.pad(b, (0, n, 0, k)).t().contiguous().t()
    product = torch._int_mm(a_padded, b_padded)[:, :columns]  # pyright: ignore[reportPrivateImportUsage]
    if move_a:
        product = product + move_a * b.sum(0, dtype=torch.int32)
    if move_b:
        product = product + move_b * a.sum(1, keepdim=True, dtype=torch.int32)
    return product + move_a * move_b * a.shape[1]
