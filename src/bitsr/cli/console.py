"""What commands say and where: results on stdout, progress and errors on stderr, progress on terminals only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from tyro.conf import arg

COUNTED = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
WIDTH_OF_FILES = 200  # columns where stdout is no terminal: nothing wraps in a log


def option(metavar: str | None = None, *aliases: str, name: str | None = None) -> Any:
    """How an option is shown and called; its help tells the default, unless leaving it out or a flag says it all."""
    return arg(
        name=name,
        metavar=metavar,
        aliases=aliases or None,
        help_behavior_hint=lambda default: "" if default in ("", "None", "False") else f"(default: {default})",
    )


Flag = Annotated[bool, option()]


class UsageError(Exception):
    """Options that are fine one by one, but not together; exit code 2."""


def complain(error: BaseException | str) -> None:
    """One line `error: ...` on stderr."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    print(f"error: {text}", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """One line `warning: ...` on stderr; the command goes on."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def emit_json(content: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(content, allow_nan=False), flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table on stdout; the first column is left-aligned, the others right-aligned."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table) if console.is_terminal else _plain(table)


def _plain(table: Table) -> None:
    console = Console(markup=False, emoji=False, highlight=False, width=WIDTH_OF_FILES)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on the terminal while something of unknown length runs."""
    with _progress(TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
        progress.add_task(what, total=None)
        yield


@contextmanager
def counting(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar on the terminal; call what it gives with (done, of how many[, a new label])."""
    with _progress(*COUNTED) as progress:
        task = progress.add_task(what, total=None)

        def advance(done: int, total: int, label: str = what) -> None:
            progress.update(task, completed=done, total=total, description=label)

        yield advance


def _progress(*columns: Any) -> Progress:
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(), *columns, console=console, transient=True, disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # lines for a file or a pipe go there
    )  # fmt: skip


def human_bytes(count: int) -> str:
    """1234567 -> '1.18 MiB'."""
    if count < 1024:
        return f"{count} B"
    value, unit = count / 1024, "KiB"
    if value >= 1024:
        value, unit = value / 1024, "MiB"
    return f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}"
