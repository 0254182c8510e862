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
    """Random rows (count, d) of the matrix that the layer multiplies; d = in, or in * kh * kw (unfolded patches).

    Rows 2i and 2i + 1 are neighbours in the picture (along a row of it, where tokens are in raster order).
    """
    if isinstance(module, nn.Conv2d | QuantConv2d):
        return patches_of(module, x, count, generator)
    rows = x.flatten(0, -2)
    first = torch.randint(max(1, rows.shape[0] - 1), (count // 2,), generator=generator)
    return rows[torch.stack([first, (first + 1).clamp_max(rows.shape[0] - 1)], 1).flatten()]


def patches_of(module: nn.Conv2d | QuantConv2d, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random patches (count, in * kh * kw) of a convolution's input, in pairs side by side, flattened as its weight is."""
    (kh, kw), (sh, sw), (ph, pw) = module.kernel_size, module.stride, module.padding  # type: ignore[misc]
    dh, dw = module.dilation  # type: ignore[misc]
    padded = F.pad(x, (pw, pw, ph, ph))
    windows = padded.unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]  # a view
    picture, y, column = (
        torch.randint(max(1, n), (count // 2,), generator=generator)
        for n in (windows.shape[0], windows.shape[2], windows.shape[3] - 1)
    )
    columns = torch.stack([column, (column + 1).clamp_max(windows.shape[3] - 1)], 1).flatten()
    return windows[picture.repeat_interleave(2), :, y.repeat_interleave(2), columns].flatten(1)


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
