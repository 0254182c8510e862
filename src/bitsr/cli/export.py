"""`bitsr export`: a model as ONNX, for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

import bitsr
from bitsr.cli.console import Flag, UsageError, emit_json, human_bytes, option, working
from bitsr.cli.models import load_checkpoint, need_file
from bitsr.data.files import check_output
from bitsr.format import is_packed, read_program

SUFFIX = ".onnx"


def export(
    file: Annotated[Positional[Path], option("FILE")],
    /,
    *,
    output: Annotated[Path, option("OUT.onnx", "-o")],
    float: Flag = False,
    json: Flag = False,
) -> int:
    """Write a model as ONNX for pictures of any size; it is compared with the model on three sizes before.

    Args:
        file: packed file or checkpoint
        output: the ONNX file
        float: a packed file's values in fp32, without Q/DQ: for runtimes that quantize by themselves
        json: print one JSON object
    """
    if output.suffix.lower() != SUFFIX:
        raise UsageError(f"-o {output}: the name of an ONNX file ends in {SUFFIX}")
    check_output(output)
    from bitsr.export.write import export as write

    packed = is_packed(need_file(file))
    program = read_program(file) if packed else bitsr.lower(load_checkpoint(file), precision="fp32")
    output.parent.mkdir(parents=True, exist_ok=True)
    with working(f"exporting {file.name}"):
        agreement = write(program, output, quantized=not float)
    size = output.stat().st_size
    if json:
        content = {"file": str(output), "file_bytes": size, "compared_with": agreement.runtime}
        emit_json(content | {"largest_difference": agreement.largest, "rms_difference": agreement.rms})
        return 0
    print(
        f"{output}: {human_bytes(size)}; {agreement.runtime} differs by {agreement.rms:.1e} (rms; at most "
        f"{agreement.largest:.1e}) of the output's range"
    )
    return 0
