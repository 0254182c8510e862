"""`bitsr analyze`: what quantization does to a network, by bits, operand and layer."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

import bitsr
from bitsr.cli.console import Flag, UsageError, counting, emit_json, option, print_table
from bitsr.cli.models import load_checkpoint
from bitsr.data.benchmark import open_set
from bitsr.data.calibration import held_out_pairs, split
from bitsr.data.files import check_output, write_atomically

CROPS, PAIRS = 16, 8  # for bounds; to measure on


def analyze(
    model: Annotated[Positional[Path], option("MODEL")],
    /,
    *,
    bits: Annotated[str, option("N[,N...]")] = "8,4,3,2",
    calib: Annotated[Path | None, option("DIR")] = None,
    data: Annotated[Path | None, option("DIR")] = None,
    limit: Annotated[int | None, option("N")] = None,
    scope: Annotated[Literal["paper", "full"], option("paper|full")] = "full",
    output: Annotated[Path | None, option("DIR", "-o")] = None,
    seed: Annotated[int, option("N")] = 0,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: Annotated[int | None, option("N")] = None,
    json: Flag = False,
) -> int:
    """Measure what is lost by weights and by activations, where it comes from, and what a correction gives.

    Everything is rounded to nearest between bounds found by search, without any method's corrections.

    Args:
        model: checkpoint (.safetensors, .pth)
        bits: 2, 3, 4, 6 or 8, separated by commas
        calib: folder of HR pictures to find bounds on (default: the bundled ones)
        data: folder of pictures to measure on (default: held-out crops of those to calibrate on)
        limit: only the first N pictures of --data
        scope: full quantizes every layer; paper leaves out what the papers leave out
        output: folder for losses.csv, layers.csv, analysis.json and analysis.png
        seed: of the crops
        device: where it is computed
        threads: CPU threads
        json: print one JSON object
    """
    widths = parse_bits(bits)
    if limit is not None and (data is None or limit < 1):
        raise UsageError(f"--limit {limit}: takes a number of at least 1, for the pictures of --data")
    if output is not None:
        check_output(output, folder=True)
    module = load_checkpoint(model, device, threads)
    from bitsr.analysis.measure import analyze as measure
    from bitsr.analysis.report import to_dict

    scale = module.descriptor.scale
    calibration, held = split(calib)
    crops = bitsr.calibration_crops(calibration, scale, CROPS, seed=seed)
    pairs = held_out_pairs(held, scale, PAIRS, seed=seed) if data is None else list(open_set(data, scale)[:limit])
    with counting(f"analyzing {model.name}") as advance:
        found = measure(module, crops, pairs, widths, scope=scope, seed=seed, on_step=advance)
    content = {"model": str(model), "scale": scale, "scope": scope, **to_dict(found)}
    if output is not None:
        write_report(found, content, model.stem, output)
    if json:
        emit_json(content)
        return 0
    show(found)
    if output is not None:
        print(f"written: losses.csv, layers.csv, analysis.json, analysis.png in {output}")
    return 0


def parse_bits(words: str) -> list[int]:
    """'8,4' as numbers, the most bits first; raises `UsageError` for others than 2, 3, 4, 6 and 8."""
    known = ("2", "3", "4", "6", "8")
    found = [word.strip() for word in words.split(",")]
    for word in found:
        if word not in known:
            raise UsageError(f"--bits {words}: takes some of {', '.join(known)}, separated by commas")
    return sorted({int(word) for word in found}, reverse=True)


def write_report(found: Any, content: dict[str, Any], name: str, folder: Path) -> None:
    from bitsr.analysis.picture import write_picture
    from bitsr.analysis.report import layers_csv, losses_csv

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "losses.csv", losses_csv(found, name).encode())
    write_atomically(folder / "layers.csv", layers_csv(found, name).encode())
    write_atomically(folder / "analysis.json", (json_module.dumps(content, indent=2) + "\n").encode())
    write_picture(found, f"What quantization does to {name}", folder / "analysis.png")


def show(found: Any) -> None:
    """The tables, and what they say about weights and activations."""
    from bitsr.analysis.report import correction_table, loss_table, share_table, verdict

    print(f"full precision: {found.psnr_y:.2f} dB, SSIM {found.ssim_y:.4f}, {found.pictures} pictures")
    print_table(*loss_table(found), title="one operand of all layers quantized")
    print_table(*share_table(found), title="where the loss comes from: each layer quantized alone")
    print_table(*correction_table(found), title="structural residual correction (SRC), weights in full precision")
    for line in verdict(found.losses):
        print(line)
