"""`--method`, `--bits` and what belongs to them, as the config of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitsr.cli.console import UsageError
from bitsr.methods.registry import BEST, config_for, load_config, with_overrides


def choose_config(
    words: list[str],
    file: Path | None = None,
    method: str | None = None,
    bits: int | None = None,
    w_bits: int | None = None,
    a_bits: int | None = None,
    scope: str | None = None,
    effort: str | None = None,
    default_bits: int | None = None,
) -> Any:
    """The method's config from the command line's options, or from a file and `--set` on top of it.

    Where no bits are given they are ``default_bits``, or for None the method's own.
    """
    overrides: dict[str, str] = {}
    for key, value in map(split_word, words):
        if key in overrides:
            raise UsageError(f"--set {key}=... is given twice")
        overrides[key] = value
    if effort is not None:
        if "effort" in overrides:
            raise UsageError("give --effort or --set effort=..., not both")
        if method not in (None, BEST):
            raise UsageError(f"--effort is for the default method; {method} has options, see --set")
        overrides["effort"] = effort
    if file is not None:
        if any(option is not None for option in (method, bits, w_bits, a_bits, scope)):
            raise UsageError("--config holds the method, bits and scope; change single options of it with --set")
        return with_overrides(load_config(file), overrides)
    if bits is not None and w_bits is not None and a_bits is not None:
        raise UsageError("give --bits, or --w-bits and --a-bits, not all three")
    both = default_bits if bits is None else bits
    return config_for(
        method,
        both if w_bits is None else w_bits,
        both if a_bits is None else a_bits,
        scope or "full",
        overrides,
    )


def split_word(word: str) -> tuple[str, str]:
    """'key=value' as its two parts."""
    key, sign, value = word.partition("=")
    if not sign or not key:
        raise UsageError(f"--set takes key=value, got {word!r}")
    return key, value
