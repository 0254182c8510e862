"""Two claims of HarmoQ, measured: rows of results/harmoq_claims.csv.

    python benchmarks/harmoq_claims.py --model rfdn_x4=RFDN_AIM.pth --data Set5 --calib TRAIN

"The neglected term is worth less than 0.01 dB": every layer is rounded to the nearest with searched bounds, and the
network runs twice, as it is and with delta_W delta_x taken out of every layer's output.
"It converges in 10-20 iterations": Algorithm 1 as printed and with SRC anchored to the pristine weight; the share of
layers whose loss stops moving (by 1e-4 of itself) within 20 iterations, and that whose loss ends above its start.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from rows import Table
from torch import Tensor, nn

import bitsr
from bitsr.methods.ptq.harmoq_literal import TOLERANCE, Trace, iterate
from bitsr.methods.ptq.pams import bound_both
from bitsr.methods.ptq.pipeline import begin, layerwise
from bitsr.methods.registry import config_for
from bitsr.parts.layers import QuantConv2d, QuantLayer, quantized_layers

ITERATIONS = 20


@contextmanager
def without_second_order(compressed: nn.Module, full: nn.Module) -> Iterator[None]:
    """Every layer of ``compressed`` puts out W x~ + (W^ - W) x in place of W^ x~."""

    def taken_out(name: str, layer: QuantLayer) -> object:
        weight = full.get_submodule(name).weight

        def hook(_module: nn.Module, inputs: tuple[Tensor], y: Tensor) -> Tensor:
            x = inputs[0]
            delta_x = (x if layer.quantizer is None else layer.quantizer(x)) - x
            delta_w = layer.effective_weight() - weight
            if isinstance(layer, QuantConv2d):
                return y - F.conv2d(delta_x, delta_w, None, layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type]
            return y - F.linear(delta_x, delta_w)

        return layer.register_forward_hook(hook)

    layers = {n: m for n, m in quantized_layers(compressed).items() if isinstance(m, QuantLayer)}
    handles = [taken_out(name, layer) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]


def neglected_term(module: nn.Module, bits: int, images: list, data: Path, scale: int) -> dict[str, object]:
    small = bitsr.compress(module, config_for("dobi", bits, bits), images)
    whole = bitsr.evaluate(small, data, scale).psnr_y
    with torch.no_grad(), without_second_order(small, module):
        first_order = bitsr.evaluate(small, data, scale).psnr_y
    return {"quantity": "neglected_term_db", "value": f"{first_order - whole:.4f}", "psnr_y": f"{whole:.4f}"}


def convergence(module: nn.Module, bits: int, images: list, anchored: bool) -> list[dict[str, object]]:
    config = config_for(
        "harmoq-literal", bits, bits, overrides={"iterations": str(ITERATIONS), "anchored": str(anchored)}
    )
    trace = Trace()
    work = begin(module, images, config, 0)
    layerwise([iterate(config, trace)], bound_both(narrow=False), samples=1024)(work)  # type: ignore[arg-type]
    stopped = [abs(t[-1] - t[-2]) <= TOLERANCE * t[-2] for t in trace.losses if len(t) > 1]
    grown = [t[-1] > t[0] for t in trace.losses]
    form = "anchored" if anchored else "printed"
    shares = {"converged_share": stopped, "diverged_share": grown}
    return [{"quantity": f"{form}_{name}", "value": f"{sum(of) / len(of):.3f}"} for name, of in shares.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True, help="NAME=CHECKPOINT")
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3, 2])
    parser.add_argument("--data", type=Path, required=True, help="benchmark set")
    parser.add_argument("--calib", type=Path, required=True, help="folder of training pictures (HR)")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("results/harmoq_claims.csv"))
    options = parser.parse_args()
    images = bitsr.calibration_crops(options.calib, options.scale, 16, 64, 0)
    table = Table(options.out, ["model", "bits", "quantity", "value", "psnr_y"])
    for name, checkpoint in (pair.split("=") for pair in options.model):
        module = bitsr.load(checkpoint)
        for bits in options.bits:
            if table.find(model=name, bits=bits):
                continue
            rows = [neglected_term(module, bits, images, options.data, options.scale)]
            rows += [row for anchored in (False, True) for row in convergence(module, bits, images, anchored)]
            for row in rows:
                table.add(model=name, bits=bits, **row)


if __name__ == "__main__":
    main()
