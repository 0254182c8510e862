"""Files of results, as the benchmarks and the papers' tables have them: CSV with some of the columns below.

Needed are a network, a set and its PSNR: ``model`` or ``network``, ``dataset``, ``psnr_y``.  A file with a column
``paper`` holds published rows; the gaps of a paper are relative to its own full-precision rows.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bitsr.data.catalogue import ALIASES
from bitsr.errors import ResultsError
from bitsr.evaluation.tables.row import FULL_PRECISION, Doubt, Row

NEEDED = (("model", "network"), ("dataset",), ("psnr_y",))
IN_FULL_PRECISION = ("fp", "checkpoint", FULL_PRECISION)
PUBLISHED = "published"  # the customary folder of published rows, beside the files of results

Line = Mapping[str, str]
Number = TypeVar("Number", int, float)


def read_results(paths: Iterable[Path]) -> list[Row]:
    """The rows of several files, measured or published.

    Raises:
        ResultsError: a file has no rows, lacks a column that is needed, or has text where a number belongs.
    """
    return [row for path in paths for row in read_file(path)]


def read_published(path: Path) -> list[Row]:
    """The rows of one file, or of all CSV files right in a folder.

    Raises:
        ResultsError: as above, or a file or folder without published rows.
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    rows = read_results(files)
    if not rows or not all(row.published for row in rows):
        raise ResultsError(f"{path}: no published rows; they have a column 'paper'")
    return rows


