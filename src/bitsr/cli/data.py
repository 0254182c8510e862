"""`bitsr data`: benchmark sets: which are known, whether a folder is what it should be, and how to get one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from bitsr.cli.console import UsageError, counting, option, print_table
from bitsr.cli.download import download, unpack_pictures
from bitsr.data import catalogue
from bitsr.data.files import check_output
from bitsr.data.pictures import list_pictures
from bitsr.errors import ConfigError, PictureError


def data(
    action: Positional[Literal["list", "get", "verify"]],
    target: Annotated[Positional[str | None], option("NAME|DIR")] = None,
    /,
    *,
    output: Annotated[Path, option("DIR", "-o")] = Path("data"),
) -> int:
    """List, fetch or verify benchmark sets.

    bitsr data list; bitsr data get NAME [-o DIR]; bitsr data verify DIR

    Args:
        action: list: the known sets; get: download one and verify it; verify: check a folder of pictures
        target: the set to get, or the folder to verify
        output: where `get` makes the folder NAME/HR
    """
    if action == "list":
        if target is not None:
            raise UsageError(f"data list takes no name, got {target}; to get one: bitsr data get {target}")
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
    folder, archive = output / known.name / "HR", output / f"{known.name}.tar.gz"
    check_output(output, folder=True)
    output.mkdir(parents=True, exist_ok=True)
    with counting(f"downloading {known.name}") as advance:
        download(known.url, archive, advance)
    unpack_pictures(archive, folder)
    archive.unlink()
    if catalogue.digest_of(list_pictures(folder)) != known.digest:
        raise PictureError(f"{folder}: the pictures from {known.url} differ from {known.name} in some pixels")
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
    if verification.known and not verification.ok:
        raise PictureError(f"{folder}: is not the {verification.known.name} of the papers")
    return 0
