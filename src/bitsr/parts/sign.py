"""One bit: the sign, and what stands in for its derivative while a network is trained.

sign(0) is +1: {-1, +1} is one bit, torch's sign with its third value is not.  Every surrogate is a function of the
argument z alone that replaces d sign / dz; the gradient of what comes after is multiplied with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Surrogate = Callable[[Tensor], Tensor]


def bsign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1, in the type of ``x``."""
    return torch.copysign(x.new_ones(()), x + 0.0)  # + 0: there is no -0 after it


def identity(z: Tensor) -> Tensor:
    """The plain straight-through estimator."""
    return torch.ones_like(z)


def clip(z: Tensor) -> Tensor:
    """1 on [-1, 1], else 0: the derivative of a hard tanh (BinaryNet, XNOR-Net)."""
    return (z.abs() <= 1).to(z.dtype)


def bireal(z: Tensor) -> Tensor:
    """2 - 2|z| on (-1, 1), else 0: Bi-Real's piecewise quadratic "ApproxSign"."""
    return (2 - 2 * z.abs()).clamp(min=0)


def reste(power: float, bound: float = 1.5, small: float = 0.1) -> Surrogate:
    """Re-STE: the derivative of sign(z) |z|^(1/o) up to ``bound``, made finite around 0.

    With o = ``power`` >= 1 and m = ``small``: the chord m^(1/o) / m up to m, the derivative |z|^(1/o - 1) / o up to the
    bound, 0 beyond.  It drops by the factor o at m; o = 1 is the straight-through estimator.
    """

    def derivative(z: Tensor) -> Tensor:
        size = z.abs()
        slope = size.clamp(min=small) ** ((1 - power) / power) / power
        slope = torch.where(size <= small, torch.full_like(z, small ** (1 / power) / small), slope)
        return slope * (size <= bound)

    return derivative


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, at: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(at)
        ctx.surrogate = surrogate
        return bsign(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (at,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate(at), None, None


def sign(z: Tensor, surrogate: Surrogate, at: Tensor | None = None) -> Tensor:
    """:func:`bsign` forwards; backwards the gradient times ``surrogate`` of z, or of ``at`` where that is given."""
    result: Tensor = _Sign.apply(z, z if at is None else at.detach(), surrogate)
    return result


class _TanhSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, kappa: Tensor) -> Tensor:
        ctx.save_for_backward(z, kappa)
        return bsign(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        z, kappa = ctx.saved_tensors
        fall = grad * (1 - (kappa * z).tanh().square())
        grad_kappa = (fall * z).sum_to_size(kappa.shape) if ctx.needs_input_grad[1] else None
        return fall * kappa, grad_kappa


def tanh_sign(z: Tensor, kappa: Tensor) -> Tensor:
    """:func:`bsign` forwards, tanh(kappa z) backwards, for z and for the learnable slope ``kappa`` (broadcast to z)."""
    result: Tensor = _TanhSign.apply(z, kappa)
    return result
