"""Compress a network that bitsr does not know, pack it and run the packed file.

    python examples/compress_your_own.py carn_m carn_m.pth Set5
    python examples/compress_your_own.py hit_srf hit_srf_x4.pth Set5     # compressed, but not packed: see below

Compression takes any module of linears, convolutions and `MatMul`.  Packing must know which steps a module stands for;
it is told by one function per class, which follows the module's `forward` line by line.  CARN-M has them here.  HiT-SRF
has none, and its correlation cannot be said in the steps that a packed file knows, so `bitsr.save` raises
`UnsupportedLayer`; the compressed module can still be evaluated.  CARN-M takes minutes on one core, HiT-SRF longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from carn_m import CARNM, CascadingBlock, MeanShift, ResidualBlock, load_carn_m
from hit_srf import load_hit_srf
from torch import nn
from tyro.conf import Positional

import bitsr
from bitsr.errors import UnsupportedLayer
from bitsr.lowering import Builder, register_lowering

Network = Literal["carn_m", "hit_srf"]


def lower_cascade(builder: Builder, x: str, blocks: Sequence[nn.Module], fusions: Sequence[nn.Module]) -> str:
    seen = y = x
    for block, fuse in zip(blocks, fusions, strict=True):
        seen = builder.concat(seen, builder.apply(y, block))
        y = builder.apply(seen, fuse)
    return y


def lower_mean_shift(module: MeanShift, builder: Builder, x: str) -> str:
    return builder.affine(x, shift=module.bias.tolist())


def lower_residual_block(module: ResidualBlock, builder: Builder, x: str) -> str:
    return builder.activation(builder.add(builder.apply(x, module.body), x), "relu")


def lower_cascading_block(module: CascadingBlock, builder: Builder, x: str) -> str:
    return lower_cascade(builder, x, [module.b1] * 3, [module.c1, module.c2, module.c3])


def lower_carn_m(module: CARNM, builder: Builder, x: str) -> str:
    x = builder.apply(builder.apply(x, module.sub_mean), module.entry)
    x = lower_cascade(builder, x, [module.b1, module.b2, module.b3], [module.c1, module.c2, module.c3])
    x = builder.apply(builder.apply(x, module.upsample[f"up{module.scale}"]), module.exit)
    return builder.apply(x, module.add_mean)


register_lowering(MeanShift, lower_mean_shift)
register_lowering(ResidualBlock, lower_residual_block)
register_lowering(CascadingBlock, lower_cascading_block)
register_lowering(CARNM, lower_carn_m)


def build(network: Network, weights: Path, scale: int = 4) -> nn.Module:
    """A module with its weights, and with the facts that callers need but weights do not tell."""
    if network == "carn_m":
        module: nn.Module = load_carn_m(weights, scale)
        module.eight_bit = ("upsample",)  # type: ignore[assignment]  # optional: parts that stay at 8 bit
        descriptor = bitsr.Descriptor("carn_m", scale, reach=CARNM.reach)
    else:
        module = load_hit_srf(weights, scale)
        descriptor = bitsr.Descriptor("hit_srf", scale, tiling="global")  # windows of up to 64 pixels would show
    module.descriptor = descriptor  # type: ignore[assignment]
    return module


def main(
    network: Positional[Network], weights: Positional[Path], data: Positional[Path], photos: Path | None = None,
    scale: int = 4, output: Path | None = None,
) -> None:  # fmt: skip
    """Measure on the benchmark folder DATA; calibrate on the pictures in PHOTOS, or on bundled ones."""
    module = build(network, weights, scale)
    small = bitsr.compress(module, bitsr.Best(w_bits=4, a_bits=4), bitsr.calibration_crops(photos, scale))
    for name, candidate in {"floating point": module, "4 bit, simulated": small}.items():
        print(f"{name}: {bitsr.evaluate(candidate, data, scale).psnr_y:.2f} dB")

    output = output or Path(f"{network}_x{scale}.bitsr")
    try:
        bitsr.save(small, output)
    except UnsupportedLayer as error:
        raise SystemExit(f"error: {error}") from error
    model = bitsr.open(output)
    print(f"4 bit, packed: {bitsr.evaluate(model, data, scale).psnr_y:.2f} dB, {model.file_bytes} bytes in {output}")


if __name__ == "__main__":
    tyro.cli(main)
