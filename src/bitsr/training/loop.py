"""A small training loop: one recipe, one process, checkpoints that resume bit-equal.

To start or to resume: python -m bitsr.training.loop recipes/train/rfdn_x4.yaml --data DIR [DIR ...] --out runs/rfdn_x4
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from bitsr.archs.rfdn import RFDN
from bitsr.archs.swinir import SwinIR
from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.data.files import write_atomically
from bitsr.evaluation.metrics import psnr_y
from bitsr.training.dataset import CropDataset, load_pair, split
from bitsr.training.linear_start import fit_filters, linear_start

NETWORKS: dict[str, type[nn.Module]] = {"rfdn": RFDN, "swinir": SwinIR}


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of; sizes in LR pixels, ``lr`` is the peak of a cosine with linear warm-up."""

    arch: str
    arch_args: dict[str, Any] = field(default_factory=dict)
    scale: int = 4
    steps: int = 1000
    batch: int = 8
    crop: int = 32
    lr: float = 5e-4
    lr_end: float = 1e-6
    warmup: int = 100
    ema: float = 0.999
    seed: int = 0
    bf16: bool = False
    checkpoint_every: int = 100
    validate_every: int = 500

    def learning_rate(self, step: int) -> float:
        rise = min(1.0, (step + 1) / self.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return rise * (self.lr_end + (self.lr - self.lr_end) * fall)


def validation_psnr(model: nn.Module, pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], scale: int) -> float:
    """Mean PSNR on Y of held-out (LR, HR) pictures, border of ``scale`` left out."""
    upscale = ModuleUpscaler(model)
    score = float(np.mean([psnr_y(upscale(lr), hr, scale) for lr, hr in pairs]))
    model.train()
    return score


class Run:
    """A model in training, with all the state that the next step depends on."""

    def __init__(self, recipe: Recipe, folders: list[Path], out: Path) -> None:
        self.recipe, self.out = recipe, out
        out.mkdir(parents=True, exist_ok=True)
        train, held = split(folders)
        self.data = CropDataset(train, recipe.scale, recipe.crop)
        self.validation = [load_pair(p, recipe.scale) for p in held[::6]]
        torch.manual_seed(recipe.seed)
        self.rng = np.random.default_rng(recipe.seed)
        self.model = NETWORKS[recipe.arch](upscale=recipe.scale, **recipe.arch_args)
        if isinstance(self.model, RFDN):
            ends = (self.model.fea_conv, self.model.LR_conv, self.model.upsampler[0])
        else:
            ends = (self.model.conv_first, self.model.conv_after_body, self.model.upsample[0])  # type: ignore[assignment, index]
        linear_start(*ends, fit_filters(self.data, np.random.default_rng(recipe.seed)))  # type: ignore[arg-type]
        self.ema = copy.deepcopy(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), recipe.lr, betas=(0.9, 0.99))
        self.step = 0
        self.checkpoint = out / "checkpoint.pt"

    def save(self) -> None:
        state = {"step": self.step, "model": self.model.state_dict(), "ema": self.ema.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "rng": json.dumps(self.rng.bit_generator.state)}  # fmt: skip
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(self.checkpoint, content.getvalue())

    def resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = json.loads(state["rng"])

    @torch.no_grad()
    def update_ema(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for kept, current in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(current, 1 - decay)

    def record(self, loss: float, seconds: float) -> None:
        """Append a line to the log: the mean loss since the last one, and PSNR-Y in dB on the held-out pictures."""
        psnr = validation_psnr(self.ema, self.validation, self.recipe.scale)
        entry = {"step": self.step, "l1": loss, "seconds": round(seconds, 1), "holdout_psnr_y": psnr}
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def train(self, minutes: float) -> None:
        """Until the recipe's steps are done or ``minutes`` are over; a checkpoint is written at the end."""
        recipe = self.recipe
        deadline, began, losses = time.monotonic() + 60 * minutes, time.monotonic(), []
        while self.step < recipe.steps and time.monotonic() < deadline:
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate(self.step)
            lr, hr = self.data.batch(recipe.batch, self.rng)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                output: Tensor = self.model(lr)
            loss = (output.float() - hr).abs().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step += 1
            self.update_ema()
            losses.append(loss.item())
            if self.step % recipe.checkpoint_every == 0:
                self.save()
            if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                self.record(float(np.mean(losses)), time.monotonic() - began)
                losses = []
        self.save()
        weights = {k: v.half() if v.is_floating_point() else v for k, v in self.ema.state_dict().items()}
        weights = {k: v for k, v in weights.items() if not k.endswith(("relative_position_index", "attn_mask"))}
        save_file(weights, self.out / "weights.safetensors", {"arch": recipe.arch, "steps": str(self.step)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop and save after that long")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = Run(Recipe(**yaml.safe_load(options.recipe.read_text())), options.data, options.out)
    if run.checkpoint.exists():
        run.resume()
    run.train(options.minutes)


if __name__ == "__main__":
    main()
