"""Steps <-> JSON, strictly: a closed list of types, each field of exactly its type, nothing missing, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError
from bitsr.program.shapes import BadProgram
from bitsr.program.steps import STEPS, Step

R = TypeVar("R")
Json = Any
_LARGEST = 2**53  # whole numbers beyond are not the same in every JSON reader


def step_to_json(step: Step) -> Json:
    """{"step": kind, field: value, ...}; fields at their default are left out."""
    return {"step": type(step).__name__} | _to_json(step)


def step_from_json(value: Json) -> Step:
    """Inverse of :func:`step_to_json`; raises `BadProgram`."""
    if not isinstance(value, dict) or not isinstance(value.get("step"), str):
        raise BadProgram(f"a step must be an object with a kind, got {_short(value)}")
    kind = STEPS.get(value["step"])
    if kind is None:
        raise BadProgram(f"unknown step {_short(value['step'])}; a newer bitsr may know it")
    return record(kind, {name: x for name, x in value.items() if name != "step"})


def descriptor_from_json(value: Json) -> Descriptor:
    """Inverse of `Descriptor.to_dict`; raises `BadProgram`."""
    try:
        return record(Descriptor, value)
    except ConfigError as error:
        raise BadProgram(str(error)) from None


def record(cls: type[R], value: Json) -> R:
    """The dataclass ``cls`` from a JSON object; raises `BadProgram` where a field is missing, unknown or mistyped."""
    if not isinstance(value, dict):
        raise BadProgram(f"{cls.__name__}: expected an object, got {_short(value)}")
    hints, known = _hints(cls), _fields(cls)
    if unknown := sorted(set(value) - set(known)):
        raise BadProgram(f"{cls.__name__}: unknown field {_short(unknown[0])}")
    if missing := [name for name, field in known.items() if field.default is MISSING and name not in value]:
        raise BadProgram(f"{cls.__name__}: missing field {missing[0]!r}")
    return cls(**{name: _from_json(hints[name], x, f"{cls.__name__}.{name}") for name, x in value.items()})


_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def _fields(cls: Any) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(cls)}


def _to_json(value: Any) -> Json:
    if is_dataclass(value):
        content = {name: (getattr(value, name), field.default) for name, field in _fields(type(value)).items()}
        return {name: _to_json(x) for name, (x, default) in content.items() if default is MISSING or x != default}
    return [_to_json(x) for x in value] if isinstance(value, tuple) else value


def _from_json(kind: Any, value: Json, where: str) -> Any:
    """``value`` as the annotated type ``kind``."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _one_of(get_args(kind), value, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list", value)
        return tuple(_from_json(get_args(kind)[0], x, where) for x in value)
    if origin is Literal:
        _expect(value in get_args(kind), where, f"one of {', '.join(get_args(kind))}", value)
        return value
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return record(kind, value)
    if kind is NoneType:
        _expect(value is None, where, "null", value)
        return None
    if kind is float:
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST
        _expect(whole or (isinstance(value, float) and math.isfinite(value)), where, "a finite number", value)
        return float(value)
    if kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        _expect(whole and abs(value) <= _LARGEST, where, "a whole number", value)
        return value
    if kind is bool:
        _expect(isinstance(value, bool), where, "true or false", value)
        return value
    assert kind is str, kind
    _expect(isinstance(value, str), where, "a string", value)
    return value


def _one_of(kinds: tuple[Any, ...], value: Json, where: str) -> Any:
    """The member of a union that the JSON type tells: an object is a record, a list a tuple."""
    fitting = [kind for kind in kinds if _json_type(kind) is (float if isinstance(value, int) else type(value))]
    _expect(len(fitting) == 1 and not isinstance(value, bool), where, "another type", value)
    return _from_json(fitting[0], value, where)


def _json_type(kind: Any) -> type:
    if is_dataclass(kind):
        return dict
    return list if get_origin(kind) is tuple else kind


def _expect(condition: bool, where: str, what: str, value: Json) -> None:
    if not condition:
        raise BadProgram(f"{where}: expected {what}, got {_short(value)}")


def _short(value: Json) -> str:
    """A bounded, printable glimpse of what was found; never the value itself, which may be huge."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a huge number"
    return ascii(value)[:60]
