"""`bitsr bench`: time and memory of models, beside other runtimes on the same networks."""

from __future__ import annotations

import json as json_module
import re
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from bitsr.cli.console import Flag, UsageError, counting, emit_json, option, print_table
from bitsr.cli.models import need_file
from bitsr.data.files import check_output, write_atomically

PREFERRED = "native"  # backends are timed by default whose names begin so


def bench(
    files: Annotated[Positional[tuple[Path, ...]], option("FILE...")],
    /,
    *,
    size: Annotated[str, option("WxH")] = "128x128",
    threads: Annotated[int, option("N")] = 1,
    against: Annotated[str | None, option("NAME[,NAME...]")] = None,
    backends: Annotated[str | None, option("NAME[,NAME...]")] = None,
    rounds: Annotated[int, option("N")] = 11,
    json: Flag = False,
    output: Annotated[Path | None, option("DIR", "-o")] = None,
) -> int:
    """Time models on this computer, in turns with other runtimes that get the same networks in floating point.

    Files of one network, such as a checkpoint and what was packed from it, are timed in the same run.

    Args:
        files: packed files and checkpoints
        size: width and height of the picture, in LR pixels
        threads: CPU threads, for every runtime
        against: eager, compile, onnxruntime, openvino; none for no other runtime (default: those that are installed)
        backends: what runs the models (default: native, native-bf16)
        rounds: how many turns each one has
        json: print one JSON object
        output: folder for bench.json and bench.png
    """
    if not files:
        raise UsageError("bench needs at least one FILE")
    for name, value in (("threads", threads), ("rounds", rounds)):
        if value < 1:
            raise UsageError(f"--{name} {value}: at least 1")
    width, height = parse_size(size)
    if output is not None:
        check_output(output, folder=True)
    from bitsr.bench.machine import machine
    from bitsr.bench.peers import choose
    from bitsr.bench.run import bench as measure

    peers = choose(None if against is None else [] if against == "none" else against.split(","))
    with counting("measuring") as advance:
        report = measure(
            [need_file(file) for file in files], height, width, threads=threads, rounds=rounds,
            backends=choose_backends(backends), peers=peers, on_step=advance,
        )  # fmt: skip
    content = {"results": report.results, "skipped": report.skipped, "machine": machine()}
    if output is not None:
        write_report(content, output)
    if json:
        emit_json(content)
        return 0
    show(content)
    if output is not None:
        print(f"written: {output / 'bench.json'}, {output / 'bench.png'}")
    return 0


def parse_size(word: str) -> tuple[int, int]:
    """(width, height) of '128x96'."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", word)
    if not found:
        raise UsageError(f"--size {word}: takes a width and a height, as in 128x96")
    return int(found[1]), int(found[2])


def choose_backends(words: str | None) -> list[str]:
    """The named backends; raises `UsageError` for a name that there is none of."""
    from bitsr.runtime.backends import MAKERS

    names = [name for name in MAKERS if name.startswith(PREFERRED)] if words is None else words.split(",")
    for name in names:
        if name not in MAKERS:
            raise UsageError(f"--backends {name}: use some of {', '.join(MAKERS)}")
    return names


def write_report(content: dict[str, Any], folder: Path) -> None:
    """bench.json and bench.png."""
    from bitsr.bench.picture import write_picture

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "bench.json", (json_module.dumps(content, indent=2) + "\n").encode())
    where = content["machine"]
    write_picture(content["results"], f"{where['cpu']}, {where['isa'] or 'no native engine'}", folder / "bench.png")


def show(content: dict[str, Any]) -> None:
    """The results as a table, and what is missing from it."""
    columns = ("model", "backend", "ms", "quartiles", "CPU ms", "MiB", "x eager", "x best peer", "dB to fp32")
    print_table(columns, [cells(row) for row in content["results"]])
    for entry in content["skipped"]:
        print(f"skipped: {entry['backend']} of {entry['model']}: {entry['reason']}")


def cells(row: dict[str, Any]) -> list[str]:
    """One row of the table; what was not measured is left empty."""

    def number(key: str, digits: int) -> str:
        return "" if row[key] is None else f"{row[key]:.{digits}f}"

    return [
        Path(row["model"]).name, row["backend"], number("median_ms", 1),
        f"{number('q1_ms', 1)}-{number('q3_ms', 1)}", number("cpu_ms", 1), number("peak_rss_mib", 0),
        number("ratio_vs_eager", 2), number("ratio_vs_best_peer", 2), number("agreement_db", 1),
    ]  # fmt: skip
