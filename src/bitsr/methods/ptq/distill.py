"""Training on the whole network's output: 2DQuant's second stage, Pac and HarmoQ's last stage move bounds so that the
compressed network follows the full-precision one.

No ground truth is needed.  An eighth of the calibration pictures is held out, and the state with the least output error
on its crops is kept, so the result is never worse there than the start (2DQuant selects on Set5, a test set).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bitsr.data.calibration import selection
from bitsr.methods.ptq.config import HarmoQ
from bitsr.methods.ptq.pipeline import Work
from bitsr.parts.layers import QuantLayer, QuantLinear, QuantMatMul
from bitsr.parts.quantizer import AffineQuantizer
from bitsr.parts.undecided import BoundedWeight

HELD = 8  # crops for model selection
POOL = 64  # crops whose full-precision outputs are kept, unless a method asks for more

Outputs = list[Tensor]  # the picture, then the feature maps asked for
Loss = Callable[[Outputs, Outputs], Tensor]  # of the compressed network's and the full-precision one's
Rates = list[tuple[nn.Parameter, float]]  # what is trained, and how fast


def output_loss(compressed: Outputs, full: Outputs) -> Tensor:
    """mean |SR_q - SR_fp|."""
    return (compressed[0] - full[0]).abs().mean()


def rms_loss(compressed: Outputs, full: Outputs) -> Tensor:
    """Root of the mean squared difference, which is what PSNR measures; kept off 0, where its slope is infinite."""
    return ((compressed[0] - full[0]).square().mean() + 1e-12).sqrt()


def divided(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(those to learn from, the last eighth, held out); a single picture is both.  `calibration_crops` takes the last
    eighth from pictures of its own."""
    held = selection(len(pictures))
    return (pictures[:-held], pictures[-held:]) if held else (pictures, pictures)


def crops(pictures: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random crops (count, C, size, size) of ``pictures`` (N, C, H, W), with flips."""
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


# ---- what is trained -----------------------------------------------------------------------------------------------


def activation_rates(work: Work, rate: float) -> Rates:
    """Bounds of every activation quantizer; they move by ``rate`` quantization steps.  Rates relative to the range
    would be too fast at 4 bit or too slow at 2, absolute ones for tensors of different range."""
    found: Rates = []
    for layer in work.layers.values():
        several = (layer.quantizer_a, layer.quantizer_b) if isinstance(layer, QuantMatMul) else (layer.quantizer,)
        for quantizer in several:
            if isinstance(quantizer, AffineQuantizer):
                found += [(p, rate * step_of(quantizer)) for p in quantizer.learned()]
    return found


def weight_rates(work: Work, rate: float) -> Rates:
    """Bounds of weights that are still being learned; scale and offset of those whose codes are decided."""
    found: Rates = []
    for layer in work.layers.values():
        if not isinstance(layer, QuantLayer):
            continue
        if isinstance(layer.weight_quantizer, BoundedWeight):
            quantizer = layer.weight_quantizer.quantizer
            found += [(p, rate * step_of(quantizer)) for p in quantizer.learned()]
        elif layer.decided is not None:
            step = float(layer.decided.scale.detach().abs().mean())
            found.append((layer.decided.scale, rate * step / 2 ** (layer.w_bits - 1)))
            if layer.decided.mid is not None:
                found.append((layer.decided.mid, rate * step))
    return found


def bias_rates(work: Work, rate: float) -> Rates:
    """Biases, relative to the standard deviation of their layer's output."""
    layers = {name: layer for name, layer in work.layers.items() if isinstance(layer, QuantLayer)}
    return [(layer.bias, rate * work.output_std[n]) for n, layer in layers.items() if layer.bias is not None]


def all_rates(work: Work, rate: float) -> Rates:
    """Bounds, scales and offsets by ``rate`` quantization steps, biases by a hundredth of it."""
    return activation_rates(work, rate) + weight_rates(work, rate) + bias_rates(work, 0.01 * rate)


def step_of(quantizer: AffineQuantizer) -> float:
    return float(quantizer.grid()[1].abs().mean())


# ---- training ------------------------------------------------------------------------------------------------------


def features_of(model: nn.Module, attribute: Literal["residual_groups", "blocks"] = "residual_groups") -> list[str]:
    """The modules whose outputs feature losses compare: the classes that the network names in ``attribute``, else in
    ``blocks``; none for a network that names neither."""
    kinds = getattr(model, attribute, getattr(model, "blocks", ()))
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def outputs_of(model: nn.Module, x: Tensor, features: Sequence[str]) -> Outputs:
    """The network's output, then those of the modules ``features``."""
    kept: Outputs = []
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, _inputs, y: kept.append(channels_first(module, y))
        )
        for name in features
    ]
    try:
        return [model(x), *kept]
    finally:
        for handle in handles:
            handle.remove()


