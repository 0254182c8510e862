"""What a layer sees: rows of its input at random positions of the calibration crops."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bitsr.parts.layers import QuantConv2d, QuantMatMul
from bitsr.parts.matmul import MatMul


def rows_of(module: nn.Module, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random rows (count, d) of the matrix that the layer multiplies; d = in, or in * kh * kw (unfolded patches)."""
    if isinstance(module, nn.Conv2d | QuantConv2d):
        return patches_of(module, x, count, generator)
    rows = x.flatten(0, -2)
    return rows[torch.randint(rows.shape[0], (count,), generator=generator)]


def patches_of(module: nn.Conv2d | QuantConv2d, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random patches (count, in * kh * kw) of a convolution's zero-padded input, flattened as its weight is."""
    assert not isinstance(module.padding, str)  # such layers are not replaceable
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = module.kernel_size, module.stride, module.padding, module.dilation
    padded = F.pad(x, (pw, pw, ph, ph))
    windows = padded.unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]  # a view
    picture, row, column = (torch.randint(windows.shape[axis], (count,), generator=generator) for axis in (0, 2, 3))
    return windows[picture, :, row, column].flatten(1)


TILE = 8  # side of a tile


def tiles_of(module: nn.Module, x: Tensor, count: int, generator: torch.Generator) -> Tensor | None:
    """Random tiles (count, 8, 8, d) of neighbouring positions; None if the input is no map that holds one.

    Linears: of a map B x H x W x C, or of windows B x tokens x C (their tokens stand row by row).  Convolutions of
    stride 1: of the map of unfolded patches.
    """
    if isinstance(module, nn.Conv2d | QuantConv2d):
        assert not isinstance(module.padding, str)  # such layers are not replaceable
        (kh, kw), (ph, pw) = module.kernel_size, module.padding
        if set(module.stride) != {1} or set(module.dilation) != {1}:
            return None
        if min(x.shape[2] + 2 * ph - kh, x.shape[3] + 2 * pw - kw) + 1 < TILE:
            return None
        windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, kh, 1).unfold(3, kw, 1)  # B C H W kh kw, a view
    else:
        side = math.isqrt(x.shape[1])
        x = x.unflatten(1, (side, side)) if x.ndim == 3 and side * side == x.shape[1] else x
        if x.ndim != 4 or min(x.shape[1:3]) < TILE:
            return None
        windows = x.permute(0, 3, 1, 2)[..., None, None]
    found = []
    for _ in range(count):
        picture, y, x0 = (
            int(torch.randint(high, (1,), generator=generator))
            for high in (windows.shape[0], windows.shape[2] - TILE + 1, windows.shape[3] - TILE + 1)
        )
        tile = windows[picture, :, y : y + TILE, x0 : x0 + TILE]
        found.append(tile.permute(1, 2, 0, 3, 4).flatten(2))
    return torch.stack(found)


