"""A directory that is there whole or not at all: made beside its place, moved there when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RunError


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """An empty directory to be filled, which takes the place of ``target`` at the end; after an exception all is as before.

    Between two renames there is no target for a moment, never half of one. Raises RunError where it cannot be written.
    """
    made: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        made.chmod(0o777 & ~_umask())
        yield made
        _take_place(made, target)
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _take_place(made: Path, target: Path) -> None:
    if not target.exists():
        os.replace(made, target)
        return
    old = made.with_name(made.name + "-old")
    os.replace(target, old)
    try:
        os.replace(made, target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _umask() -> int:
    """Directories made by tempfile are closed to others; what is made here is for reading."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
