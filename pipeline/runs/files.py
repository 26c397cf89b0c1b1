"""Files of ours: written whole or not at all, read with one line about what is wrong, known by their SHA-256."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.config import adapter_of
from pipeline.errors import RunError

Form = TypeVar("Form")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader, or whoever comes after a crash, finds the old content or the new. Raises ``RunError``."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_and_flush(temporary, content)
        os.replace(temporary, path)
        _flush_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write_and_flush(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that a run has written. Raises ``RunError``: there is none, it cannot be read, or it holds no mapping."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: cannot be read: it holds no mapping")
    return content


def parse_json(path: Path, content: Mapping[str, Any], form: type[Form], *, remedy: str) -> Form:
    """What a file of ours holds, as a dataclass ``form``; surplus keys are ignored. Raises ``RunError`` that names the first wrong
    key of the file at ``path``, and says what to do."""
    try:
        parsed: Form = adapter_of(form).validate_python(content)
        return parsed
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{path}: damaged ({where}: {first['msg'].lower()}); {remedy}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file for people and programs. Raises ``RunError``."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def canonical_sha256(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
