"""`bitsr table`: results beside what papers print, as text, CSV, Markdown and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from bitsr.cli.console import Flag, UsageError, emit_json, option, print_table
from bitsr.data.files import check_output
from bitsr.evaluation.tables.files import records, write_tables
from bitsr.evaluation.tables.layout import Section, join, sections
from bitsr.evaluation.tables.markdown import cells, footnotes, headings
from bitsr.evaluation.tables.plausible import judge
from bitsr.evaluation.tables.read import PUBLISHED, read_published, read_results
from bitsr.evaluation.tables.row import Row
from bitsr.evaluation.tables.seeds import mean_over_seeds


def table(
    results: Annotated[Positional[tuple[Path, ...]], option("RESULTS...")],
    /,
    *,
    published: Annotated[str | None, option("DIR|FILE")] = None,
    output: Annotated[Path | None, option("DIR", "-o")] = None,
    json: Flag = False,
) -> int:
    """Show measured rows beside the rows that papers print for the same network, scale, bits and set.

    Published figures that cannot be right, or are suspicious, are marked with the reason.

    Args:
        results: CSV files with model or network, dataset, psnr_y, and whatever else is known of each row
        published: CSV files with a column paper; none for no such rows (default: the folder published beside RESULTS)
        output: folder for table.csv, table.md and table.html
        json: print one JSON object
    """
    if not results:
        raise UsageError("table needs at least one file of RESULTS")
    if output is not None:
        check_output(output, folder=True)
    measured = mean_over_seeds(read_results(results))
    found = sections(join(judge(measured), judge(published_rows(published, results[0]))))
    written = [] if output is None else write_tables(found, output)
    if json:
        emit_json({"rows": records(found)})
        return 0
    for section in found:
        show(section)
    if written:
        print(f"written: {', '.join(map(str, written))}")
    return 0


def published_rows(choice: str | None, results: Path) -> list[Row]:
    """The rows that were asked for; without a choice those beside the results, if any."""
    if choice == "none":
        return []
    if choice is not None:
        return read_published(Path(choice))
    beside = results.parent / PUBLISHED
    return read_published(beside) if beside.is_dir() else []


def show(section: Section) -> None:
    """One table on stdout."""
    print_table(headings(section), cells(section), title=section.title)
    for note in footnotes(section):
        print(note)
    print()
