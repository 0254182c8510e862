"""Post-training methods with budgets for tests, and the networks that they are tried on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.methods.ptq.config import PTQConfig
from bitsr.methods.registry import config_for

QUICK = {
    "2dquant": {"candidates": "10", "steps": "4", "batch": "2", "crop": "16"},
    "adaround": {"steps": "20", "samples": "64", "groups": "2"},
    "brecq": {"steps": "4", "activation_steps": "2", "samples": "64"},
    "qdrop": {"steps": "4", "samples": "64"},
    "gptq": {"samples": "64", "groups": "2"},
    "smoothquant": {"samples": "64"},
    "repq": {"samples": "64", "softmax": "affine"},
    "svdquant": {"samples": "64", "groups": "2", "rank": "2"},
    "pams": {"steps": "4", "batch": "2", "crop": "16"},
    "dbdc-pac": {"steps": "2", "batch": "2", "crop": "16"},
    "best": {"effort": "fast", "learn_steps": "2", "samples": "64", "groups": "2"},
}
NETWORKS = ["edsr", "swinir light x4"]


def quick(method: str, bits: int = 4, **more: str) -> PTQConfig:
    return config_for(method, bits, bits, overrides=QUICK[method] | more)


def distance(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((a(x) - b(x)).square().mean())
