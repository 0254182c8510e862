"""`bitsr COMMAND`: the table of commands, and what their errors look like.

Exit code 0: done; 1: failed, with one line `error: ...` on stderr; 2: bad usage; 130: interrupted.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Sequence

import tyro

from bitsr.cli.analyze import analyze
from bitsr.cli.bench import bench
from bitsr.cli.compress import compress
from bitsr.cli.console import UsageError, complain
from bitsr.cli.data import data
from bitsr.cli.demo import demo
from bitsr.cli.eval import evaluate
from bitsr.cli.export import export
from bitsr.cli.info import info
from bitsr.cli.table import table
from bitsr.cli.train import train
from bitsr.cli.upscale import upscale
from bitsr.errors import BitsrError
from bitsr.runtime.tiles import is_out_of_memory

COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "info": info,
    "compress": compress,
    "eval": evaluate,
    "upscale": upscale,
    "bench": bench,
    "train": train,
    "export": export,
    "data": data,
    "analyze": analyze,
    "table": table,
}
REPEATABLE = ("--set",)
OUTPUT = ("-o", "--output", "--out")  # one option

DESCRIPTION = """Compress image super-resolution networks to few bits and run the packed result.

Every command takes --debug, which shows the traceback of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, but leaves with `SystemExit` (2, or 0 for --help) where tyro does."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what it cannot encode
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    try:
        refuse_repeated(words)
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="bitsr",
            description=DESCRIPTION,
            args=[word for word in words if word != "--debug"],
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff, tyro.conf.DisallowNone),
        )
    except UsageError as error:
        complain(error)
        return 2
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (BitsrError, OSError, MemoryError) as error:
        if debug:
            raise
        complain(error)
        return 1
    except RuntimeError as error:  # torch's way to say that memory ran out
        if debug or not is_out_of_memory(error):
            raise
        complain(f"memory does not suffice ({str(error).splitlines()[0]})")
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def refuse_repeated(words: Sequence[str]) -> None:
    """tyro would take the last of several without a word."""
    names = [m[0] for word in words if (m := re.match("--?[a-zA-Z][^=]*", word)) and word != "--debug"]
    names = [OUTPUT[1] if name in OUTPUT else name for name in names]
    for name in dict.fromkeys(names):
        if names.count(name) > 1 and name not in REPEATABLE:
            raise UsageError(f"{name} is given {names.count(name)} times: once, please, and several values with commas")
