"""Affine quantizers with learnable bounds, and weights whose codes are decided.

Everything reduces to   Q(x; l, u, b) = step * q + l,   q = clip(rint((x - l) / step), 0, n),   n = 2^b - 1,
step = (u - l) / n,   with rint to even.  The gradients treat rint as the identity and clip exactly (2DQuant eq. 2, with
the sign of its Heaviside term mended):
    dQ/dx = 1[l <= x <= u],   dQ/du = 1[x >= u] + (q - q^)/n,   dQ/dl = 1[x <= l] - (q - q^)/n,
where q^ is q before rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _inner(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """Sum of the products over every axis along which ``shape`` broadcasts."""
    return (a * b).sum_to_size(shape) if shape else torch.dot(a.flatten(), b.flatten())


def _where(compare: Any, x: Tensor, bound: Tensor) -> Tensor:
    """1.0 where ``compare`` (torch.ge, torch.le) holds, else 0.0; four times as fast as by way of bool."""
    return compare(x, bound, out=torch.empty_like(x))


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, levels: int) -> Tensor:
        step = (upper - lower) / levels
        exact = (x - lower).div_(step).clamp_(0, levels)
        codes = exact.round()
        ctx.save_for_backward(x, lower, upper, torch.sub(codes, exact, out=exact))
        ctx.levels = levels
        return codes.mul_(step).add_(lower)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, lower, upper, residual = ctx.saved_tensors
        needs_lower, needs_upper = ctx.needs_input_grad[1:3]
        rounding = _inner(grad, residual, lower.shape) / ctx.levels
        grad_upper = _inner(grad, _where(torch.ge, x, upper), upper.shape) + rounding if needs_upper else None
        grad_lower = _inner(grad, _where(torch.le, x, lower), lower.shape) - rounding if needs_lower else None
        inside = _where(torch.ge, x, lower).mul_(_where(torch.le, x, upper))
        return inside.mul_(grad), grad_lower, grad_upper, None


def quantize(x: Tensor, lower: Tensor, upper: Tensor, levels: int) -> Tensor:
    """Q(x) with the gradients above; the bounds broadcast against ``x`` and lie apart."""
    return _Quantize.apply(x, lower, upper, levels)


def usable_bounds(lower: Tensor, upper: Tensor, levels: int, integer_zero: bool) -> tuple[Tensor, Tensor]:
    """(lower, upper) of the grid that is used: at least a hair apart, and on an integer zero where asked for."""
    upper = torch.maximum(upper, lower + 1e-6 * (1 + lower.abs()))
    if not integer_zero:
        return lower, upper
    step = (upper - lower) / levels
    zero = (-lower / step).round().clamp(0, levels)
    move = (-zero * step - lower).detach()
    return lower + move, upper + move


class AffineQuantizer(nn.Module):
    """Fake quantization to 2**bits levels between two learnable bounds.

    ``lower`` and ``upper`` are scalars (per tensor) or broadcast against the input (per row: shape (rows, 1, ...)).
    With ``integer_zero`` the grid is moved, by less than half a step, so that real zero is one of its levels:
    zero-padded convolutions need that to be exact in integers.
    """

    def __init__(self, bits: int, lower: Tensor | float, upper: Tensor | float, integer_zero: bool = False) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"an affine quantizer has 1..8 bits, got {bits}")
        self.bits = bits
        self.integer_zero = integer_zero
        self.lower = nn.Parameter(torch.as_tensor(lower, dtype=torch.float32).clone())
        self.upper = nn.Parameter(torch.as_tensor(upper, dtype=torch.float32).clone())

    @property
    def levels(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def bounds(self) -> tuple[Tensor, Tensor]:
        """(lower, upper) of the grid that is used; see :func:`usable_bounds`."""
        return usable_bounds(self.lower, self.upper, self.levels, self.integer_zero)

    def grid(self) -> tuple[Tensor, Tensor]:
        """(lower, step) as float32; with ``integer_zero`` lower is exactly -zero * step."""
        lower, upper = (b.detach() for b in self.bounds())
        step = (upper - lower) / self.levels
        return (-(-lower / step).round() * step if self.integer_zero else lower), step

    def learned(self) -> list[nn.Parameter]:
        """What training may move."""
        return [self.lower, self.upper]

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes 0..2**bits - 1 (uint8), rint to even."""
        lower, step = self.grid()
        return ((x - lower) / step).round().clamp(0, self.levels).to(torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (x.requires_grad or self.lower.requires_grad or self.upper.requires_grad):
            return quantize(x, *self.bounds(), self.levels)
        lower, step = self.grid()
        return (x - lower).div_(step).round_().clamp_(0, self.levels).mul_(step).add_(lower)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, integer_zero={self.integer_zero}"


class SymmetricQuantizer(AffineQuantizer):
    """Zero is the level in the middle and ``upper`` = alpha the largest; only alpha is learned (PAMS).

    step = alpha / (2**(bits - 1) - 1).  The levels reach down to -alpha - step, so that all codes are used, or with
    ``narrow`` to -alpha (ternary at 2 bit; such a grid of 2**bits - 1 levels cannot be packed).
    """

    def __init__(self, bits: int, alpha: Tensor | float, narrow: bool = False) -> None:
        super().__init__(bits, 0.0, alpha, integer_zero=True)
        self.lower.requires_grad_(False)  # not used: it follows from alpha
        self.narrow = narrow

    @property
    def levels(self) -> int:
        return 2**self.bits - 2 if self.narrow else 2**self.bits - 1

    def learned(self) -> list[nn.Parameter]:
        return [self.upper]

    def bounds(self) -> tuple[Tensor, Tensor]:
        alpha = self.upper.clamp_min(1e-6)
        step = alpha / (2 ** (self.bits - 1) - 1)
        return (-alpha if self.narrow else -alpha - step), alpha


class LogSqrt2Quantizer(nn.Module):
    """For values in 0..largest, such as softmax maps (RepQ-ViT, eq. 12).

    Levels largest * 2**(-q / 2) with q = round(-2 log2(x / largest)) in 0..2**bits - 1, and zero below the last.
    """

    largest: Tensor

    def __init__(self, bits: int, largest: Tensor | float) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("largest", torch.as_tensor(largest, dtype=torch.float32).clone())

    def forward(self, x: Tensor) -> Tensor:
        q = (-2 * torch.log2(x / self.largest)).round().clamp_min(0)
        return torch.where(q < 2**self.bits, self.largest * torch.exp2(-q / 2), torch.zeros_like(x))


class DecidedWeight(nn.Module):
    """A weight whose codes p in 0..2**bits - 1 are decided: w = scale * (p - 2**(bits - 1)) + mid, per row.

    ``scale`` and ``mid`` stay learnable; without ``mid`` (symmetric) integer execution needs no sum of the inputs.
    """

    codes: Tensor

    def __init__(self, bits: int, codes: Tensor, scale: Tensor, mid: Tensor | None) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("codes", codes.to(torch.uint8))
        self.scale = nn.Parameter(scale.detach().float().clone())
        self.mid = None if mid is None else nn.Parameter(mid.detach().float().clone())

    def forward(self) -> Tensor:
        """The dequantized weight, in the shape of the codes."""
        tail = [1] * (self.codes.ndim - 1)
        weight = (self.codes.float() - 2 ** (self.bits - 1)) * self.scale.view(-1, *tail)
        return weight if self.mid is None else weight + self.mid.view(-1, *tail)

    @property
    def lower(self) -> Tensor:
        """The value of code 0 in each row."""
        lower = -(2 ** (self.bits - 1)) * self.scale
        return lower if self.mid is None else self.mid + lower

    def latent(self, weight: Tensor, codes: Tensor) -> Tensor:
        """A floating-point weight that rounds to the codes that are decided: ``weight``, which rounds to ``codes``,
        where they are the same, the grid elsewhere."""
        return torch.where(codes == self.codes, weight, self())
