"""What the outside must know of a super-resolution network: scale, colour, padding and tiling."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from bitsr.errors import ConfigError

Color = Literal["rgb", "y", "ycbcr"]
Tiling = Literal["exact", "window", "global"]


@dataclass(frozen=True)
class Descriptor:
    """Facts about a network that its callers need and that its weights do not tell.

    Attributes:
        arch: name of the network ("swinir", "rfdn", ...) or a user's class name.
        scale: side of the output over side of the input (1 for denoising and artefact removal).
        color: what the network takes and gives, values in [0, 1]: RGB, luma alone, or BT.601 YCbCr.
        multiple: LR sides are best multiples of this (the window); networks pad inside themselves.
        min_size: smallest LR side in pixels; callers pad smaller pictures and crop the result.
        tiling: "exact": tiles with an overlap of `reach` give the whole picture's result; "window": tile origins
            aligned to `multiple` give it up to a small difference; "global": some layer looks at the whole picture,
            so tiling changes the output.
        reach: overlap in LR pixels that a tile needs on each side.
    """

    arch: str
    scale: int
    color: Color = "rgb"
    multiple: int = 1
    min_size: int = 1
    tiling: Tiling = "exact"
    reach: int = 0

    def __post_init__(self) -> None:
        if not self.arch or not isinstance(self.arch, str):
            raise ConfigError(f"descriptor: arch must be a name, got {self.arch!r}")
        for name, least in (("scale", 1), ("multiple", 1), ("min_size", 1), ("reach", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"descriptor: {name} must be an integer >= {least}, got {value!r}")
        for name, allowed in (("color", get_args(Color)), ("tiling", get_args(Tiling))):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"descriptor: {name} must be one of {', '.join(allowed)}; got {value!r}")

    @property
    def channels(self) -> int:
        """Channels of the network's input and output: 1 for "y", else 3."""
        return 1 if self.color == "y" else 3

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary of all fields, as stored in a packed file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Descriptor:
        """Inverse of `to_dict`; raises `ConfigError` for missing or unknown fields and values out of range."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"descriptor: unknown field {', '.join(unknown)}")
        if missing := sorted({"arch", "scale"} - set(values)):
            raise ConfigError(f"descriptor: missing field {', '.join(missing)}")
        return cls(**values)
