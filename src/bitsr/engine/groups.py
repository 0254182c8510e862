"""Which ops run together: a group is a list of ops that is executed tile by tile, so what it hands on stays in cache.

A group has a domain: the tiles that cover it.  Ops of single pixels join the group that makes what they read; an op
that reads a map around its pixel needs that map complete, hence written by an earlier group.  An attention takes the
ops of single pixels before it, whose results nobody else needs, into its own group of windows, unless that would only
make what is read there wider.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from bitsr.engine.ops import Graph, Op, Value

NARROWER = {"quantize", "to_bf16", "signs"}  # kinds whose results take less memory than what they read


@dataclass(frozen=True)
class Domain:
    """The native plan's group: its method and the arguments."""

    kind: Literal["rows", "windows", "channels"]
    numbers: tuple[int, ...]

    def tile_width(self, longest: int) -> int:
        """Words of a plane of a tile: whole vectors of 16; ``longest`` is that of a part of a row."""
        match self.kind:
            case "rows":
                width = min(self.numbers[1], longest)
            case "windows":
                width = self.numbers[2] ** 2
            case "channels":
                width = 0
        return -(-width // 16) * 16


@dataclass
class Group:
    domain: Domain
    ops: list[Op] = field(default_factory=list)


def partition(graph: Graph, scan_channels: int, fuse: bool = True) -> list[Group]:
    """The ops in groups, in the order of execution, with the ops that move values between maps and windows.  A scan
    works on ``scan_channels`` side by side.  Without ``fuse`` every op of the graph has a group of its own."""
    groups = _Partition(graph, scan_channels, fuse).groups
    if fuse:
        groups = _joined(groups)
    needed = crossing(groups)
    return [_staged(group, needed) if group.domain.kind == "windows" else group for group in groups]


def domain_of(op: Op, scan_channels: int) -> Domain:
    match op.kind:
        case "attention":
            _, window, shift = op.parameters[:3]
            return Domain("windows", (*op.size, window, shift))
        case "overlapping_attention":
            return Domain("windows", (*op.size, op.parameters[1], 0))
        case "global_pool":
            assert op.output is not None
            return Domain("channels", (op.output.channels,))
        case "moments":
            return Domain("rows", op.inputs[0].size)
        case "scan":
            return Domain("channels", (-(-op.inputs[0].channels // scan_channels),))
        case "sort_pixels":
            return Domain("channels", (1,))
    return Domain("rows", op.size)


def _fits_windows(op: Op) -> bool:
    """Ops that see one pixel of maps alone (the caller's pictures are none)."""
    return all(x.size == (1, 1) for x in op.elsewhere) and op.kind not in ("attention", "input", "output", "moments")


class _Partition:
    def __init__(self, graph: Graph, scan_channels: int, fuse: bool) -> None:
        self.groups: list[Group] = []
        self._made_in: dict[Value, int] = {}
        self._rows: dict[Domain, list[int]] = defaultdict(list)  # groups of rows or channels by domain, ascending
        claims = _claims(graph) if fuse else {}
        waiting = {op for ops in claims.values() for op in ops}
        for op in graph.ops:
            if op in waiting:
                continue
            domain = domain_of(op, scan_channels)
            if domain.kind == "windows" or not fuse:
                index = self._new(domain)
                for claimed in claims.get(op, ()):
                    self._put(claimed, index)
            else:
                index = self._place(op, domain)
            self._put(op, index)

    def _place(self, op: Op, domain: Domain) -> int:
        first = max((self._made_in[x] + (x in op.elsewhere) for x in op.inputs), default=0)
        if _fits_windows(op) and first < len(self.groups):
            made_in = self.groups[first].domain
            if made_in.kind == "windows" and made_in.numbers[:2] == op.size:
                return first
        same = self._rows[domain]
        position = bisect_left(same, first)
        if position == len(same) or (op.elsewhere and same[position] < len(self.groups) - 1):
            return self._new(domain)  # also where an old group would do: its result may not be needed for long
        return same[position]

    def _new(self, domain: Domain) -> int:
        index = len(self.groups)
        self.groups.append(Group(domain))
        if domain.kind != "windows":
            self._rows[domain].append(index)
        return index

    def _put(self, op: Op, index: int) -> None:
        self.groups[index].ops.append(op)
        if op.output is not None:
            self._made_in[op.output] = index


def _claims(graph: Graph) -> dict[Op, list[Op]]:
    """For each attention the ops, in order, that it takes into its group: their results are read there alone.  Where
    they begin with a narrower format, that is what is read instead."""
    order = {op: i for i, op in enumerate(graph.ops)}
    maker = {op.output: op for op in graph.ops if op.output is not None}
    readers: dict[Value, set[Op]] = defaultdict(set)
    for op in graph.ops:
        for x in op.inputs:
            readers[x].add(op)
    claims = {}
    for attention in (op for op in graph.ops if op.kind == "attention"):
        claimed, todo = {attention}, [attention]
        while todo:
            for x in todo.pop().inputs:
                op = maker[x]
                if op not in claimed and _fits_windows(op) and op.size == attention.size and readers[x] <= claimed:
                    claimed.add(op)
                    todo.append(op)
        first = {op for op in claimed if op.kind in NARROWER and not any(maker[x] in claimed for x in op.inputs)}
        claims[attention] = sorted(claimed - first - {attention}, key=order.__getitem__)
    return claims


def _joined(groups: list[Group]) -> list[Group]:
    """The groups without those of rows that work on one map for one group of windows alone: it takes their ops, each
    before its result is first read."""
    readers: dict[Value, set[int]] = defaultdict(set)
    makers = {op.output: i for i, group in enumerate(groups) for op in group.ops}
    for i, group in enumerate(groups):
        for op in group.ops:
            for x in op.inputs:
                readers[x].add(i)
    for i, group in enumerate(groups):
        size = group.domain.numbers[:2]
        fit = all(_fits_windows(op) and op.size == size and op.kind not in NARROWER for op in group.ops)
        read = {x for op in group.ops for x in op.inputs if makers[x] != i and x not in op.elsewhere}
        later = set[int]().union(*(readers[op.output] for op in group.ops if op.output is not None)) - {i}
        if group.domain.kind != "rows" or not fit or len(read) != 1 or len(later) != 1:
            continue
        into = groups[later.pop()]
        if into.domain.kind == "windows" and into.domain.numbers[:2] == size:
            for op in reversed(group.ops):
                place = next(n for n, reader in enumerate(into.ops) if op.output in reader.inputs)
                into.ops.insert(place, op)
            group.ops.clear()
    return [group for group in groups if group.ops]


def crossing(groups: list[Group]) -> set[Value]:
    """Values that several groups use."""
    first: dict[Value, int] = {}
    uses = ((v.root, i) for i, group in enumerate(groups) for op in group.ops for v in op.touched)
    return {root for root, i in uses if first.setdefault(root, i) < i}


def _staged(group: Group, needed: set[Value]) -> Group:
    """A group of windows in which ops work on copies: "gather" before the first use of a map, "scatter" after a value
    of ``needed`` is made."""
    here: dict[Value, Value] = {}
    ops = []

    def copy_of(x: Value) -> Value:
        here[x] = Value(f"{x.name} in windows", x.format, x.channels, x.height, x.width)
        return here[x]

    for op in group.ops:
        for x in dict.fromkeys(op.inputs):
            if x not in here and x not in op.elsewhere:
                ops.append(Op("gather", (x,), copy_of(x)))
        assert op.output is not None
        local = copy_of(op.output) if op.output in needed else here.setdefault(op.output, op.output)
        inputs = tuple(x if x in op.elsewhere else here[x] for x in op.inputs)
        ops.append(Op(op.kind, inputs, local, op.parameters, op.elsewhere))
        if local is not op.output:
            ops.append(Op("scatter", (local,), op.output))
    return Group(group.domain, ops)


def with_borders(groups: list[Group]) -> list[Group]:
    """The groups with ops that fill borders: where a map is made, or in a group of rows after one of another kind."""
    result = []
    for group in groups:
        ops: list[Op] = []
        later: dict[tuple[int, int], list[Op]] = defaultdict(list)
        for op in group.ops:
            ops.append(op)
            if op.output is not None and op.output.root.border:
                fill = Op("fill_border", (op.output,), None)
                (ops if group.domain.kind == "rows" else later[op.size]).append(fill)
        result.append(Group(group.domain, ops))
        result += [Group(Domain("rows", size), fills) for size, fills in later.items()]
    return result
