"""Tiny networks with random weights, and a rough quantization of them, for tests of what comes after compression."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch
from torch import Tensor, nn

from bitsr.archs.detect import descriptor_of
from bitsr.archs.edsr import EDSR
from bitsr.archs.espcn import ESPCN, ESPCNClip
from bitsr.archs.hat import HAT
from bitsr.archs.imdn import IMDN
from bitsr.archs.mambairv2 import MambaIRv2Light
from bitsr.archs.msrresnet import MSRResNet
from bitsr.archs.rfdn import RFDN
from bitsr.archs.rrdbnet import RRDBNet
from bitsr.archs.srcnn import SRCNN
from bitsr.archs.srresnet import SRResNet
from bitsr.archs.srvgg import SRVGGNetCompact
from bitsr.archs.swinir import SwinIR
from bitsr.parts.layers import QuantConv2d, QuantLayer, QuantMatMul, quantized_layers, replace, replaceable
from bitsr.parts.quantizer import AffineQuantizer, DecidedWeight


def swinir(**options: object) -> SwinIR:
    tiny = {"img_size": 8, "window_size": 4, "depths": (2,), "num_heads": (2,), "embed_dim": 12, "num_feat": 8}
    return SwinIR(**(tiny | options))  # type: ignore[arg-type]


def mamba(**options: object) -> MambaIRv2Light:
    tiny = {"depths": (2,), "num_heads": (2,), "embed_dim": 12, "d_state": 3, "window_size": 4, "num_tokens": 5}
    return MambaIRv2Light(**(tiny | options))  # type: ignore[arg-type]


def hat(**options: object) -> HAT:
    tiny = {"upscale": 2, "window_size": 4, "depths": (2,), "num_heads": (2,), "embed_dim": 12, "num_feat": 8}
    return HAT(**(tiny | {"compress_ratio": 3, "squeeze_factor": 4, "conv_scale": 0.1} | options))  # type: ignore[arg-type]


def rrdbnet(**options: int) -> RRDBNet:
    return RRDBNet(**({"num_feat": 8, "num_block": 1, "num_grow_ch": 4} | options))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "swinir light x4": lambda: swinir(),
    "swinir classical x3": lambda: swinir(upscale=3, upsampler="pixelshuffle", resi_connection="3conv"),
    "swinir real x4": lambda: swinir(upscale=4, upsampler="nearest+conv", img_range=255.0),
    "swinir real x2": lambda: swinir(upscale=2, upsampler="nearest+conv"),
    "swinir grey x1": lambda: swinir(upscale=1, in_chans=1, upsampler=""),
    "swinir trained on one window": lambda: swinir(img_size=4),
    "swinir trained on half a window": lambda: swinir(img_size=4, window_size=8),
    "mambairv2 light x4": lambda: mamba(),
    "mambairv2 light grey x2": lambda: mamba(upscale=2, in_chans=1, mlp_ratio=1.5, resi_connection="3conv"),
    "rfdn": lambda: RFDN(nf=8),
    "rfdn 0..255": lambda: RFDN(nf=8, upscale=2, feature_range=255.0),
    "imdn": lambda: IMDN(nf=16, upscale=2),
    "edsr": lambda: EDSR(num_feat=8, num_block=2, upscale=4, res_scale=0.1),
    "msrresnet x4": lambda: MSRResNet(num_feat=8, num_block=1, upscale=4),
    "msrresnet x3": lambda: MSRResNet(num_feat=8, num_block=1, upscale=3),
    "hat": lambda: hat(),
    "rrdbnet x4": lambda: rrdbnet(),
    "rrdbnet x2, unshuffled": lambda: rrdbnet(upscale=2, unshuffle=2),
    "srvgg": lambda: SRVGGNetCompact(num_feat=8, num_conv=2, upscale=3),
    "srresnet x4": lambda: SRResNet(num_feat=8, num_block=1),
    "srresnet x3, tanh": lambda: SRResNet(num_feat=8, num_block=1, upscale=3, bias=True, ending="tanh"),
    "srcnn": lambda: SRCNN(upscale=3, widths=(8, 4)),
    "espcn": lambda: ESPCN(upscale=3, widths=(8, 4)),
    "espcn clip": lambda: ESPCNClip(upscale=2, widths=(8, 4)),
}
BITS = {
    "w2a2": [(2, 2)], "w3a3": [(3, 3)], "w4a4": [(4, 4)], "w8a8": [(8, 8)],
    "mixed": [(2, 8), (8, 3), (4, 4), (3, 2)],
}  # fmt: skip  # (w_bits, a_bits), dealt out in turn


def make(name: str) -> nn.Module:
    """The network with random weights; norms, biases and bias tables are random, too."""
    torch.manual_seed(0)
    module = NETWORKS[name]().eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    module.descriptor = descriptor_of(module)  # type: ignore[assignment]
    return module


def picture(module: nn.Module, height: int = 18, width: int = 21, seed: int = 1) -> Tensor:
    """1 x C x H x W in [0, 1]; sides that are no multiples of a window."""
    channels = descriptor_of(module).channels
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(seed))


def hwc(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())


def nchw(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(x)).permute(2, 0, 1)[None]


def weight_codes(weight: Tensor, bits: int, symmetric: bool) -> DecidedWeight:
    """Round to nearest between the smallest and the largest weight of each row."""
    rows, levels, half = weight.flatten(1), 2**bits - 1, 2 ** (bits - 1)
    low, high = rows.amin(1), rows.amax(1)
    if symmetric:
        scale, mid = rows.abs().amax(1) / (half - 0.5), None
        low = -half * scale
    else:
        scale = (high - low) / levels
        mid = low + half * scale
    tail = (-1,) + (1,) * (weight.ndim - 1)
    codes = ((weight - low.view(tail)) / scale.view(tail)).round().clamp(0, levels)
    return DecidedWeight(bits, codes, scale, mid)


@torch.no_grad()
def quantize_roughly(
    module: nn.Module, bits: list[tuple[int, int]], *, symmetric: bool = False, weights: bool = True,
    activations: bool = True, input_scales: bool = False,
) -> nn.Module:  # fmt: skip
    """Every layer quantized, with bounds from what it sees of one picture; (w_bits, a_bits) are dealt out in turn."""
    for name, (w_bits, a_bits) in zip([n for n, m in module.named_modules() if replaceable(m)], cycle(bits)):
        layer = replace(module, name, w_bits, a_bits)
        if input_scales and isinstance(layer, QuantLayer):
            columns = layer.weight.shape[1] * (layer.groups if isinstance(layer, QuantConv2d) else 1)
            layer.input_scale = 0.5 + torch.rand(columns)
    seen: dict[nn.Module, tuple[Tensor, ...]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen.update({layer: inputs}))
        for layer in quantized_layers(module).values()
    ]
    module(picture(module, seed=2))
    for hook in hooks:
        hook.remove()
    for layer in quantized_layers(module).values():
        if isinstance(layer, QuantMatMul):
            if activations:
                a, b = seen[layer]
                layer.quantizer_a = AffineQuantizer(layer.a_bits, a.min(), a.max())
                layer.quantizer_b = AffineQuantizer(layer.a_bits, b.min(), b.max())
            continue
        if weights:
            layer.decided = weight_codes(layer.weight, layer.w_bits, symmetric)
        if activations:
            x = layer.scaled(seen[layer][0])
            layer.quantizer = AffineQuantizer(layer.a_bits, x.min(), x.max(), isinstance(layer, QuantConv2d))
    return module.requires_grad_(False)


def assert_close(ours: np.ndarray, theirs: np.ndarray, share: float = 1e-5, span: float = 0.0) -> None:
    """Equal up to a share of the range of the values, or of ``span`` where that is larger."""
    assert ours.shape == theirs.shape
    span = max(span, float(np.ptp(theirs)), float(np.abs(theirs).max()))
    assert np.abs(ours.astype(np.float64) - theirs).max() <= share * span
