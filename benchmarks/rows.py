"""A table of results that grows row by row, so that a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


class Table:
    """The CSV file ``path``; one that exists keeps its rows and its columns."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.rows, self.columns = list(reader), list(reader.fieldnames or columns)

    def find(self, **values: object) -> dict[str, str] | None:
        """The first row with these values."""
        return next((row for row in self.rows if all(row[k] == str(v) for k, v in values.items())), None)

    def add(self, **row: object) -> None:
        """Write a row at once.  None and columns that it lacks stay empty; what has no column is left out."""
        new = not self.path.exists()
        self.rows.append({k: "" if row.get(k) is None else str(row[k]) for k in self.columns})
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(self.rows[-1])
