"""Training of networks of signs whose channels DRC has chosen."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bitsr.methods.binary.config import Binary
from bitsr.methods.binary.training import SignTraining
from bitsr.methods.masks.drc import Channels, narrow, narrow_as, swin_blocks
from bitsr.methods.masks.drc_search import search_widths, select_channels
from bitsr.methods.ptq.pipeline import to_batches
from bitsr.methods.trained import LRCrops

CROPS, SIZE, BATCH = 64, 24, 4  # of the search and the selection


class DRCTraining(SignTraining):
    """A binarizer of the literature on the linears of the channels that DRC leaves."""

    config: Binary

    def __init__(self, config: Binary, crops: LRCrops, seed: int) -> None:
        super().__init__(config)
        self.crops, self.seed = crops, seed

    def prepare(self, model: nn.Module) -> nn.Module:
        student = self.trainable(model)
        for block, kept in zip(swin_blocks(student).values(), self.choose(model), strict=True):
            narrow(block, kept)
        return self.binarized(student).to(next(model.parameters()).device)

    def rebuild(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        student = self.trainable(model)
        narrow_as(student, state)
        student = self.binarized(student).to(next(model.parameters()).device)
        student.load_state_dict(state)
        return student

    def choose(self, model: nn.Module) -> list[Channels]:
        """What stays in each block, searched where ``model`` is; random numbers come from the seed."""
        teacher = copy.deepcopy(model).requires_grad_(False).eval()
        device = next(teacher.parameters()).device
        crops = to_batches(self.crops(CROPS, SIZE), getattr(model, "descriptor", None))
        batches = [part.to(device) for batch in crops for part in batch.split(BATCH)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            scale = teacher(batches[0]).shape[-1] // batches[0].shape[-1]
            widths = search_widths(teacher, batches, scale, self.config.search_steps)
        return [Channels(kept.head.cpu(), kept.hidden.cpu()) for kept in select_channels(teacher, batches, widths)]
