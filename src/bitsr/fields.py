"""Frozen dataclasses from plain values, as YAML and JSON hold them: a closed list of fields with checked types."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from bitsr.errors import ConfigError

T = TypeVar("T")


def from_values(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """A ``kind`` from the fields that are given; ``what`` names it in errors.

    Fields are bool, int, float, str, dict, Literal, tuples (given as lists), other dataclasses (given as mappings),
    or one of these and None.  A float may be an integer or, as YAML reads 1e-3, a word.

    Raises `ConfigError` for an unknown field and for a value of another type.
    """
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise ConfigError(f"{what} has no field {key!r}; it has {', '.join(hints)}")
    given = {key: _convert(value, hints[key], f"{what}: {key}") for key, value in values.items()}
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in given]:
        raise ConfigError(f"{what} needs {', '.join(missing)}")
    return kind(**given)


def _convert(value: Any, hint: Any, what: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(value, inner, what)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{what} is one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{what} is a list, got {value!r}")
        return tuple(_convert(item, arguments[0], what) for item in value)
    if origin is dict:
        hint = dict
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{what} is a mapping of field: value, got {value!r}")
        return from_values(hint, value, what)
    if hint is float:
        try:
            return float(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ConfigError(f"{what} is a number, got {value!r}") from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{what} is {'a mapping' if hint is dict else hint.__name__}, got {value!r}")
    return value
