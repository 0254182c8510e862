"""What a layer sees: rows of its input, at the same random positions in the full-precision and the quantized network."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsr.parts.matmul import MatMul
from bitsr.parts.layers import QuantConv2d, QuantMatMul


def rows_of(module: nn.Module, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random rows (count, d) of the matrix that the layer multiplies; d = in, or in * kh * kw (unfolded patches)."""
    if isinstance(module, nn.Conv2d | QuantConv2d):
        patches = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
        rows = patches.transpose(1, 2).flatten(0, 1)
    else:
        rows = x.flatten(0, -2)
    if rows.shape[0] <= count:
        return rows.clone()
    return rows[torch.randint(rows.shape[0], (count,), generator=generator)]


def elements_of(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random elements with the extremes among them."""
    flat = x.flatten()
    if flat.numel() <= count:
        return flat.clone()
    picked = flat[torch.randint(flat.numel(), (count - 2,), generator=generator)]
    return torch.cat([picked, flat.min()[None], flat.max()[None]])


@torch.no_grad()
def collect(
    model: nn.Module, names: Sequence[str], batches: Iterable[Tensor], rows: int, elements: int = 2**17, seed: int = 0
) -> dict[str, tuple[Tensor, ...]]:
    """Run ``batches`` (NCHW) through the model and keep inputs of the layers ``names``.

    Linears and convolutions: one tensor of about ``rows`` rows.  Matrix products: elements of both operands.  Positions depend on
    the layer's name and the batch only, so two networks give rows that belong together.
    """
    batches = list(batches)
    kept: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in names}
    number = 0

    def watch(name: str, module: nn.Module):  # noqa: ANN202
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 7919 * number + seed)
            if isinstance(module, MatMul | QuantMatMul):
                kept[name].append(tuple(elements_of(x, elements // len(batches), generator) for x in inputs))
            else:
                kept[name].append((rows_of(module, inputs[0], rows // len(batches), generator),))

        return hook

    handles = [
        model.get_submodule(n).register_forward_pre_hook(watch(n, model.get_submodule(n))) for n in names
    ]
    try:
        for number, batch in enumerate(batches):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: tuple(torch.cat(parts) for parts in zip(*calls, strict=True)) for name, calls in kept.items()}
