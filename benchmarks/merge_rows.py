"""Puts rows that were measured again in the place of the old ones, and adds those that are new.

python benchmarks/merge_rows.py results/ptq.csv NEW.csv ...

Two rows are of the same thing where all columns are equal that say what was measured (`KEYS`); a table of which several
rows are so is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rows import Table

KEYS = (
    "model", "method", "w_bits", "a_bits", "scope", "options", "seed", "steps", "batch", "crop", "lr", "dataset",
    "backend", "file", "threads", "size", "cpu",
)  # fmt: skip


def main() -> None:
    target, *sources = map(Path, sys.argv[1:])
    old = Table(target, ())
    merged = {tuple(row.get(key, "") for key in KEYS): row for row in old.rows}
    if len(merged) < len(old.rows):
        raise SystemExit(f"{target} has several rows of the same thing, by the columns {', '.join(KEYS)}")
    columns = list(old.columns)
    for source in sources:
        new = Table(source, ())
        columns += [column for column in new.columns if column not in columns]
        merged |= {tuple(row.get(key, "") for key in KEYS): row for row in new.rows}
    fresh = target.with_name(target.name + ".new")
    fresh.unlink(missing_ok=True)
    table = Table(fresh, columns)
    for row in merged.values():
        table.add(**row)
    fresh.replace(target)
    print(f"{target}: {len(old.rows)} rows, now {len(merged)}")


if __name__ == "__main__":
    main()
