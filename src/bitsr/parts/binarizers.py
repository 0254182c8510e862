"""From numbers to signs: what every method of binary networks is a variant of.

Linears and convolutions share these classes: a weight is (out, in) or (out, in, kh, kw), an input has its channels on
``axis`` -1 or 1.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from bitsr.parts.sign import Surrogate, clip, sign


def per_channel(values: Tensor, ndim: int, axis: int) -> Tensor:
    """A vector (or one number) shaped to broadcast along ``axis`` of an array of ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.view(shape)


def row_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the kept values of each output channel, with axes of length 1 for the others; in double precision, so
    that the mean of equal values is their value."""
    axes = tuple(range(1, values.ndim))
    if mask is None:
        return values.mean(axes, keepdim=True, dtype=torch.float64).to(values.dtype)
    sums = (values * mask).sum(axes, keepdim=True, dtype=torch.float64)
    return (sums / mask.sum(axes, keepdim=True)).to(values.dtype)


def tensor_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of all kept values, with axes of length 1."""
    mean = values.mean() if mask is None else (values * mask).sum() / mask.sum()
    return mean.view([1] * values.ndim)


def of_kept(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values``, that broadcast to the mask, at each place, with a gradient from the places of kept weights alone.

    Masks with dense gradients pass on what the loss has to say to all weights; a scale or a mean is no part of the
    result where nothing is kept.
    """
    if mask is None or not values.requires_grad:
        return values
    return torch.where(mask, values, values.detach())


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signs: Tensor, scale: Tensor) -> Tensor:
        return signs * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def scaled_straight_through(signs: Tensor, scale: Tensor) -> Tensor:
    """signs * scale, whose gradient passes to the signs without the scale."""
    result: Tensor = _Scaled.apply(signs, scale)
    return result


class WeightBinarizer(nn.Module):
    """weight -> +-scale, at every place; statistics are those of the kept weights (``mask``, None: all are kept).

    Here: scale = mean |w| of each output channel, which gets no gradient; the weight gets that of a surrogate, times
    the scale where ``scaled_gradient``.
    """

    groups: tuple[int, ...] | None = None  # how many inputs of a row share a scale; None: the whole row

    def __init__(self, surrogate: Surrogate = clip, *, scaled_gradient: bool = True) -> None:
        super().__init__()
        self.surrogate, self.scaled_gradient = surrogate, scaled_gradient

    def scale(self, weight: Tensor, mask: Tensor | None) -> Tensor:
        return row_mean(weight.abs(), mask).detach()

    def argument(self, weight: Tensor, mask: Tensor | None) -> Tensor:
        """What the sign is taken of."""
        return weight

    def forward(self, weight: Tensor, mask: Tensor | None = None) -> Tensor:
        scale = of_kept(self.scale(weight, mask), mask)
        signs = sign(self.argument(weight, mask), self.surrogate)
        return scale * signs if self.scaled_gradient else scaled_straight_through(signs, scale)

    def on_step(self, step: int, steps: int) -> None:
        """Before the forward pass of each training step."""


class ActivationBinarizer(nn.Module):
    """x -> sign(gain * x + shift), each channel with its own numbers.

    Args:
        channels: of the input.
        axis: where they are.
        shift: whether a learnable shift (0 at first) is added.
        gain: whether a learnable gain (1 at first) is multiplied, one per channel or one for all.
    """

    levels = (-1.0, 1.0)  # what an input below and one above its threshold become
    token_scale = False  # whether the signs are multiplied by the mean |x| of their pixel
    window_scale = False  # whether a convolution multiplies its product by the mean |x| of all pixels that it sees

    def __init__(
        self, channels: int, axis: int, surrogate: Surrogate = clip, *, shift: bool = False,
        gain: Literal["none", "channel", "scalar"] = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels, self.axis, self.surrogate = channels, axis, surrogate
        self.shift = nn.Parameter(torch.zeros(channels)) if shift else None
        self.gain = None if gain == "none" else nn.Parameter(torch.ones(channels if gain == "channel" else 1))

    def moved(self, x: Tensor) -> Tensor:
        """The argument of the sign."""
        if self.gain is not None:
            x = per_channel(self.gain, x.ndim, self.axis) * x
        return x if self.shift is None else x + per_channel(self.shift, x.ndim, self.axis)

    def forward(self, x: Tensor) -> Tensor:
        return sign(self.moved(x), self.surrogate)

    @torch.no_grad()
    def thresholds(self) -> tuple[Tensor, Tensor]:
        """(threshold, flipped), per channel: the sign is +1 exactly where x >= threshold; -1 there where flipped."""
        known = self.gain if self.shift is None else self.shift
        one = torch.ones(self.channels, device=None if known is None else known.device)
        gain = one if self.gain is None else self.gain * one
        return exact_thresholds(gain, 0 * one if self.shift is None else self.shift)

    def on_step(self, step: int, steps: int) -> None:
        """Before the forward pass of each training step."""


ALWAYS = -65504.0  # the lowest number of half precision: every activation reaches it
LEAST = 2.0**-24  # its least number above 0


def exact_thresholds(gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """(threshold, flipped) such that fl(fl(gain * x) + shift) >= 0 is exactly x >= threshold, or x < threshold where
    flipped, for float32 x.

    The quotient -shift / gain may be a few units in the last place off; it is moved to where the products say.  A gain
    of 0 gives a constant.  A flipped threshold at 0 is beyond 0, by the least number that half precision holds.
    """
    flipped = gain < 0
    sure = torch.where(gain == 0, torch.ones_like(gain), gain)
    threshold = -shift / sure
    up, down = torch.full_like(threshold, torch.inf), torch.full_like(threshold, -torch.inf)

    def above(x: Tensor) -> Tensor:
        """Whether x is on the side of large numbers."""
        return (sure * x + shift >= 0) ^ flipped

    for _ in range(4):
        threshold = torch.where(above(threshold), threshold, threshold.nextafter(up))
        threshold = torch.where(above(threshold.nextafter(down)), threshold.nextafter(down), threshold)
    threshold = torch.where(flipped & (shift == 0), torch.full_like(threshold, LEAST), threshold)
    constant = gain == 0
    return torch.where(constant, torch.full_like(threshold, ALWAYS), threshold), flipped | (constant & (shift < 0))


class RPReLU(nn.Module):
    """ReActNet: a PReLU between two learnable shifts per channel."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.before, self.after = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        before, after, slope = (per_channel(p, x.ndim, self.axis) for p in (self.before, self.after, self.slope))
        x = x + before
        return torch.where(x > 0, x, slope * x) + after
