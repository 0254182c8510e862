"""From a method's name to its config, and from a config's type to its stages."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from bitsr.errors import ConfigError
from bitsr.fields import from_values
from bitsr.methods.ptq.config import (
    BRECQ,
    GPTQ,
    PAMS,
    AdaRound,
    Best,
    DBDCPac,
    Dobi,
    GranularDQ,
    HarmoQ,
    HarmoQLiteral,
    MinMax,
    Percentile,
    PTQConfig,
    QDrop,
    RepQ,
    SmoothQuant,
    SVDQuant,
    TwoDQuant,
)

METHODS: dict[str, type[PTQConfig]] = {
    "minmax": MinMax,
    "percentile": Percentile,
    "dobi": Dobi,
    "2dquant": TwoDQuant,
    "adaround": AdaRound,
    "brecq": BRECQ,
    "qdrop": QDrop,
    "gptq": GPTQ,
    "smoothquant": SmoothQuant,
    "repq": RepQ,
    "svdquant": SVDQuant,
    "pams": PAMS,
    "dbdc-pac": DBDCPac,
    "granular-dq": GranularDQ,
    "harmoq": HarmoQ,
    "harmoq-literal": HarmoQLiteral,
    "best": Best,
}
_HOMES = {  # files whose names differ
    "minmax": "simple",
    "percentile": "simple",
    "dobi": "simple",
    "2dquant": "twodquant",
    "dbdc-pac": "dbdc_pac",
    "granular-dq": "granular_dq",
    "harmoq-literal": "harmoq_literal",
}
BEST = "best"


def name_of(config: PTQConfig) -> str:
    for name, kind in METHODS.items():
        if type(config) is kind:
            return name
    known = ", ".join(kind.__name__ for kind in METHODS.values())
    raise ConfigError(f"unknown config {type(config).__name__}; known: {known}")


def parse(value: str, annotation: Any) -> Any:
    """A word of the command line as the type of a config's field."""
    if typing.get_origin(annotation) is typing.Literal:
        return value
    if typing.get_origin(annotation) is types.UnionType:  # one type, or none
        return None if value.lower() == "none" else parse(value, typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is dict:
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{value!r} is no mapping as YAML writes it") from None
    if annotation is bool:
        if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ConfigError(f"{value!r} is neither true nor false")
        return value.lower() in ("true", "1", "yes")
    try:
        return annotation(value)
    except ValueError:
        raise ConfigError(f"{value!r} is no {annotation.__name__}") from None


def config_for(
    method: str | None,
    w_bits: int | None = None,
    a_bits: int | None = None,
    scope: str = "full",
    overrides: dict[str, str] | None = None,
) -> PTQConfig:
    """The config of a method; None is the default, the best known one, and the method's own bits.  ``overrides`` are
    words as typed."""
    kind = METHODS.get(method or BEST)
    if kind is None:
        raise ConfigError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    bits = {key: value for key, value in (("w_bits", w_bits), ("a_bits", a_bits)) if value is not None}
    values = {**bits, "scope": scope} | parse_all(overrides or {}, kind, method or BEST)
    return from_values(kind, values, f"method {method or BEST}")


def parse_all(words: dict[str, str], kind: type[PTQConfig], method: str) -> dict[str, Any]:
    """The values of options as they are typed."""
    hints = typing.get_type_hints(kind)
    for key in words:
        if key not in hints:
            raise ConfigError(f"method {method} has no field {key!r}; it has {', '.join(hints)}")
    values = {}
    for key, word in words.items():
        try:
            values[key] = parse(word, hints[key])
        except ConfigError as error:
            raise ConfigError(f"method {method}: {key}: {error}") from None
    return values


def with_overrides(config: PTQConfig, words: dict[str, str]) -> PTQConfig:
    """``config`` with options as they are typed."""
    return config_from(dump_config(config) | parse_all(words, type(config), name_of(config)))


def dump_config(config: PTQConfig) -> dict[str, Any]:
    """Plain values that :func:`load_config` takes back."""
    return {"method": name_of(config), **dataclasses.asdict(config)}


def config_from(values: dict[str, Any]) -> PTQConfig:
    values = dict(values)
    method = values.pop("method", BEST)
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    return from_values(METHODS[method], values, f"method {method}")


def load_config(path: str | Path) -> PTQConfig:
    """A YAML or JSON file with ``method`` and its options."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a mapping of option: value")
    try:
        return config_from(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def stages_of(config: PTQConfig) -> list[Callable[..., None]]:
    """The method that a config's type stands for, as its list of stages.  Imports torch."""
    name = name_of(config)
    return list(import_module(f"bitsr.methods.ptq.{_HOMES.get(name, name)}").stages(config))
