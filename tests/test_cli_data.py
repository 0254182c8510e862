"""`bitsr data`: get against a server of our own (resumed, verified, nothing unpacked but pictures), and verify."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bitsr.cli import download
from bitsr.cli.main import main
from bitsr.data.catalogue import SETS, digest_of
from bitsr.data.pictures import list_pictures
from small_files import write_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "Original", ["a.png", "b.png"], 20, 20)


@pytest.fixture
def archive(pictures: Path) -> bytes:
    """The pictures, and members that must not be written."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted(pictures.iterdir()):
            tar.add(path, f"Set_HR/{path.name}")
        for name in ("../../escaped.txt", "Set_HR/.hidden.png"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("Set_HR/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


class Server:
    """Answers every GET with ``content``, honouring ranges; ``cut`` ends the first answers early."""

    def __init__(self, content: bytes, cut: int | None = None) -> None:
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                start = int(asked.split("=")[1].rstrip("-")) if asked else 0
                if asked and start >= len(content):
                    return self.send_error(416)
                body = content[start:]
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:cut] if len(outer.ranges) == 1 else body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/set.tar.gz"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, pictures: Path) -> Iterator:
    """Start a server for the set "Set5", whose pictures are ours."""
    servers: list[Server] = []

    def start(content: bytes, cut: int | None = None) -> Server:
        servers.append(Server(content, cut))
        digest = digest_of(list_pictures(pictures))
        monkeypatch.setitem(SETS, "Set5", replace(SETS["Set5"], url=servers[-1].url, digest=digest))
        return servers[-1]

    yield start
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


def test_get(serve, archive: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    serve(archive)
    out = tmp_path / "data"
    assert main(["data", "get", "Set5", "-o", str(out)]) == 0
    assert "equal to Set5 pixel for pixel" in capsys.readouterr().out
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "Set5/HR/a.png",
        "Set5/HR/b.png",
    ]
    assert not list(tmp_path.rglob("escaped.txt"))


def test_get_goes_on_where_it_stopped(
    serve, archive: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # noqa: ANN001
    server = serve(archive, cut=100)
    assert main(["data", "get", "Set5", "-o", str(tmp_path / "data")]) == 1
    assert f"100 of {len(archive)} bytes" in capsys.readouterr().err
    assert main(["data", "get", "Set5", "-o", str(tmp_path / "data")]) == 0
    assert server.ranges == [None, "bytes=100-"]


def test_get_begins_again_where_nothing_is_left_to_fetch(serve, archive: bytes, tmp_path: Path) -> None:  # noqa: ANN001
    """A part as long as the file, from a run that was killed before it was renamed."""
    server = serve(archive)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Set5.tar.gz.part").write_bytes(b"?" * len(archive))
    assert main(["data", "get", "Set5", "-o", str(tmp_path / "data")]) == 0
    assert server.ranges == [f"bytes={len(archive)}-", None]


def test_an_archive_is_kept_where_its_pictures_cannot_be_written(
    archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk does not make it a damaged one."""

    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(download, "write_atomically", fail)
    (tmp_path / "set.tar.gz").write_bytes(archive)
    with pytest.raises(OSError, match="No space left"):
        download.unpack_pictures(tmp_path / "set.tar.gz", tmp_path / "HR")
    assert (tmp_path / "set.tar.gz").exists()


def test_get_refuses_other_pictures(serve, archive: bytes, pictures: Path, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    write_pictures(pictures, ["b.png"], 24, 20)
    serve(archive)
    assert main(["data", "get", "Set5", "-o", str(tmp_path / "data")]) == 1
    assert "differ from Set5" in capsys.readouterr().err


def test_get_refuses_what_is_no_archive(serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    serve(b"<html>moved</html>")
    assert main(["data", "get", "Set5", "-o", str(tmp_path / "data")]) == 1
    assert "no whole archive" in capsys.readouterr().err
    assert not (tmp_path / "data" / "Set5.tar.gz").exists()


def test_get_names_what_cannot_be_reached(tmp_path: Path, monkeypatch, capsys) -> None:  # noqa: ANN001
    monkeypatch.setitem(SETS, "Set5", replace(SETS["Set5"], url="http://127.0.0.1:9/set.tar.gz"))
    assert main(["data", "get", "Set5", "-o", str(tmp_path)]) == 1
    assert "cannot be fetched" in capsys.readouterr().err


def test_get_unknown_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "Set99", "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: unknown set 'Set99'; known: Set5, Set14, B100, Urban100\n"


def test_data_verify_recognises_a_set(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", str(shared / "data" / "benchmarks" / "Set5")]) == 0
    out = capsys.readouterr().out
    assert "equal to Set5 pixel for pixel" in out and "as published 28.42" in out
    assert out.count("equal to the MATLAB-exact bicubic") == 2


def test_data_verify_finds_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pictures(tmp_path / "set" / "HR", ["a.png", "b.png"], 32, 32).parent
    write_pictures(folder / "LR_bicubic" / "X2", ["a.png", "b.png"], 16, 16)
    assert main(["data", "verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "none of the known sets" in out and "away from the MATLAB-exact bicubic" in out
    assert main(["data", "verify", str(folder.rename(tmp_path / "Set5"))]) == 1
    assert "is not the Set5 of the papers" in capsys.readouterr().err
    folder = tmp_path / "Set5"
    (folder / "HR" / "b.png").write_bytes(b"no picture")
    assert main(["data", "verify", str(folder)]) == 1
    assert "1 of 2 pictures cannot be read" in capsys.readouterr().err
