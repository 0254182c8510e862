"""Distillation quantization calibration (DQC of 2DQuant): the bounds of the whole network against the
full-precision output.

Only bounds, weight scales and offsets, and biases are trained; the codes of the weights stay as they are.  The
state that is best on held-out crops of the calibration pictures is kept, so the result is never worse there than
the start.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.config import HarmoQ
from bitsr.methods.ptq.pipeline import Work
from bitsr.parts.layers import QuantLayer
from bitsr.parts.quantizer import AffineQuantizer

HELD = 8  # crops for model selection
POOL = 64  # crops whose full-precision outputs are made once


def crops(work: Work, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random crops (count, C, size, size) with flips, from the calibration pictures."""
    pictures = torch.cat(work.batches)
    size = min(size, *pictures.shape[2:])
    out = []
    for _ in range(count):
        n, y, x, flip, turn = (
            int(torch.randint(high, (1,), generator=generator))
            for high in (len(pictures), pictures.shape[2] - size + 1, pictures.shape[3] - size + 1, 2, 2)
        )
        patch = pictures[n, :, y : y + size, x : x + size]
        patch = patch.flip(-1) if flip else patch
        out.append(patch.transpose(-1, -2) if turn else patch)
    return torch.stack(out)


def trainable(work: Work, rate: float) -> list[tuple[nn.Parameter, float]]:
    """(parameter, learning rate): a bound moves by ``rate`` quantization steps, a bias by a hundredth of that,
    relative to the layer's output.  Rates relative to the range would be too fast at 4 bit or too slow at 2."""
    found: list[tuple[nn.Parameter, float]] = []
    for module in work.student.modules():
        if isinstance(module, AffineQuantizer):
            step = float((module.upper - module.lower).abs()) / module.levels
            found += [(module.lower, rate * step), (module.upper, rate * step)]
    for name, layer in work.layers.items():
        if not isinstance(layer, QuantLayer):
            continue
        if layer.decided is not None:
            step = float(layer.decided.scale.abs().mean())
            found.append((layer.decided.scale, rate * step / 2 ** (layer.w_bits - 1)))
            if layer.decided.mid is not None:
                found.append((layer.decided.mid, rate * step))
        if layer.bias is not None:
            found.append((layer.bias, 0.01 * rate * work.output_std[name]))
    return found


def distill(work: Work) -> None:
    """Adam with a cosine on mean |SR_fp - SR_q|."""
    config = work.config
    assert isinstance(config, HarmoQ)
    generator = torch.Generator().manual_seed(work.seed)
    pool = crops(work, POOL + HELD, config.distill_crop, generator)
    with torch.no_grad():
        targets = torch.cat([work.teacher(part) for part in pool.split(8)])
    work.student.requires_grad_(False)
    parameters = trainable(work, config.distill_lr)
    for p, _ in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr, "peak": lr} for p, lr in parameters], betas=(0.9, 0.99))

    @torch.no_grad()
    def held_out() -> float:
        return float((work.student(pool[POOL:]) - targets[POOL:]).square().mean())

    best, kept = held_out(), [p.detach().clone() for p, _ in parameters]
    every = max(10, config.distill_steps // 6)
    for step in range(1, config.distill_steps + 1):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / config.distill_steps))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * max(0.05, cosine) * min(1.0, step / 10)
        chosen = torch.randperm(POOL, generator=generator)[: config.distill_batch]
        loss = (work.student(pool[chosen]) - targets[chosen]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0 or step == config.distill_steps:
            now = held_out()
            if now < best:
                best, kept = now, [p.detach().clone() for p, _ in parameters]
    for (p, _), value in zip(parameters, kept, strict=True):
        p.data = value
