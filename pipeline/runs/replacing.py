"""A directory that is there whole or not at all: made beside its place, moved there when it is complete."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import writing
from pipeline.interrupts import held_back, temporary, unbroken


@contextmanager
def new_directory(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """An empty directory to be filled, which takes the place of ``target`` at the end; after an exception all is as before.

    Between two renames there is no target for a moment, never half of one. Of a symbolic link what it points to is meant. Without
    ``replace`` only an empty directory is replaced, whatever has appeared meanwhile. Raises RunError where the directory cannot be
    made or cannot take its place; what is raised while it is filled is left as it is.
    """
    place = Path(os.path.realpath(target))
    with writing(target):
        place.parent.mkdir(parents=True, exist_ok=True)
        made = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
        made.mkdir()
    with temporary(made):
        yield made
        with held_back(), unbroken(), writing(target):  # between its two renames nothing is in the place
            _take_place(made, place, replace=replace)


def _take_place(made: Path, target: Path, *, replace: bool) -> None:
    if not (replace and target.exists()):
        os.replace(made, target)  # the system refuses it where the target is a directory that is not empty
        return
    old = made.with_name(made.name + "-old")
    os.replace(target, old)
    try:
        os.replace(made, target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
