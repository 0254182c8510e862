"""Mixed precision: bits per layer from measured sensitivities, under a budget or for a loss that is allowed.

Any method rounds to the bits that are chosen.  What a file takes and what is lost in dB are measured afterwards, and
the choice is repeated if they miss.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bitsr.archs.detect import descriptor_of
from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.data.benchmark import Pair
from bitsr.data.calibration import Pictures as HRPictures
from bitsr.data.calibration import calibration_crops, held_out_pairs, split
from bitsr.errors import ConfigError
from bitsr.evaluation.evaluate import psnr_of_pairs
from bitsr.lowering.entry import save
from bitsr.methods.compress import check_config, compress
from bitsr.methods.ptq.config import MinMax, PTQConfig
from bitsr.methods.ptq.goals import Budget, Goal, MaxDrop
from bitsr.methods.ptq.survey import FLOATING, Pictures, Survey, survey

JUDGED = 48  # held-out crops for a loss; a quarter of them counts
TRIES = 6
SLACK = 0.002  # of a budget that was missed: the deflated part of a file varies by itself
NEAR = 0.75  # of the allowed loss: a choice that uses so much of it is cheap enough


def compress_within(
    module: nn.Module, config: PTQConfig, goal: Goal, folder: HRPictures = None, *,
    precision: Literal["fp16", "fp32"] = "fp16", seed: int = 0,
) -> nn.Module:  # fmt: skip
    """A compressed copy of ``module`` whose layers have the bits that meet ``goal``, rounded by the method of
    ``config``.  What `bitsr compress` does for ``--budget`` and ``--max-drop``.

    ``goal``: `Budget`, the least error within bytes of the packed file (as saved with ``precision``), BitOps, or both;
    or `MaxDrop`, the fewest bits that lose at most so many dB of PSNR-Y: none below those of ``config``, and some
    layers may stay in floating point.  ``config.layer_bits`` stay as they are given.  ``folder``: HR pictures as for
    `calibration_crops`; every tenth is not calibrated on, but what is lost is measured there (of fewer than 20 all
    serve for both).  The choice is in ``compression["layer_bits"]`` of the result, and for `MaxDrop` the loss in dB in
    ``compression["drop_db"]``.

    Raises `ConfigError` where no choice of bits meets the goal, `PictureError` where no picture is large enough: 64
    pixels a side after reduction by the network's scale.
    """
    check_config(config)
    if not isinstance(goal, Budget | MaxDrop):
        raise ConfigError(f"the goal is one like bitsr.Budget(bit_ops=0.8) or bitsr.MaxDrop(0.05), got {goal!r}")
    scale = descriptor_of(module).scale
    pictures, held = split(folder)
    crops = calibration_crops(pictures, scale, config.crop_count, seed=seed)
    pairs = held_out_pairs(held, scale, JUDGED, seed=seed)
    found = survey(module, config, crops, [pair.lr for pair in pairs], seed)
    if isinstance(goal, MaxDrop):
        return compress_within_drop(module, found, crops, pairs, goal, seed=seed)
    return compress_to_budget(module, found, crops, goal, precision=precision, seed=seed)


# ---- under a budget ------------------------------------------------------------------------------------------------


def allocate_bits(
    module: nn.Module, config: PTQConfig, pictures: Pictures, held: Pictures, budget: Budget, *, seed: int = 0
) -> PTQConfig:
    """``config`` with the bits of every layer that lose least within ``budget``.

    ``pictures``: LR crops HxWx3 uint8 of one size, for the bounds; ``held``: others, on which errors are measured.
    What the file takes beside the layers is taken from a file with the config's own bits.  Raises `ConfigError` where
    2 bits everywhere are too many.
    """
    found = survey(module, config, pictures, held, seed)
    return _within(found, budget, _overhead(module, found, pictures) if budget.file_bytes else 0)


def compress_to_budget(
    module: nn.Module, found: Survey, pictures: Pictures, budget: Budget, *,
    precision: Literal["fp16", "fp32"] = "fp16", seed: int = 0,
) -> nn.Module:  # fmt: skip
    """The network compressed by the method of ``found.config``, with bits as :func:`allocate_bits` chooses them.

    Methods add numbers of their own to a file, so it is measured; where it is too large the choice is repeated.
    Raises `ConfigError` where that does not help.
    """
    overhead = _overhead(module, found, pictures) if budget.file_bytes else 0
    for _ in range(TRIES):
        small = compress(module, _within(found, budget, overhead), pictures, seed=seed)
        if budget.file_bytes is None or (size := packed_bytes(small, precision)) <= budget.file_bytes:
            return small
        overhead += size - budget.file_bytes + round(SLACK * budget.file_bytes)
    raise ConfigError(f"{budget.file_bytes} bytes are too few for this method; allow {size}")


def _within(found: Survey, budget: Budget, overhead: int) -> PTQConfig:
    uniform = found.total(found.uniform, "bit_ops")
    if budget.file_bytes is not None and (least := round(found.least("file_bytes")) + overhead) > budget.file_bytes:
        raise ConfigError(f"the fewest bits make a file of {least} bytes; the limit is {budget.file_bytes}")
    if budget.bit_ops is not None and (share := found.least("bit_ops") / uniform) > budget.bit_ops:
        raise ConfigError(f"the fewest bits take {share:.1%} of the BitOps; the limit is {budget.bit_ops:.1%}")
    file_bytes = None if budget.file_bytes is None else budget.file_bytes - overhead
    bit_ops = None if budget.bit_ops is None else budget.bit_ops * uniform
    return found.within(file_bytes, bit_ops)


def _overhead(module: nn.Module, found: Survey, pictures: Pictures) -> int:
    """Bytes of a packed file beside its layers."""
    plain = MinMax(**found.config.shared | {"layer_bits": found.uniform})
    return packed_bytes(compress(module, plain, pictures[:8])) - round(found.total(found.uniform, "file_bytes"))


def packed_bytes(module: nn.Module, precision: Literal["fp16", "fp32"] = "fp16") -> int:
    """Of the packed file, measured."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bitsr"
        save(module, path, precision=precision)
        return path.stat().st_size


