"""Fetching archives from a server on this machine that breaks, forgets and lies."""

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.download import Archive, fetch_archive
from pipeline.errors import DataError


class Server(ThreadingHTTPServer):
    """Serves one body at every path; the attributes say how badly, ``ranges_asked`` what was asked for."""

    daemon_threads = True
    body = b""
    etag = '"v1"'
    breaks_after: list[int]
    ranges = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks_after, self.asked = [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/pack.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same_version = self.headers.get("If-Range", server.etag) == server.etag
        if wanted and server.ranges and same_version:
            start = int(wanted[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        else:
            self.send_response(200)
        rest = server.body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        if server.breaks_after:
            rest = rest[: server.breaks_after.pop(0)]
        self.wfile.write(rest)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


CONTENT = {"things/a.bin": np.random.default_rng(0).bytes(60_000), "things/deep/b.txt": b"b", "readme.txt": b"read me"}


def packed(content: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return stream.getvalue()


def archive_of(server: Server, *, provides: tuple[str, ...] = ("things",), sha256: str | None = None) -> Archive:
    digest = sha256 or hashlib.sha256(server.body).hexdigest()
    return Archive(url=server.url, sha256=digest, num_bytes=len(server.body), provides=provides)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_archive_is_unpacked_and_removed(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    assert fetch_archive(archive_of(server), tmp_path / "new" / "folder")
    assert files_in(tmp_path / "new" / "folder") == CONTENT


def test_a_second_call_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    fetch_archive(archive_of(server), tmp_path)
    assert not fetch_archive(archive_of(server), tmp_path)
    assert len(server.asked) == 1


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    server.breaks_after = [20_000, 10_000]
    fetch_archive(archive_of(server), tmp_path, pause_s=0)
    assert server.asked == [(None, None), ("bytes=20000-", '"v1"'), ("bytes=30000-", '"v1"')]
    assert files_in(tmp_path) == CONTENT


def test_the_next_call_goes_on_where_the_last_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    server.breaks_after = [20_000] + [0] * 4
    with pytest.raises(DataError, match=r"broke after 20000 of \d+ bytes; run the same command again"):
        fetch_archive(archive_of(server), tmp_path, pause_s=0)
    assert (tmp_path / "pack.zip.part").stat().st_size == 20_000
    server.asked.clear()
    fetch_archive(archive_of(server), tmp_path, pause_s=0)
    assert server.asked == [("bytes=20000-", '"v1"')]
    assert files_in(tmp_path) == CONTENT


def test_a_server_without_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    server.ranges = False
    server.breaks_after = [20_000]
    fetch_archive(archive_of(server), tmp_path, pause_s=0)
    assert files_in(tmp_path) == CONTENT


def test_a_part_of_another_version_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    (tmp_path / "pack.zip.part").write_bytes(b"x" * 20_000)
    (tmp_path / "pack.zip.part.etag").write_text('"v0"')
    fetch_archive(archive_of(server), tmp_path, pause_s=0)
    assert server.asked == [("bytes=20000-", '"v0"')]
    assert files_in(tmp_path) == CONTENT


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    with pytest.raises(DataError, match="SHA-256"):
        fetch_archive(archive_of(server, sha256="0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_refused_before_it_is_read(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    archive = archive_of(server)
    server.body += b"more"
    with pytest.raises(DataError, match=f"has {len(server.body)} bytes, expected {archive.num_bytes}"):
        fetch_archive(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../outside.txt", "/outside.txt", "things/../../outside.txt", "..\\outside.txt", "C:/outside.txt"]
)
def test_an_entry_that_leads_outside_is_refused(server: Server, tmp_path: Path, name: str) -> None:
    server.body = packed({"things/a.bin": b"a", name: b"evil"})
    target = tmp_path / "target"
    with pytest.raises(DataError, match="outside the target folder; nothing was unpacked"):
        fetch_archive(archive_of(server), target)
    assert not list(tmp_path.rglob("outside.txt"))
    assert not (target / "things").exists()


def test_an_entry_that_is_a_link_is_refused(server: Server, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("things/link")
    link.external_attr = 0o120777 << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(link, "/etc")
    server.body = stream.getvalue()
    with pytest.raises(DataError, match="nothing was unpacked"):
        fetch_archive(archive_of(server), tmp_path)


def test_a_damaged_zip_file_leaves_nothing_half_unpacked(server: Server, tmp_path: Path) -> None:
    body = bytearray(packed(CONTENT))
    body[1000] ^= 255  # inside the first, stored entry: its CRC no longer fits
    server.body = bytes(body)
    with pytest.raises(DataError, match="no readable zip file"):
        fetch_archive(archive_of(server), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("pack.zip.part")] == []


def test_what_is_there_already_is_kept_and_what_was_left_over_is_cleared(server: Server, tmp_path: Path) -> None:
    server.body = packed({"annotations/val.json": b"val", "annotations/train.json": b"train"})
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "own.json").write_bytes(b"own")
    (tmp_path / ".pack.zip.unpacking").mkdir()
    (tmp_path / ".pack.zip.unpacking" / "half.json").write_bytes(b"ha")
    fetch_archive(archive_of(server, provides=("annotations/train.json", "annotations/val.json")), tmp_path)
    assert files_in(tmp_path) == {
        "annotations/own.json": b"own",
        "annotations/train.json": b"train",
        "annotations/val.json": b"val",
    }


def test_an_archive_without_what_it_should_provide_is_an_error(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    with pytest.raises(DataError, match="other was not in it"):
        fetch_archive(archive_of(server, provides=("other",)), tmp_path)


def test_a_missing_file_is_one_clear_line(server: Server, tmp_path: Path) -> None:
    server.status = 404
    archive = Archive(url=server.url, sha256="0" * 64, num_bytes=10, provides=("things",))
    with pytest.raises(DataError, match="404"):
        fetch_archive(archive, tmp_path)
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again_but_not_for_ever(server: Server, tmp_path: Path) -> None:
    server.status = 503
    archive = Archive(url=server.url, sha256="0" * 64, num_bytes=10, provides=("things",))
    with pytest.raises(DataError, match="503"):
        fetch_archive(archive, tmp_path, pause_s=0)
    assert len(server.asked) == 4


def test_a_server_that_is_not_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as closed:
        url = closed.url
    archive = Archive(url=url, sha256="0" * 64, num_bytes=10, provides=("things",))
    with pytest.raises(DataError, match="connection failed"):
        fetch_archive(archive, tmp_path, pause_s=0)


def test_a_disk_that_is_too_small_is_named_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.body = packed(CONTENT)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("pipeline.data.download.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="100 bytes are free"):
        fetch_archive(archive_of(server), tmp_path)


def test_a_file_where_the_folder_should_be_is_one_clear_line(server: Server, tmp_path: Path) -> None:
    server.body = packed(CONTENT)
    (tmp_path / "file").write_text("here")
    with pytest.raises(DataError, match="cannot be written"):
        fetch_archive(archive_of(server), tmp_path / "file")
