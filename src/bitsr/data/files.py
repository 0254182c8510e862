"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from bitsr.errors import BitsrError


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path``, flush it to disk and rename it; a crash leaves no half.

    Raises `OSError` with the name ``path`` where that fails.
    """
    path = Path(path)
    temporary = path.with_name(f".bitsr-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    """Delete a file if it is there and can be deleted; what went wrong before is what counts."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def check_output(path: str | Path, *, folder: bool = False) -> None:
    """Raises `BitsrError` where a file (or a ``folder``) could not be written, before any work is spent on it."""
    path = Path(path)
    if path.is_dir() and not folder:
        raise BitsrError(f"{path}: is a folder, expected the name of a file")
    place = next(place for place in ((path, *path.parents) if folder else path.parents) if place.exists())
    if not place.is_dir():
        raise BitsrError(f"{place}: is a file, expected a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise BitsrError(f"{place}: no permission to write there; choose another output")
