"""What bits per layer can be chosen for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitsr.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """``file_bytes``: of the packed file; ``bit_ops``: relative to those of the config's own bits."""

    file_bytes: int | None = None
    bit_ops: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.file_bytes, self.bit_ops) if limit is not None]
        if not limits or min(limits) <= 0:
            raise ConfigError(f"a budget limits bytes, BitOps or both, above zero; got {self}")


@dataclass(frozen=True)
class MaxDrop:
    """``db``: how much PSNR-Y may be lost against full precision, in dB."""

    db: float

    def __post_init__(self) -> None:
        if not 0 < self.db < math.inf:
            raise ConfigError(f"the allowed loss is a number of dB above 0, got {self.db}")


Goal = Budget | MaxDrop