# ---- for a loss that is allowed ------------------------------------------------------------------------------------


def compress_within_drop(
    module: nn.Module, found: Survey, pictures: Pictures, pairs: Sequence[Pair], goal: MaxDrop, *, seed: int = 0
) -> nn.Module:
    """The cheapest compressed network that loses at most ``goal.db`` of PSNR-Y against ``module``, in the mean over
    that quarter of ``pairs`` which ``module`` does best: there rounding shows most.

    No layer gets fewer bits than ``found.config`` has; some may stay in floating point.  What is lost is measured on
    the compressed network, noted as ``drop_db`` in its ``compression``, and the choice is repeated with the error that
    was found.  Raises `ConfigError` where nothing can be compressed within the goal.
    """
    drop = goal.db
    full = scores(module, pairs)
    best_done = np.argsort(-full)[: math.ceil(len(pairs) / 4)]
    full, pairs = full[best_done], [pairs[i] for i in best_done]
    allowed = target = error_of_drop(full, drop)
    kept, missed = 0.0, math.inf  # the largest target that was met, and the smallest that was not
    best, best_lost = None, -math.inf
    for _ in range(TRIES):
        chosen = found.cheapest(target)
        if min(bits for pair in chosen.layer_bits.values() for bits in pair) >= FLOATING:
            break
        small = compress(module, chosen, pictures, seed=seed)
        lost = float(np.mean(full - scores(small, pairs)))
        ratio = allowed / max(error_of_drop(full, lost), 1e-12)
        if lost <= drop:
            kept, best, best_lost = target, small, lost
            target *= min(0.9 * ratio, 8.0)
        else:
            missed = target
            target *= min(0.8 * ratio, 0.7)
        if NEAR * drop < best_lost or missed < 1.3 * kept:
            break
        if not kept < target < missed:
            target = math.sqrt(kept * missed)
    if best is None:
        raise ConfigError(
            f"no choice of bits that was tried loses at most {drop} dB, but for all layers in floating point; "
            "allow more, or pack the network so with 16 bits"
        )
    best.compression["drop_db"] = round(best_lost, 4)  # type: ignore[index, operator]
    return best


def scores(module: nn.Module, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """PSNR-Y in dB of each pair, on the device where the module is."""
    upscaler = ModuleUpscaler(module)
    return psnr_of_pairs(upscaler, pairs, upscaler.descriptor.scale)


def error_of_drop(full: NDArray[np.float64], drop: float) -> float:
    """The mean squared error, independent of the network's own, that lowers PSNRs of ``full`` by ``drop`` dB in the
    mean; signals lie in [0, 1]."""
    own = 10 ** (-full / 10)
    low, high = 1e-12, 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if float(np.mean(10 * np.log10(1 + middle / own))) > drop else (middle, high)
    return high
