"""Slices and concatenations without copies: values that are some of the channels of another, in its memory."""

from __future__ import annotations

from bitsr.engine.groups import Group, crossing
from bitsr.engine.ops import Op, Value


def share_planes(groups: list[Group]) -> list[Group]:
    """The groups without ops that only move channels, as far as values can be made where they are wanted.

    What is concatenated is written into the result at once, a slice of a tile is read where it lies.
    """
    shared = crossing(groups)
    return [group for group in (_without_moves(group, shared) for group in groups) if group.ops]


def _without_moves(group: Group, shared: set[Value]) -> Group:
    ops: list[Op] = []
    for op in group.ops:
        made = op.output
        if op.kind == "concat":
            assert made is not None
            ops += _join(op.inputs, made, group, shared)
        elif op.kind == "copy" and not op.elsewhere and made not in shared and op.inputs[0] not in shared:
            assert made is not None
            made.part_of = op.inputs[0], op.parameters[0]
        else:
            ops.append(op)
    return Group(group.domain, ops)


def _join(inputs: tuple[Value, ...], made: Value, group: Group, shared: set[Value]) -> list[Op]:
    """Make ``inputs`` parts of ``made``; the ops that copy those which cannot be."""
    copies, start = [], 0
    for x in inputs:
        # tiles of windows are copied to maps and are none
        reachable = x in shared or group.domain.kind == "rows" if made in shared else x not in shared
        if reachable and x.part_of is None and x.root is not made.root:
            x.part_of = made, start
            made.border = max(made.border, x.border)
        else:
            place = Value(f"{x.name} in {made.name}", "f32", x.channels, *made.size, part_of=(made, start))
            copies.append(Op("copy", (x,), place, (0, 0, x.channels)))
        start += x.channels
    return copies
