"""Files of ours: written whole or not at all, read with one line about what is wrong, known by their SHA-256.

A JSON format is one class, ``JsonFile``: what writes it reads it.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, ValidationError

from pipeline.config import adapter_of
from pipeline.errors import RunError, UserError

Form = TypeVar("Form")
File = TypeVar("File", bound="JsonFile")


@dataclass(frozen=True, kw_only=True)
class JsonFile:
    """A format of JSON files. A subclass is a frozen dataclass whose fields are the keys; ``read`` undoes ``write``.

    Beside the keys stand ``format``, which is raised when they change their meaning, and ``checksum``, the SHA-256 of all the rest:
    a file that was cut off, flipped or edited is refused and never believed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str]
    """What to do about a file that cannot be used: the end of every message."""
    ERROR: ClassVar[type[UserError]] = RunError
    """What is raised where the file cannot be used."""

    def write(self, path: Path) -> None:
        """Replace the file at once. Raises ``RunError`` where it cannot be written."""
        write_sealed(path, adapter_of(type(self)).dump_python(self, mode="json"), version=self.FORMAT)

    @classmethod
    def read(cls: type[File], path: Path) -> File:
        """What a file says. Raises ``ERROR`` in one line: there is none, it is damaged, or another version wrote it."""
        raw = read_bytes(path, error=cls.ERROR)  # where it is none, a wrong path, more often than not: no remedy
        try:
            content = _unsealed(path, raw, cls.FORMAT)
            del content["format"]
            return parse_json(path, content, cls, remedy="another version wrote it")
        except RunError as error:
            raise cls.ERROR(f"{error}; {cls.REMEDY}") from error


def write_sealed(path: Path, content: Mapping[str, Any], *, version: int) -> None:
    """Write a JSON file with its format number and a checksum of itself, new ones where it has them. Raises ``RunError``."""
    sealed = {"format": version} | {key: value for key, value in content.items() if key not in ("format", "checksum")}
    write_json(path, {**sealed, "checksum": canonical_sha256(sealed)})


def read_sealed(path: Path, *, version: int) -> dict[str, Any]:
    """What ``write_sealed`` has written, with ``format``. Raises ``RunError``: unreadable, damaged or of another version."""
    return _unsealed(path, read_bytes(path), version)


def _unsealed(path: Path, raw: bytes, version: int) -> dict[str, Any]:
    content = _decoded(path, raw)
    checksum, written = content.pop("checksum", None), content.get("format")
    if written != version:
        raise RunError(f"{path}: format {written} is not format {version} of this version")
    try:
        intact = checksum == canonical_sha256(content)
    except RecursionError as error:
        raise RunError(f"{path}: damaged (nested too deeply)") from error
    if not intact:
        raise RunError(f"{path}: damaged or edited (its checksum differs)")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader, or whoever comes after a crash, finds the old content or the new. Raises ``RunError``."""
    temporary = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp")  # others may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path)
        _write_and_flush(temporary, content)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def _remove_left_over(path: Path) -> None:
    """What killed processes of this machine had begun to write. Whether those of other machines live nobody here knows."""
    import psutil  # here, for most that read files write none

    pattern = re.compile(rf"{re.escape(f'{path.name}.{platform.node()}.')}(\d{{1,9}})\.tmp")
    for name in os.listdir(path.parent):
        if (match := pattern.fullmatch(name)) is not None and not psutil.pid_exists(int(match[1])):
            path.with_name(name).unlink(missing_ok=True)


def _write_and_flush(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Have the system write a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def near(path: Path) -> str:
    """The end of a line about a path that is not there: ``; did you mean DIRECTORY?``, or nothing."""
    missing = path
    while missing.parent != missing and not missing.parent.exists():
        missing = missing.parent
    with suppress(OSError):
        beside = {other.name.lower(): other for other in missing.parent.iterdir() if other.is_dir()}
        if not missing.exists() and (found := get_close_matches(missing.name.lower(), beside, n=1)):
            return f"; did you mean {beside[found[0]]}?"
    return ""


def read_bytes(path: Path, *, error: type[UserError] = RunError) -> bytes:
    """The content of a file. Raises ``error``: there is none, it cannot be read, or it is a directory, a pipe or a device."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise error(f"{path}: cannot be read: it is no file")
        return path.read_bytes()
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the path
        raise error(f"{path}: cannot be read: {getattr(cause, 'strerror', None) or cause}{near(path)}") from cause


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping. Raises ``RunError``: it cannot be read, or it is no such file."""
    return _decoded(path, read_bytes(path))


def _decoded(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: damaged (no UTF-8 text: {error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise RunError(f"{path}: damaged (nested too deeply)") from error
    except ValueError as error:
        raise RunError(f"{path}: damaged (no JSON: {error})") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: damaged (holds no mapping)")
    return content


def parse_json(path: Path, content: Mapping[str, Any], form: type[Form], *, remedy: str) -> Form:
    """What a file of ours holds, as a dataclass ``form``; surplus keys are ignored where it allows them. Raises ``RunError`` that
    names the first wrong key of the file at ``path``, and says what to do."""
    try:
        parsed: Form = adapter_of(form).validate_python(content)
        return parsed
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        # What a form says of itself as a whole names its keys.
        what = f"{where}: {first['msg'].lower()}" if where else first["msg"].removeprefix("Value error, ")
        raise RunError(f"{path}: damaged ({what}); {remedy}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file for people and programs. Raises ``RunError``."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def canonical_sha256(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
