"""Who works in a directory: a lock on a file in it, which ends with its process, however that ends."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import OccupiedError, RunError


@contextmanager
def locked(lock: Path, *, busy: str) -> Iterator[None]:
    """Hold the lock on a file, which is made where there is none.

    Raises OccupiedError(busy) at once where another process holds it, and RunError where the file cannot be written. File systems
    without locks are trusted.
    """
    try:
        file = lock.open("ab")
    except OSError as error:
        raise RunError(f"{lock}: cannot be written: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise OccupiedError(busy, lock) from error
        yield


def wait_until_free(lock: Path) -> None:
    """Return when nobody holds the lock on a file, or when there is no such file. Raises OSError where it cannot be opened."""
    try:
        with lock.open("r+b") as file:  # never makes one: the directory may have been renamed by now
            fcntl.flock(file, fcntl.LOCK_EX)
    except FileNotFoundError:
        return
