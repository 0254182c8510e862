"""Published figures that cannot be right as they stand, or are suspicious: comparisons within one paper.

Each rule looks at a row and at the column of its table: the rows of the same paper, scale and set.  It tells what is
wrong, with numbers, or nothing.  What no rule can see stands in the data, as ``doubt``.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from bitsr.data.catalogue import SETS
from bitsr.evaluation.tables.row import FULL_PRECISION, Doubt, Row

GENERATIVE = ("SinSR", "ResShift")  # they invent detail, which costs PSNR: a worse copy may well have a higher one
FIRST_STAGE = {"2DQuant": "DOBI"}  # methods that start from another method's result and only improve it
BICUBIC, BICUBIC_TOLERANCE = "Bicubic", 0.1  # dB; papers differ by 0.03 in how they treat grey pictures
ROUNDED_CELLS = 8  # by chance, each PSNR is a multiple of 0.05 dB with probability 1/5

Rule = Callable[[Row, Sequence[Row]], str]


def judge(rows: Iterable[Row]) -> list[Row]:
    """The same rows, published ones with all their doubts."""
    rows = list(rows)
    columns: dict[tuple[str, int | None, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.published:
            columns[row.source, row.scale, row.dataset].append(row)
    round_numbers, copies = rounded(rows), copied(rows)
    judged = []
    for row in rows:
        if row.published:
            doubts = [
                Doubt(reason, detail)
                for reason, rule in RULES.items()
                if (detail := rule(row, columns[row.source, row.scale, row.dataset]))
            ]
            if method_of(row) in round_numbers:
                doubts.append(Doubt("all PSNRs of this method are multiples of 0.05 dB"))
            if other := copies.get(row):
                doubts.append(Doubt("equal to another row, digit for digit", other))
            row = replace(row, doubts=(*row.doubts, *doubts))
        judged.append(row)
    return judged


def above_full_precision(row: Row, column: Sequence[Row]) -> str:
    """A compressed network that beats the network it was made from."""
    if row.method in (FULL_PRECISION, BICUBIC) or row.network in GENERATIVE:
        return ""
    return "; ".join(text for full in column if same(row, full, FULL_PRECISION) for text in higher(row, full))


def fewer_bits_better(row: Row, column: Sequence[Row]) -> str:
    """The same method with fewer bits has the higher figure: one of the two is wrong, and both are marked."""
    texts = []
    for other in column:
        if same(row, other, row.method) and row.table == other.table and row.bits != other.bits:
            if all(mine <= its for mine, its in zip(row.bits, other.bits, strict=True)):
                texts += [f"{text} at {other.precision}" for text in higher(row, other)]
            elif all(mine >= its for mine, its in zip(row.bits, other.bits, strict=True)):
                texts += [f"{text} at {other.precision}" for text in lower(row, other)]
    return "; ".join(texts)


def below_first_stage(row: Row, column: Sequence[Row]) -> str:
    """A method ends below the stage that it starts from."""
    stage = FIRST_STAGE.get(row.method)
    starts = [r for r in column if same(row, r, stage) and (r.table, r.precision) == (row.table, row.precision)]
    return "; ".join(f"{text} of {stage}" for start in starts for text in lower(row, start))


def not_its_best(row: Row, column: Sequence[Row]) -> str:
    """The paper's own method, which it presents as the best, is not."""
    if row.method != row.source:
        return ""
    rivals = [r for r in column if (r.key, r.table, r.precision) == (row.key, row.table, row.precision)]
    return "; ".join(f"{text} of {rival.method}" for rival in rivals for text in lower(row, rival))


def other_bicubic(row: Row, column: Sequence[Row]) -> str:
    """The row called bicubic is not MATLAB's, which everybody else prints."""
    known = SETS.get(row.dataset)
    exact = known.bicubic.get(row.scale) if known and row.scale else None
    if row.method != BICUBIC or exact is None or row.psnr_y is None:
        return ""
    return f"{row.psnr_y:.2f} dB where it gives {exact:.2f}" if abs(row.psnr_y - exact) > BICUBIC_TOLERANCE else ""


RULES: dict[str, Rule] = {
    "above full precision": above_full_precision,
    "fewer bits are better": fewer_bits_better,
    "below the method's own first stage": below_first_stage,
    "the paper's own method, but not its best row": not_its_best,
    "not MATLAB's bicubic": other_bicubic,
}


def same(row: Row, other: Row, method: str | None) -> bool:
    return other.key == row.key and other.method == method


def higher(row: Row, other: Row) -> Iterator[str]:
    """In which of PSNR and SSIM ``row`` is above ``other``."""
    return _compare(row, other, "above", operator.gt)


def lower(row: Row, other: Row) -> Iterator[str]:
    """In which of PSNR and SSIM ``row`` is below ``other``."""
    return _compare(row, other, "below", operator.lt)


def _compare(row: Row, other: Row, word: str, compare: Callable[[float, float], bool]) -> Iterator[str]:
    if row.psnr_y is not None and other.psnr_y is not None and compare(row.psnr_y, other.psnr_y):
        yield f"{row.psnr_y:.2f} dB {word} {other.psnr_y:.2f}"
    if row.ssim_y is not None and other.ssim_y is not None and compare(row.ssim_y, other.ssim_y):
        yield f"SSIM {row.ssim_y:.4f} {word} {other.ssim_y:.4f}"


def method_of(row: Row) -> tuple[object, ...]:
    """The rows of one method in one table of a paper for one network."""
    return row.source, row.table, row.key[0], row.method


def rounded(rows: Sequence[Row]) -> set[tuple[object, ...]]:
    """Methods with at least ``ROUNDED_CELLS`` PSNRs, all of them multiples of 0.05 dB."""
    cells: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row in rows:
        if row.published and row.psnr_y is not None:
            cells[method_of(row)].append(round(row.psnr_y * 100))
    return {key for key, values in cells.items() if len(values) >= ROUNDED_CELLS and not any(v % 5 for v in values)}


def copied(rows: Sequence[Row]) -> dict[Row, str]:
    """Cells that equal, in PSNR and SSIM, those of another method or network of the same table on two sets or more."""
    cells: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.published and row.method != BICUBIC and row.psnr_y is not None and row.ssim_y is not None:
            cells[row.source, row.table, row.scale, row.dataset, row.psnr_y, row.ssim_y].append(row)
    pairs: dict[tuple[object, ...], list[tuple[Row, Row]]] = defaultdict(list)
    for equal in cells.values():
        for row in equal:
            for other in equal:
                if method_of(row) != method_of(other):
                    pairs[*method_of(row), row.scale, *method_of(other)].append((row, other))
    return {
        row: f"{other.method} on {other.network}" for found in pairs.values() if len(found) > 1 for row, other in found
    }
