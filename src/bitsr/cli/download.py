"""Downloads that go on where they stopped, and archives of which only the pictures are taken."""

from __future__ import annotations

import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError

from bitsr.data.files import write_atomically
from bitsr.data.pictures import SUFFIXES
from bitsr.errors import BitsrError

CHUNK = 1 << 18
UNSATISFIABLE = 416  # HTTP's answer to a range beyond the end
TIMEOUT = 60  # seconds without an answer


def download(url: str, path: Path, advance: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Fetch ``url`` to ``path``.  What an interrupted run left in ``path``.part is kept and continued (HTTP Range).

    Raises:
        BitsrError: the server cannot be reached, refuses, or sent less than it announced.
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "bitsr"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if answer.status != 206:  # the server sends the whole file again
                have = 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else 0
            with open(part, "ab" if have else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    advance(have, total)
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        if isinstance(error, HTTPError) and error.code == UNSATISFIABLE:  # there is nothing behind what we have
            part.unlink()
            return download(url, path, advance)
        reason = getattr(error, "reason", error)
        raise BitsrError(f"{url}: cannot be fetched ({reason}); run the command again to go on") from error
    if total and have != total:
        raise BitsrError(f"{url}: {have} of {total} bytes arrived; run the command again to go on")
    part.replace(path)


def unpack_pictures(archive: Path, folder: Path) -> None:
    """Write the pictures of a tar archive into ``folder`` under their bare names; everything else is left out.

    Raises `BitsrError` for what is no whole archive, and removes it, `OSError` where a picture cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _pictures_in(archive):
        write_atomically(folder / name, content)


def _pictures_in(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if not member.isfile() or name.startswith(".") or not name.lower().endswith(SUFFIXES):
                    continue
                content = tar.extractfile(member)
                if content is not None:
                    yield name, content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        archive.unlink(missing_ok=True)
        raise BitsrError(f"{archive}: is no whole archive of pictures ({error}); run the command again") from error
