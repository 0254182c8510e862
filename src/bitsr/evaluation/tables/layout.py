"""Which rows stand together: a section for each network and scale, a line for each method, precision and source."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from bitsr.evaluation.tables.row import FULL_PRECISION, Row


@dataclass
class Line:
    """A method at one precision: its cell on each set.  ``sources`` are the files or papers that agree on them."""

    sources: list[str]
    cells: dict[str, Row] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        """One of the cells, for what all of them share."""
        return next(iter(self.cells.values()))

    @property
    def name(self) -> str:
        seed = f"seed {self.row.seed}" if self.row.seed not in ("", "0") else ""
        parts = [self.row.method or self.row.network, self.row.setting, seed]
        return ", ".join(part for part in parts if part)

    def agrees(self, other: Line) -> bool:
        """Whether both have the same figures wherever they have the same sets, of which there must be one."""
        common = self.cells.keys() & other.cells.keys()
        return bool(common) and all(
            (self.cells[k].psnr_y, self.cells[k].ssim_y) == (other.cells[k].psnr_y, other.cells[k].ssim_y)
            for k in common
        )

    def take(self, other: Line) -> None:
        """Become one line with another that agrees; doubts about either paper's cell stay."""
        self.sources += [source for source in other.sources if source not in self.sources]
        for name, cell in other.cells.items():
            mine = self.cells.setdefault(name, cell)
            doubts = dict.fromkeys(mine.doubts + cell.doubts)
            self.cells[name] = replace(mine, doubts=tuple(doubts))


@dataclass(frozen=True)
class Section:
    """All lines of one network at one scale; ``datasets`` are the columns."""

    network: str
    scale: int | None
    datasets: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        return f"{self.network} x{self.scale}" if self.scale else self.network

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why cells of this section are doubted, each reason once."""
        cells = (line.cells[name] for line in self.lines for name in self.datasets if name in line.cells)
        return tuple(dict.fromkeys(doubt.reason for cell in cells for doubt in cell.doubts))


def join(results: Sequence[Row], published: Iterable[Row]) -> list[Row]:
    """The results, and what papers print for the same network, scale, set and bits, or in full precision there.

    A network is the same if its name is: weights trained by others, or for longer, are for the reader to weigh.
    """
    precisions: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for row in results:
        precisions[*row.key, row.dataset].add(row.precision)
    rows = list(dict.fromkeys(results))
    for row in published:
        wanted = precisions.get((*row.key, row.dataset), set())
        if row not in rows and (row.precision in wanted or (wanted and row.method == FULL_PRECISION)):
            rows.append(row)
    return rows


def sections(rows: Iterable[Row]) -> list[Section]:
    """Full precision first, then by bits; within a precision the smallest loss on the first set comes first."""
    networks: dict[tuple[str, int | None], list[Row]] = defaultdict(list)
    for row in rows:
        networks[row.key].append(row)
    return [section(own) for own in networks.values()]


def section(rows: Sequence[Row]) -> Section:
    datasets = tuple(dict.fromkeys(row.dataset for row in rows))
    merged: list[Line] = []
    for line in lines_of(rows):
        twins = (known for known in merged if identity(known.row) == identity(line.row) and known.agrees(line))
        if twin := next(twins, None):
            twin.take(line)
        else:
            merged.append(line)
    name = next((row.network for row in rows if row.published), rows[0].network)
    return Section(name, rows[0].scale, datasets, tuple(sorted(merged, key=lambda line: rank(line, datasets))))


def lines_of(rows: Iterable[Row]) -> list[Line]:
    """The lines of each source; a second figure for the same cell begins another line."""
    lines: list[Line] = []
    open_lines: dict[tuple[object, ...], Line] = {}
    for row in rows:
        key = (row.source, *identity(row))
        if key not in open_lines or row.dataset in open_lines[key].cells:
            open_lines[key] = Line([row.source])
            lines.append(open_lines[key])
        open_lines[key].cells[row.dataset] = row
    return lines


def identity(row: Row) -> tuple[object, ...]:
    """What makes two cells of one source the same line."""
    return row.published, row.method, row.setting, row.seed, row.evaluated, row.precision


def rank(line: Line, datasets: Sequence[str]) -> tuple[object, ...]:
    gap = next((cell.gap for name in datasets if (cell := line.cells.get(name)) and cell.gap is not None), -math.inf)
    weights, activations = line.row.bits
    return line.row.method != FULL_PRECISION, -weights, -activations, -gap


def doubts_of(cell: Row, reasons: Sequence[str]) -> str:
    """The letters of a cell's doubts, as a legend of ``reasons`` numbers them: 'a', 'a c'."""
    return " ".join(sorted({letter(reasons.index(doubt.reason)) for doubt in cell.doubts}))


def letter(number: int) -> str:
    """0 -> 'a', 25 -> 'z', 26 -> 'aa'."""
    return chr(ord("a") + number % 26) * (number // 26 + 1)
