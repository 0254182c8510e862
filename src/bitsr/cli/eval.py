"""`bitsr eval`: PSNR and SSIM of models on benchmark sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

import bitsr
from bitsr.cli.console import Flag, UsageError, counting, emit_json, human_bytes, option, print_table
from bitsr.cli.models import BICUBIC, Opened, open_model
from bitsr.data.pictures import check_folder
from bitsr.errors import ConfigError
from bitsr.runtime.backends import Backend


def evaluate(
    models: Annotated[Positional[tuple[str, ...]], option("MODEL...")],
    /,
    *,
    data: Annotated[str, option("DIR[,DIR...]")],
    scale: Annotated[int | None, option("N")] = None,
    backend: Backend = "auto",
    limit: Annotated[int | None, option("N")] = None,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: Annotated[int | None, option("N")] = None,
    json: Flag = False,
) -> int:
    """Measure PSNR and SSIM on Y (BT.601, crop = scale) on folders of pictures.

    A folder holds HR pictures (LR is made by the MATLAB-exact bicubic), or HR/ and LR_bicubic/X{scale}/.

    Args:
        models: packed files, checkpoints, or the word bicubic
        data: folders, separated by commas
        scale: needed for bicubic alone; the other models know theirs
        backend: what runs packed files; checkpoints run in torch as they are
        limit: only the first N pictures of each folder
        device: where checkpoints run
        threads: CPU threads
        json: print one JSON object
    """
    folders = [Path(word.strip()) for word in data.split(",") if word.strip()]
    if not models or not folders:
        raise UsageError("eval needs at least one MODEL and one folder in --data")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: at least 1")
    for folder in folders:
        check_folder(folder)
    opened = {
        name: open_model(name, scale=scale, backend=backend, threads=threads, device=device)
        for name in models
        if name != BICUBIC
    }
    if BICUBIC in models:
        opened[BICUBIC] = open_model(BICUBIC, scale=only_scale(opened) if scale is None else scale)
    results = [measure(opened[name], folder, limit) for name in models for folder in folders]
    if json:
        emit_json({"results": results})
        return 0
    print_table(
        ("model", "data", "scale", "images", "PSNR-Y", "SSIM-Y", "backend", "seconds", "file"),
        [
            (
                row["model"],
                row["dataset"],
                f"x{row['scale']}",
                row["images"],
                "inf" if row["psnr_y"] is None else f"{row['psnr_y']:.2f}",
                f"{row['ssim_y']:.4f}",
                row["backend"],
                f"{row['seconds']:.1f}",
                "" if row["file_bytes"] is None else human_bytes(row["file_bytes"]),
            )
            for row in results
        ],
    )
    return 0


def only_scale(opened: dict[str, Opened]) -> int | None:
    """The scale of all networks; None where there is none; raises `ConfigError` where there are several."""
    scales = sorted({model.scale for model in opened.values()})
    if len(scales) > 1:
        raise ConfigError(f"bicubic needs --scale: the networks upscale by {' and '.join(map(str, scales))}")
    return scales[0] if scales else None


def measure(model: Opened, folder: Path, limit: int | None) -> dict[str, Any]:
    """One entry of ``results`` in the JSON output."""
    with counting(f"{model.name} on {folder.name}") as advance:
        result = bitsr.evaluate(
            model.upscaler,
            folder,
            model.scale,
            limit=limit,
            name=model.name,
            on_image=lambda done, total, score: advance(done, total),
        )
    return result.to_dict() | {"backend": model.backend, "file_bytes": model.file_bytes}
