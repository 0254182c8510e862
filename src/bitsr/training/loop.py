"""The training loop.

Everything random about step k comes from (seed, k), and everything else that step k + 1 depends on is in the
checkpoint: a run that was killed and resumed, or cut into parts, ends bit-equal to one that was not (on the CPU, with
the same number of threads).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.data.benchmark import read_pair
from bitsr.errors import BitsrError
from bitsr.evaluation.evaluate import psnr_of_pairs
from bitsr.methods.trained import trained_config, training_method
from bitsr.training.average import Average
from bitsr.training.checkpoint import check_same_run, read_checkpoint, write_checkpoint
from bitsr.training.data import CropDataset, split, to_unit
from bitsr.training.log import Log
from bitsr.training.losses import LOSSES, Distiller
from bitsr.training.networks import full_precision, teacher_of
from bitsr.training.optimizer import make_optimizer, set_rate
from bitsr.training.recipe import Recipe
from bitsr.training.team import Team


@dataclass
class Progress:
    """Where a run is: steps done, seconds spent, and the losses since the last entry of the log."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0


class Run:
    """A network in training, with all the state that the next step depends on."""

    def __init__(
        self, recipe: Recipe, folders: Sequence[Path], out: Path,
        device: torch.device | str = "cpu", team: Team | None = None, *, resume: bool = False,
    ) -> None:  # fmt: skip
        """``resume`` takes up the run in the folder ``out``; raises `ConfigError` where its recipe or its pictures
        were others."""
        self.recipe, self.out, self.device, self.team = recipe, out, torch.device(device), team or Team()
        self.team.check_batch(recipe.batch)
        train, held = split(folders)
        self.data = CropDataset(train, recipe.scale, recipe.crop)
        chosen = np.linspace(0, len(held) - 1, min(recipe.validation_pictures, len(held))).round().astype(int)
        self.validation = [read_pair(held[i], None, recipe.scale) for i in chosen]
        start = full_precision(recipe, self.data).to(self.device)
        config = trained_config(recipe.method)
        self.method = training_method(config, lambda n, size: self.data.lr_crops(n, size, recipe.seed), recipe.seed)
        state = self.checkpoint() if resume else None
        self.model = self.method.prepare(start) if state is None else self.method.rebuild(start, state["model"])
        self.average = Average(self.model, recipe.ema)
        self.distiller = None
        if recipe.distill is not None:
            self.distiller = Distiller(recipe.distill, teacher_of(recipe, start).to(self.device), self.model)
        self.optimizer = make_optimizer(recipe, self.method.parameter_groups(self.model))
        self.network = self.team.wrap(self.model)
        if recipe.compile:
            self.network = torch.compile(self.network)  # type: ignore[assignment]
        self.progress = Progress()
        self.masks: tuple[int, list[Tensor]] | None = None  # step and masks of the newest entry of the log
        if state is not None:
            self.average.model.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
            self.masks = state.get("masks")
        self.pending = torch.zeros((), dtype=torch.float64, device=self.device)  # losses that are not in progress yet
        self.log: Log | None = None
        self.newest: dict[str, Any] | None = None  # entry of the log
        self.began = time.monotonic()

    # ---- one step ------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of the (LR, HR) of a step; the step also fixes what torch draws in it."""
        seed = np.random.SeedSequence((self.recipe.seed, step))
        torch.manual_seed(int(seed.generate_state(1)[0]) + self.team.rank)
        places = self.data.draw(self.recipe.batch, np.random.default_rng(seed))
        low, high = self.data.cut(self.team.share(places))
        return to_unit(low, self.device), to_unit(high, self.device)

    def loss(self, lr: Tensor, hr: Tensor) -> Tensor:
        recipe = self.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            output = self.network(lr).float()
        loss = recipe.loss_weight * LOSSES[recipe.loss](output, hr)
        if self.distiller is not None:
            loss = loss + self.distiller(lr, output)
        extra = self.method.extra_loss(self.model)
        return loss if extra is None else loss + extra

    def take_step(self) -> Tensor:
        """One update; returns the loss of this process's share, detached."""
        recipe, step = self.recipe, self.progress.step
        set_rate(self.optimizer, recipe, step)
        lr, hr = self.batch(step)
        self.method.on_step(self.model, step, recipe.steps)
        loss = self.loss(lr, hr)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.progress.step += 1
        self.average.update(self.model, self.progress.step)
        return loss.detach()

    # ---- the whole run -------------------------------------------------------------------------------------------

    def train(
        self, until: float = float("inf"), on_step: Callable[[int, int, dict[str, Any] | None], None] | None = None
    ) -> bool:
        """Go on to the recipe's last step, or until the clock ``time.monotonic()`` reads ``until``; True if done.

        ``on_step`` is called with (steps done, of how many, the newest entry of the log or None).
        """
        recipe, progress = self.recipe, self.progress
        self.log = Log(self.out, progress.step) if self.team.leads else None
        self.began = time.monotonic() - progress.seconds
        if progress.step == 0:
            self.record()
        while progress.step < recipe.steps:
            if until < float("inf") and self.team.decide(time.monotonic() >= until, self.device):
                break
            self.pending += self.take_step()
            progress.loss_count += 1
            done = progress.step == recipe.steps
            if done or progress.step % recipe.validate_every == 0:
                self.record()
            if done or progress.step % recipe.checkpoint_every == 0:
                self.save()
            if on_step is not None:
                on_step(progress.step, recipe.steps, self.newest)
        if progress.step < recipe.steps:
            self.save()
        return progress.step == recipe.steps

    def settle(self) -> None:
        """Bring the clock and the losses of all processes into ``progress``; raises `BitsrError` where one is NaN."""
        self.progress.loss_sum += float(self.team.mean(self.pending))
        self.pending.zero_()
        self.progress.seconds = time.monotonic() - self.began
        if not np.isfinite(self.progress.loss_sum):
            step = self.progress.step
            raise BitsrError(f"the loss is no finite number before step {step}; lower lr or set clip_norm")

    def record(self) -> None:
        """Validate, write a line to the log, and begin a new mean of losses."""
        self.settle()
        progress = self.progress
        mean = progress.loss_sum / progress.loss_count if progress.loss_count else None
        progress.loss_sum, progress.loss_count = 0.0, 0
        if self.log is not None:
            self.newest = self.entry(mean)
            self.log.write(self.newest)

    def entry(self, loss: float | None = None) -> dict[str, Any]:
        """A line of the log, as things stand: the weights are validated now."""
        seconds = round(self.progress.seconds, 1)
        entry = {"step": self.progress.step, "loss": loss, "seconds": seconds, "holdout_psnr_y": self.validate()}
        return entry | self.mask_moved()

    def mask_moved(self) -> dict[str, float]:
        """Share of all weights that are kept and were not at the log's last entry, or the other way round."""
        masks, before = self.method.masks(self.model), self.masks
        if not masks:
            return {}
        self.masks = self.progress.step, masks
        if before is None or before[0] == self.progress.step:
            return {}
        changed = sum(int((old ^ new).sum()) for old, new in zip(before[1], masks, strict=True))
        return {"mask_moved": round(changed / sum(mask.numel() for mask in masks), 6)}

    def frozen(self) -> nn.Module:
        """The averaged network as it can be evaluated, lowered and saved."""
        return self.method.freeze(self.average.model)

    def validate(self) -> float:
        """Mean PSNR-Y in dB of the frozen network on the held-out pictures, border of ``scale`` left out."""
        upscaler = ModuleUpscaler(self.frozen(), self.device)
        return float(np.mean(psnr_of_pairs(upscaler, self.validation, self.recipe.scale)))

    # ---- state ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint."""
        self.settle()
        if not self.team.leads:
            return
        state = {
            "recipe": self.recipe.to_dict(), "pictures": self.data.fingerprint(), "progress": vars(self.progress),
            "model": self.model.state_dict(), "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "masks": self.masks,
        }  # fmt: skip
        write_checkpoint(self.out, state)

    def checkpoint(self) -> dict[str, Any]:
        """What :meth:`save` wrote to the folder, if that was the same run."""
        state = read_checkpoint(self.out, self.device)
        check_same_run(state, self.recipe.to_dict(), self.data.fingerprint())
        return state