def channels_first(module: nn.Module, y: Tensor) -> Tensor:
    """What ``module`` puts out, channels in the second axis: tokens are turned, if its last layer is a linear one."""
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d | QuantLayer)]
    return y.movedim(-1, 1) if layers and isinstance(layers[-1], nn.Linear | QuantLinear) else y


def train(
    work: Work, rates: Rates, loss: Loss = output_loss, *, steps: int, batch: int, crop: int, floor: float = 0.05,
    features: Sequence[str] = (), pool: int = POOL, fresh: int | None = None,
) -> None:  # fmt: skip
    """Adam on ``rates`` with a short warm-up and a cosine down to ``floor`` of each rate; a step takes ``batch`` of
    ``pool`` crops of ``crop`` LR pixels, in whose place come others after every ``fresh`` steps (None: never).  Nothing
    happens where there is nothing to learn."""
    if not rates or not steps:
        return
    generator = torch.Generator().manual_seed(work.seed)
    learned, held = divided(torch.cat(work.crops))

    @torch.no_grad()
    def drawn(pictures: Tensor, count: int) -> tuple[Tensor, Outputs]:
        """Crops, and what the full-precision network makes of them."""
        inputs = crops(pictures, count, crop, generator)
        parts = [outputs_of(work.teacher, part, features) for part in inputs.split(8)]
        return inputs, [torch.cat(maps) for maps in zip(*parts, strict=True)]

    inputs, targets = drawn(learned, pool)
    chosen_on, wanted = drawn(held, HELD)
    work.student.requires_grad_(False)
    for p, _ in rates:
        p.requires_grad_(True)
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr, "peak": lr} for p, lr in rates], betas=(0.9, 0.99))

    @torch.no_grad()
    def held_out() -> float:
        return float((work.student(chosen_on) - wanted[0]).square().mean())

    best, kept = held_out(), [p.detach().clone() for p, _ in rates]
    every = max(10, steps // 6)
    for step in range(1, steps + 1):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * max(floor, cosine) * min(1.0, step / 10)
        if fresh and step > 1 and (step - 1) % fresh == 0:
            inputs, targets = drawn(learned, pool)
        chosen = torch.randperm(pool, generator=generator)[:batch]
        optimizer.zero_grad()
        loss(outputs_of(work.student, inputs[chosen], features), [t[chosen] for t in targets]).backward()
        optimizer.step()
        if step % every == 0 or step == steps:
            now = held_out()
            if now < best:
                best, kept = now, [p.detach().clone() for p, _ in rates]
    for (p, _), value in zip(rates, kept, strict=True):
        p.data = value
        p.requires_grad_(False)


def distill(work: Work) -> None:
    """HarmoQ's last stage: bounds, weight scales and offsets, and biases."""
    config = work.config
    assert isinstance(config, HarmoQ)
    train(
        work,
        all_rates(work, config.distill_lr),
        steps=config.distill_steps,
        batch=config.distill_batch,
        crop=config.distill_crop,
    )
