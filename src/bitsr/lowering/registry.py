"""Which function lowers which kind of module.

A lowering is a function ``(module, builder, x) -> y``: it appends the steps of ``module`` to the builder, reading the
feature map named ``x``, and returns the name of the map that holds the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from bitsr.errors import UnsupportedLayer
from bitsr.parts.layers import QuantMatMul
from bitsr.parts.matmul import MatMul
from bitsr.parts.quantizer import AffineQuantizer, DecidedWeight

if TYPE_CHECKING:
    from bitsr.lowering.builder import Builder

Lowering = Callable[[Any, "Builder", str], str]

_LOWERINGS: dict[type[nn.Module], Lowering] = {}
# lowered with the module that holds them
_PARTS_OF_OTHERS = (MatMul, QuantMatMul, AffineQuantizer, DecidedWeight, nn.ModuleList, nn.ModuleDict)


def register_lowering(cls: type[nn.Module], function: Lowering) -> None:
    """Teach bitsr to lower modules of class ``cls``, a whole network or a part of one.

    ``function(module, builder, x)`` appends steps and returns the name of the feature map it leaves; parts are lowered
    with ``builder.apply(x, part)``.  The last registration of a class wins; a subclass with a ``forward`` of its own
    needs a registration of its own.  A class may instead define the method ``lower(self, builder, x)``.
    """
    _LOWERINGS[cls] = function


def find_lowering(module: nn.Module) -> Lowering | None:
    """The lowering of the module's class, its own ``lower`` method first; None where there is none."""
    own = getattr(type(module), "lower", None)
    if callable(own):
        return cast(Lowering, own)
    for cls in type(module).__mro__:
        if cls in _LOWERINGS:
            return _LOWERINGS[cls] if cls.forward is type(module).forward else None
    return None


def lower_module(module: nn.Module, builder: Builder, x: str) -> str:
    """Append the steps of ``module``; raises `UnsupportedLayer` where no lowering is known for it."""
    lowering = find_lowering(module)
    if lowering is None:
        raise UnsupportedLayer(_complaint(module, builder))
    return lowering(module, builder, x)


def _complaint(module: nn.Module, builder: Builder) -> str:
    kind, name = type(module).__name__, builder.name_of(module)
    mend = f"give {kind} a method lower(self, builder, x), or register a function by bitsr.lowering.register_lowering"
    for part in module.modules():
        if any(part.children()) or isinstance(part, _PARTS_OF_OTHERS) or find_lowering(part):
            continue
        if part is module:
            return f"layer {name} ({kind}) cannot be packed: bitsr has no lowering for it; {mend}"
        layer = f"{builder.name_of(part)} ({type(part).__name__})"
        return f"{name} ({kind}) has no lowering, and its layer {layer} is of a kind that cannot be packed; {mend}"
    inner = [part for part in module.modules() if any(part.children()) and not find_lowering(part)]
    innermost = next((p for p in reversed(inner) if not isinstance(p, _PARTS_OF_OTHERS)), module)
    if innermost is module:
        return f"{name} ({kind}) has no lowering, though each of its layers has one; {mend}"
    layer = f"{builder.name_of(innermost)} ({type(innermost).__name__})"
    return f"{name} ({kind}) has no lowering, nor has its part {layer}; {mend}"