def read_file(path: Path) -> list[Row]:
    """The rows of one file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            lines = [(reader.line_num, {k: (v or "").strip() for k, v in line.items() if k}) for line in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: not a CSV file of results ({error})") from error
    if missing := [" or ".join(names) for names in NEEDED if not set(names) & set(columns)]:
        raise ResultsError(f"{path}: has no column {', '.join(missing)}; a table needs network, dataset and psnr_y")
    make = published_row if "paper" in columns else measured_row
    rows = []
    for number, line in lines:
        try:
            row = make(line, path.stem)
        except ValueError as error:
            raise ResultsError(f"{path}, line {number}: {error}") from None
        if row.psnr_y is not None or row.ssim_y is not None:
            rows.append(row)
    if not rows:
        raise ResultsError(f"{path}: has no rows with a PSNR")
    return with_references(rows) if "paper" in columns else rows


def measured_row(line: Line, source: str) -> Row:
    network, scale = split_scale(line.get("model") or line.get("network", ""), line.get("scale", ""))
    w_bits, a_bits = bits_of(line)
    psnr, gap = number(line, float, "psnr_y"), number(line, float, "gap", "gap_db")
    reference = number(line, float, "fp_psnr_y")
    if reference is None and psnr is not None and gap is not None:
        reference = psnr - gap
    method = measured_method(line.get("method", ""), psnr, reference)
    evaluated = line.get("evaluated") or line.get("backend", "")
    return Row(
        network=network,
        scale=scale,
        method=method,
        w_bits=w_bits,
        a_bits=a_bits,
        dataset=dataset_name(line["dataset"]),
        psnr_y=psnr,
        ssim_y=number(line, float, "ssim_y"),
        source=source,
        fp_psnr_y=reference,
        setting=setting_of(line),
        recipe=recipe_of(line),
        seed=line.get("seed", ""),
        evaluated="" if method == FULL_PRECISION and evaluated == "simulation" else evaluated,
        file_bytes=number(line, int, "bytes", "file_bytes"),
        seconds=number(line, float, "compress_seconds", "train_seconds", "seconds"),
    )


def measured_method(name: str, psnr: float | None, reference: float | None) -> str:
    """One name for the network as it was; the same network trained on as long as its rivals is another row."""
    if name not in IN_FULL_PRECISION:
        return name
    return FULL_PRECISION if reference in (None, psnr) else f"{FULL_PRECISION}, trained on"


def published_row(line: Line, source: str) -> Row:
    network, scale = split_scale(line.get("network") or line.get("model", ""), line.get("scale", ""))
    w_bits, a_bits = bits_of(line)
    return Row(
        network=network,
        scale=scale,
        method=line.get("method", ""),
        w_bits=w_bits,
        a_bits=a_bits,
        dataset=dataset_name(line["dataset"]),
        psnr_y=number(line, float, "psnr_y"),
        ssim_y=number(line, float, "ssim_y"),
        source=line["paper"] or source,
        published=True,
        table=line.get("table", ""),
        doubts=(Doubt(line["doubt"]),) if line.get("doubt") else (),
        note=line.get("note", ""),
    )


def with_references(rows: list[Row]) -> list[Row]:
    """Published rows with the full precision that the same paper prints for the network, the scale and the set."""
    full = {(r.source, r.key, r.dataset): r.psnr_y for r in rows if r.method == FULL_PRECISION}
    return [replace(row, fp_psnr_y=full.get((row.source, row.key, row.dataset))) for row in rows]


def split_scale(name: str, scale: str) -> tuple[str, int | None]:
    """('swinir_light_x4', '') -> ('swinir_light', 4)."""
    if not name:
        raise ValueError("the network has no name")
    match = re.fullmatch(r"(.+)_x(\d+)", name)
    name, told = match.groups() if match else (name, "")
    return name, number({"scale": scale or told}, int, "scale")


def dataset_name(name: str) -> str:
    return ALIASES.get(name.lower(), name)


def bits_of(line: Line) -> tuple[str, str]:
    """Bits of weights and activations; from ``bits`` ('4', 'W8A8', 'fp16') or a recipe in ``options`` without columns
    of their own."""
    weights, activations = line.get("w_bits", ""), line.get("a_bits", "")
    if weights or activations:
        return checked_bits(weights), checked_bits(activations or ("" if "a_bits" in line else weights))
    word = line.get("bits", "")
    if match := re.fullmatch(r"[wW]([\d.+]+)[aA]([\d.+]+)", word):
        return checked_bits(match[1]), checked_bits(match[2])
    if word:
        bits = checked_bits(word.lower().removeprefix("fp"))
        return bits, bits
    return bits_of_recipe(line.get("options", ""))


def checked_bits(word: str) -> str:
    if word and not re.fullmatch(r"\d+(\.\d+)?(\+\d+)*", word):
        raise ValueError(f"bits {word!r}: a number, or several as 4+8")
    return word


def bits_of_recipe(options: str) -> tuple[str, str]:
    """A recipe, or its method alone, as JSON: networks of signs have 1 bit unless they have no binarizer, no method is
    training in full precision."""
    if not options.startswith("{"):
        return "", ""
    try:
        recipe = json.loads(options)
    except json.JSONDecodeError:
        raise ValueError(f"options {options!r} are no JSON") from None
    method = recipe.get("method", recipe)
    bits = "32" if not method or method.get("binarizer") == "none" else "1"
    return str(method.get("w_bits", bits)), str(method.get("a_bits", bits))


def setting_of(line: Line) -> str:
    """Options and budget where they differ from the usual: recipes (JSON) are told by the method's name."""
    options, steps = line.get("options", ""), line.get("steps", "")
    words = ["" if options.startswith("{") else options, "scope paper" if line.get("scope") == "paper" else ""]
    rate = f" at {line['lr']}" if line.get("lr") else ""
    words.append(f"{steps} steps{rate}" if steps else "")
    words.append("rest at 8 bits" if options.startswith("{") and json.loads(options).get("rest_bits") == 8 else "")
    return ", ".join(word for word in words if word)


def recipe_of(line: Line) -> str:
    """What tells runs of one method and setting apart: the recipe (JSON), the rate and the crops."""
    options = line.get("options", "")
    recipe = json.dumps(json.loads(options), sort_keys=True) if options.startswith("{") else ""
    return " ".join([recipe, *(line.get(name, "") for name in ("lr", "batch", "crop"))]).strip()


def number(line: Line, kind: Callable[[str], Number], *names: str) -> Number | None:
    """The first of the columns that is not empty, as a finite number."""
    for name in names:
        if word := line.get(name, ""):
            try:
                value = kind(word)
            except ValueError:
                value = None
            if value is None or not math.isfinite(value):
                raise ValueError(f"{name} {word!r} is no number")
            return value
    return None
