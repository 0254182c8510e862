"""The selective state-space scan of Mamba (Gu and Dao, arXiv 2312.00752), in plain torch, fast on CPU and CUDA.

    h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t,    y_t = C_t h_t + D x_t

for every channel by itself, with a state h of N numbers.  x and delta are batch x length x channels, A is channels x
N, B and C are batch x length x N, D is one number per channel.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def sequential_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The recurrence as it is written, token by token: what `selective_scan` is tested against."""
    h = x.new_zeros(x.shape[0], *a.shape)
    outputs = []
    for x_t, delta_t, b_t, c_t in zip(*(v.unbind(1) for v in (x, delta, b, c)), strict=True):
        h = torch.exp(delta_t[..., None] * a) * h + (delta_t * x_t)[..., None] * b_t[:, None]
        outputs.append((h * c_t[:, None]).sum(-1))
    return torch.stack(outputs, 1) + d * x


def selective_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """batch x length x channels, in chunks that advance side by side.

    About sqrt(length) chunks of sqrt(length) tokens: one pass over all chunks at once, each from an empty state, gives
    what a chunk adds; the chunks' first states follow from each other; a second pass gives the outputs.  So there are
    some 3 sqrt(length) steps instead of ``length``, nothing is ever divided by a decay, and memory beside inputs and
    output is that of sqrt(length) states (in the backward pass, of one state per token).  Half precision is computed
    in float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, delta, a, b, c, d = (
            v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for v in (x, delta, a, b, c, d)
        )
        batch, length, channels = x.shape
        steps = math.isqrt(max(length - 1, 0)) + 1
        chunks = [in_chunks(v, steps) for v in (delta, delta * x, b, c)]
        y = _Scan.apply(chunks[0], chunks[1], a, chunks[2], chunks[3], batch)
        return y.view(steps, batch, -1, channels).permute(1, 2, 0, 3).reshape(batch, -1, channels)[:, :length] + d * x


def in_chunks(v: Tensor, steps: int) -> Tensor:
    """batch x length x C -> steps x (batch * chunks) x C, filled up with zeros: delta = 0 leaves a state as it is."""
    batch, length, channels = v.shape
    v = torch.nn.functional.pad(v, (0, 0, 0, -length % steps))
    return v.view(batch, -1, steps, channels).permute(2, 0, 1, 3).reshape(steps, -1, channels)


def _advance(h: Tensor, delta: Tensor, u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The next state of every chunk: chunks x channels x N."""
    return torch.exp(delta[..., None] * a).mul_(h).addcmul_(u[..., None], b[:, None])


def _handed_on(added: Tensor, decay: Tensor, batch: int, reverse: bool = False) -> Tensor:
    """What every chunk gets from those before it (``reverse``: after it); a chunk hands on decay * got + added."""
    added, decay = (v.view(batch, -1, *v.shape[1:]) for v in (added, decay))
    got = torch.zeros_like(added)
    order = range(added.shape[1])
    for here, there in pairwise(reversed(order) if reverse else order):
        torch.addcmul(added[:, here], decay[:, here], got[:, here], out=got[:, there])
    return got.flatten(0, 1)


class _Scan(torch.autograd.Function):
    """y_t = C_t h_t on steps x chunks x ...; the backward pass computes the states again."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, u: Tensor, a: Tensor, b: Tensor, c: Tensor, batch: int) -> Tensor:
        empty = a.new_zeros(delta.shape[1], *a.shape)
        added = empty
        for t in range(len(delta)):
            added = _advance(added, delta[t], u[t], a, b[t])
        decay = torch.exp(delta.sum(0)[..., None] * a)
        first = _handed_on(added, decay, batch)
        h, y = first, torch.empty_like(u)
        for t in range(len(delta)):
            h = _advance(h, delta[t], u[t], a, b[t])
            torch.matmul(h, c[t, ..., None], out=y[t, ..., None])
        ctx.save_for_backward(delta, u, a, b, c, first, decay)
        ctx.batch = batch
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        delta, u, a, b, c, first, decay = ctx.saved_tensors
        states = [first]
        for t in range(len(delta)):
            states.append(_advance(states[-1], delta[t], u[t], a, b[t]))

        def before(t: int, later: Tensor) -> tuple[Tensor, Tensor]:
            """Gradients of the states h_t, and of exp(delta_t A) h_{t-1} times its factor: what h_{t-1} gets."""
            of_h = torch.addcmul(later, grad[t, ..., None], c[t, :, None])
            return of_h, torch.exp(delta[t, ..., None] * a).mul_(of_h)

        later = torch.zeros_like(first)
        for t in reversed(range(len(delta))):
            _, later = before(t, later)
        later = _handed_on(later, decay, ctx.batch, reverse=True)
        d_delta, d_u, d_b, d_c = (torch.empty_like(v) for v in (delta, u, b, c))
        d_a = torch.zeros_like(a)
        for t in reversed(range(len(delta))):
            of_h, later = before(t, later)
            of_exponent = later * states[t]
            d_c[t] = (grad[t, :, None] @ states[t + 1])[:, 0]
            d_b[t] = (u[t, :, None] @ of_h)[:, 0]
            d_u[t] = (of_h @ b[t, ..., None])[..., 0]
            d_delta[t] = (of_exponent * a).sum(-1)
            d_a += (of_exponent * delta[t, ..., None]).sum(0)
        return d_delta, d_u, d_a, d_b, d_c, None
