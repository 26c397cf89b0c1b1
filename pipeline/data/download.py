"""Fetching official archives: resumed where they broke, checked, unpacked all or nothing."""

import http.client
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError
from pipeline.progress import progress_bar
from pipeline.runs.files import file_sha256

BLOCK = 1 << 20
TIMEOUT_S = 30.0
# Attempts in a row that bring no new byte. An attempt that got further does not count: a slow line may break any number of times.
FRUITLESS_ATTEMPTS = 4


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One zip file on the net, and how to know that it is the right one and that it is there already."""

    url: str
    sha256: str
    num_bytes: int
    provides: tuple[str, ...]
    """Files or folders that it unpacks to; where all of them exist, nothing is fetched."""


class _Interrupted(Exception):  # noqa: N818 - it leads to another attempt
    """The transfer broke, but may go on."""


def fetch_archive(archive: Archive, destination: Path, *, pause_s: float = 2.0) -> bool:
    """Download, check and unpack ``archive`` into the folder ``destination``; the zip file is removed afterwards.

    A broken transfer goes on where it stopped (HTTP Range, with If-Range where the server names a version): within this call, after
    ``pause_s`` seconds, and in the next one, for the received part stays in ``destination`` as ``NAME.part``. Folders and files
    appear by renaming, so whatever exists in ``destination`` is complete. Returns False if everything was there already.

    Raises DataError: server or disk refuses, size or SHA-256 differs (the received file is then removed), an entry of the zip file
    that would be written outside ``destination``.
    """
    if all((destination / entry).exists() for entry in archive.provides):
        return False
    name = PurePosixPath(archive.url).name
    part = destination / f"{name}.part"
    try:
        destination.mkdir(parents=True, exist_ok=True)
        _download(archive, part, pause_s)
        _check(archive, part)
        _unpack(part, name, destination)
    except OSError as error:
        raise DataError(f"{destination}: cannot be written ({error.strerror or error})") from error
    missing = [entry for entry in archive.provides if not (destination / entry).exists()]
    if missing:
        raise DataError(f"{archive.url} was unpacked, but {missing[0]} was not in it")
    _discard(part)
    return True


def _download(archive: Archive, part: Path, pause_s: float) -> None:
    """Make ``part`` as long as the archive is."""
    fruitless, best = 0, _size(part)
    while (have := _size(part)) < archive.num_bytes:
        try:
            _attempt(archive, part, have)
        except _Interrupted as error:
            fruitless = 0 if _size(part) > best else fruitless + 1
            best = max(best, _size(part))
            if fruitless == FRUITLESS_ATTEMPTS:
                raise DataError(f"{archive.url}: {error}; run the same command again to go on where it stopped") from error
            time.sleep(pause_s)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(archive: Archive, part: Path, have: int) -> None:
    """Append to ``part`` (or begin it anew, where the server cannot go on) until the end or the next break."""
    version_file = part.with_name(part.name + ".etag")
    request = urllib.request.Request(archive.url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version_file.exists():
            request.add_header("If-Range", version_file.read_text(encoding="utf-8"))
    with _opened(request) as response:
        start = _start(response, have)
        announced = response.headers.get("Content-Length")
        if announced is not None and start + int(announced) != archive.num_bytes:
            _discard(part)
            raise DataError(
                f"{archive.url}: has {start + int(announced)} bytes, expected {archive.num_bytes}; the file has changed"
            )
        free = shutil.disk_usage(part.parent).free
        if free < archive.num_bytes - start:
            raise DataError(f"{part.parent}: {free} bytes are free, the download needs {archive.num_bytes - start}")
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):  # a weak tag may stand for other bytes and is not allowed in If-Range
            version_file.write_text(etag, encoding="utf-8")
        _receive(response, part, start, archive)


@contextmanager
def _opened(request: urllib.request.Request) -> Iterator[http.client.HTTPResponse]:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            yield response
    except urllib.error.HTTPError as error:
        if error.code >= 500 or error.code in (408, 429):
            raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
        raise DataError(f"{request.full_url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Interrupted(f"the connection failed ({getattr(error, 'reason', None) or error})") from error


def _start(response: http.client.HTTPResponse, have: int) -> int:
    """The position of the first byte that the server sends: a server without ranges, or with a newer file, begins at 0."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    content_range = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {have}-"):
        raise DataError(f"{response.url}: asked for bytes from {have} on, the server sent {content_range!r}")
    return have


def _receive(response: http.client.HTTPResponse, part: Path, start: int, archive: Archive) -> None:
    left = archive.num_bytes - start
    note = f" (resumed at {start / archive.num_bytes:.0%})" if start else ""
    with (
        part.open("ab" if start else "wb") as stream,
        progress_bar(f"downloading {PurePosixPath(archive.url).name}{note}", total=-(-left // BLOCK), unit="MiB") as advance,
    ):
        while left > 0:
            block = response.read(min(BLOCK, left))
            if not block:
                raise _Interrupted(f"the connection broke after {archive.num_bytes - left} of {archive.num_bytes} bytes")
            stream.write(block)
            left -= len(block)
            advance()


def _check(archive: Archive, part: Path) -> None:
    if (found := file_sha256(part)) != archive.sha256:
        _discard(part)
        raise DataError(f"{archive.url}: SHA-256 is {found}, expected {archive.sha256}; the received file was removed")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".etag").unlink(missing_ok=True)


def _unpack(part: Path, name: str, destination: Path) -> None:
    """Unpack beside the target, then rename: a run that is killed leaves a hidden folder that the next run removes."""
    hidden = destination / f".{name}.unpacking"
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        with zipfile.ZipFile(part) as archive:
            entries = archive.infolist()
            for entry in entries:
                _check_entry(entry, name)
            needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(destination).free
            if free < needed:
                raise DataError(f"{destination}: {free} bytes are free, unpacking {name} needs {needed}")
            hidden.mkdir()
            with progress_bar(f"unpacking {name}", total=len(entries), unit="files") as advance:
                for entry in entries:
                    archive.extract(entry, hidden)
                    advance()
        os.sync()  # before the renames: after a power cut a complete name must not stand for an empty file
        for child in sorted(hidden.iterdir()):
            _move(child, destination / child.name)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DataError(f"{name}: is no readable zip file ({error})") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _check_entry(entry: zipfile.ZipInfo, name: str) -> None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or ":" in entry.filename
    if outside or stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(f"{name}: the entry {entry.filename!r} would be written outside the target folder; nothing was unpacked")


def _move(source: Path, target: Path) -> None:
    """Rename; where both are folders, merge them file by file."""
    if source.is_dir() and target.is_dir():
        for child in sorted(source.iterdir()):
            _move(child, target / child.name)
    else:
        os.replace(source, target)
