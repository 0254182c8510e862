"""Linear regression on more rows than memory holds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

RIDGE = 1e-6  # of the mean square of x


def least_squares(parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The (d, k) matrix that makes the rows y (N, k) out of the rows x (N, d) best, over all ``parts`` (x, y); sums and
    result in float64."""
    gram: Tensor | float = 0.0
    moments: Tensor | float = 0.0
    for x, y in parts:
        gram = gram + (x.T @ x).double()
        moments = moments + (x.T @ y).double()
    assert isinstance(gram, Tensor) and isinstance(moments, Tensor), "no parts"
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, moments)
