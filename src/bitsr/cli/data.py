"""`bitsr data`: benchmark sets: which are known, whether a folder is what it should be, and how to get one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import Positional, arg

from bitsr.cli.console import UsageError, counting, print_table, track
from bitsr.cli.download import download, unpack_pictures
from bitsr.data import catalogue
from bitsr.data.benchmark import open_set
from bitsr.data.imresize import imresize
from bitsr.data.pictures import list_pictures, read_rgb
from bitsr.errors import ConfigError, PictureError


@dataclass(frozen=True)
class Copy:
    """A public copy of a set's HR pictures, and :func:`digest_of` the pictures as they should be."""

    url: str
    digest: str


MIRROR = "https://huggingface.co/datasets/eugenesiow"

COPIES = {
    "Set5": Copy(
        f"{MIRROR}/Set5/resolve/main/data/Set5_HR.tar.gz",
        "56d899b36425f6e2932d723ffc58806b5f82e6731427bb2990b7d877f2ea3f95",
    ),
    "Set14": Copy(
        f"{MIRROR}/Set14/resolve/main/data/Set14_HR.tar.gz",
        "f58a95f24549c95a1b265e155b020c6b54038fe4e3761f7de613678f0ca76a2f",
    ),
    "B100": Copy(
        f"{MIRROR}/BSD100/resolve/main/data/BSD100_HR.tar.gz",
        "ab7c173f1a42b2df1c15f1559221bb3175e2b6208667cc31ab48a32659a6ab1c",
    ),
    "Urban100": Copy(
        f"{MIRROR}/Urban100/resolve/main/data/Urban100_HR.tar.gz",
        "958644bbdf2c4f097b9d8e305be40b0da97b7ff1f364c31d3fde1856e84d407a",
    ),
}


def data(
    action: Positional[Literal["list", "get", "verify"]],
    target: Annotated[Positional[str | None], arg(metavar="NAME|DIR")] = None,
    /,
    *,
    output: Annotated[Path, arg(aliases=["-o"], metavar="DIR")] = Path("data"),
) -> int:
    """List, fetch or verify benchmark sets.

    bitsr data list; bitsr data get NAME [-o DIR]; bitsr data verify DIR

    Args:
        action: list: the known sets; get: download one and verify it; verify: check a folder of pictures
        target: the set to get, or the folder to verify
        output: where `get` makes the folder NAME/HR
    """
    if action == "list":
        return list_sets()
    if target is None:
        raise UsageError(f"data {action} needs {'the name of a set' if action == 'get' else 'a folder'}")
    return get(target, output) if action == "get" else verify(Path(target))


def list_sets() -> int:
    """Print the known sets."""
    rows = []
    for known in catalogue.SETS.values():
        bicubic = ", ".join(f"x{scale} {value:.2f}" for scale, value in known.bicubic.items())
        rows.append((known.name, known.pictures, bicubic, known.source))
    print_table(("set", "pictures", "bicubic PSNR-Y", "published at"), rows)
    return 0


def get(name: str, output: Path) -> int:
    """Download a set to output/NAME/HR; an interrupted download goes on where it stopped."""
    known = catalogue.find(name)
    if known is None:
        raise ConfigError(f"unknown set {name!r}; known: {', '.join(catalogue.SETS)}")
    copy, folder, archive = COPIES[known.name], output / known.name / "HR", output / f"{known.name}.tar.gz"
    output.mkdir(parents=True, exist_ok=True)
    with counting(f"downloading {known.name}") as advance:
        download(copy.url, archive, advance)
    unpack_pictures(archive, folder)
    archive.unlink()
    if digest_of(list_pictures(folder)) != copy.digest:
        raise PictureError(f"{folder}: the pictures from {copy.url} differ from {known.name} in some pixels")
    print(f"{folder}: equal to {known.name} pixel for pixel")
    return 0


def verify(folder: Path) -> int:
    """Read every picture; compare bicubic's PSNR with the published, HR with known sets, LR with the exact bicubic."""
    with counting("verifying") as advance:
        verification = catalogue.verify(folder, on_picture=advance)
    print(verification)
    if verification.broken:
        count = len(verification.broken)
        raise PictureError(f"{folder}: {count} of {verification.pictures} pictures cannot be read")
    inner = folder / "HR"
    digest = digest_of(list_pictures(inner if inner.is_dir() else folder))
    for name, copy in COPIES.items():
        if digest == copy.digest:
            print(f"equal to {name} pixel for pixel")
    for low in sorted(folder.glob("LR_bicubic/X*")):
        if low.name[1:].isdecimal():
            print(f"{low}: {compare_lr(folder, int(low.name[1:]))}")
    if verification.known and not verification.ok:
        raise PictureError(f"{folder}: is not the {verification.known.name} of the papers")
    return 0


def compare_lr(folder: Path, scale: int) -> str:
    """How the LR pictures of a folder relate to the bicubic reduction of its HR pictures."""
    pairs = open_set(folder, scale)
    largest = 0
    for pair in track(pairs, f"comparing x{scale}"):
        difference = pair.lr.astype(np.int16) - imresize(pair.hr, 1 / scale)
        largest = max(largest, int(np.abs(difference).max()))
    relation = "equal to" if largest == 0 else f"up to {largest}/255 away from"
    return f"{len(pairs)} pictures, {relation} the MATLAB-exact bicubic"


def digest_of(paths: list[Path]) -> str:
    """SHA-256 over the sorted SHA-256 of each picture's shape and RGB pixels; names, order and formats do not count."""
    pixels = map(read_rgb, paths)
    digests = sorted(hashlib.sha256(repr(p.shape).encode() + p.tobytes()).hexdigest() for p in pixels)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