def elements_of(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random elements with the extremes among them."""
    flat = x.flatten()
    if flat.numel() <= count:
        return flat.clone()
    picked = flat[torch.randint(flat.numel(), (count - 2,), generator=generator)]
    return torch.cat([picked, flat.min()[None], flat.max()[None]])


def some_of(x: Tensor, count: int) -> Tensor:
    """`elements_of` with a fixed seed.  Every n-th element would be the same columns of all rows where n and the length
    of a row have a common divisor."""
    return elements_of(x, count, torch.Generator().manual_seed(0))


class Kept:
    """What one layer gives at each call, ``calls`` of them in one block of memory.

    Small tensors that stay between large ones that are freed leave the heap full of holes: kept one by one, those of
    SwinIR-light on 32 crops cost 4 GiB.
    """

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.blocks: list[list[Tensor]] = []
        self.parts: list[list[Tensor]] = []  # views of blocks, call by call

    def add(self, parts: Sequence[Tensor]) -> None:
        slot = len(self.parts) % self.calls
        if slot == 0 or any(len(p) > block.shape[1] for p, block in zip(parts, self.blocks[-1], strict=True)):
            self.blocks.append([p.new_empty((self.calls, *p.shape)) for p in parts])
        views = [block[slot, : len(p)] for p, block in zip(parts, self.blocks[-1], strict=True)]
        for view, part in zip(views, parts, strict=True):
            view.copy_(part)
        self.parts.append(views)

    def joined(self) -> list[Tensor]:
        return [torch.cat(several) for several in zip(*self.parts, strict=True)]


class _Seen(Exception):
    """All layers asked for have run; the rest of the network need not."""


def call_of(model: nn.Module, name: str, x: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    """(inputs, output) of the module ``name`` where the network runs on ``x``; it stops there."""
    call: list[tuple[tuple[Any, ...], Tensor]] = []

    def keep(_module: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> None:
        call.append((inputs, y))
        raise _Seen

    handle = model.get_submodule(name).register_forward_hook(keep)
    try:
        with contextlib.suppress(_Seen):
            model(x)
    finally:
        handle.remove()
    return call[0]


@contextlib.contextmanager
def standing_in(model: nn.Module, outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Modules of these names put out these tensors, without computing anything."""
    modules = [(model.get_submodule(name), y) for name, y in outputs.items()]
    for module, y in modules:
        module.forward = lambda *_, y=y, **__: y  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, _ in modules:
            del module.forward


@dataclass
class Rows:
    """What a linear or a convolution saw: sampled rows (N, d), and per input channel the extremes of everything (c)."""

    rows: Tensor
    low: Tensor
    high: Tensor
    tiles: Tensor | None = None


def positions(name: str, call: int, seed: int) -> torch.Generator:
    """What chooses the positions of the rows of the layer ``name`` at its ``call``-th call."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()) + 7919 * call + seed)


@torch.no_grad()
def collect(
    model: nn.Module,
    names: Sequence[str],
    batches: Sequence[Tensor],
    rows: int,
    elements: int = 2**17,
    seed: int = 0,
    tiles: int = 0,
) -> tuple[dict[str, Rows], dict[str, tuple[Tensor, Tensor]]]:
    """Run ``batches`` (NCHW) through the model and keep inputs of the layers ``names``, given in execution order.

    Returns the rows of linears and convolutions (about ``rows`` of each, and ``tiles`` tiles), and elements of both
    operands of matrix products, their extremes among them.  Positions depend on ``seed``, the layer's name and the
    batch only.
    """
    kept = {name: Kept(len(batches)) for name in names}
    products = {n for n in names if isinstance(model.get_submodule(n), MatMul | QuantMatMul)}

    def share(count: int) -> int:
        return -(-count // len(batches))

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        axis = 1 if isinstance(module, nn.Conv2d | QuantConv2d) else -1

        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            generator = positions(name, len(kept[name].parts), seed)
            if name in products:
                seen = module.operands(*inputs) if isinstance(module, QuantMatMul) else inputs
                kept[name].add([elements_of(x, share(elements), generator) for x in seen])
            else:
                x = inputs[0]
                channels = x.transpose(0, axis).flatten(1)
                some = rows_of(module, x, share(rows), generator)
                near = tiles_of(module, x, share(tiles), generator) if tiles else None
                extremes = [channels.amin(1)[None], channels.amax(1)[None]]
                kept[name].add([some, *extremes, *([] if near is None else [near])])
            if name == names[-1]:
                raise _Seen

        return module.register_forward_pre_hook(hook)

    handles = [watch(name, model.get_submodule(name)) for name in names]
    try:
        for batch in batches:
            with contextlib.suppress(_Seen):
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    joined = {name: calls.joined() for name, calls in kept.items()}
    layers = {n: Rows(j[0], j[1].amin(0), j[2].amax(0), *j[3:]) for n, j in joined.items() if n not in products}
    return layers, {n: (joined[n][0], joined[n][1]) for n in products}
