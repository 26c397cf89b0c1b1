"""Who works in a directory: a lock on a file in it, which ends with its process, however that ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import OccupiedError, RunError, writing


@contextmanager
def locked(lock: Path, *, busy: str | None) -> Iterator[None]:
    """Hold the lock on a file, which is made where there is none.

    Where another process holds it, raises OccupiedError(busy) at once, or waits where ``busy`` is None. Raises RunError where the
    file cannot be written.
    """
    held = FileLock(lock, timeout=-1 if busy is None else 0)
    with writing(lock):
        try:
            held.acquire()
        except Timeout as error:
            raise OccupiedError(str(busy), lock) from error
    try:
        yield
    finally:
        held.release()


@contextmanager
def locked_together(lock: Path, *, busy: str) -> Iterator[None]:
    """Hold the lock on a file with all others who hold it like this; ``locked`` is kept out meanwhile.

    Raises OccupiedError(busy) at once where a process has it by ``locked``, and RunError where the file cannot be written.
    """
    with writing(lock):
        file = lock.open("a+b")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OccupiedError(busy, lock) from error
        except OSError as error:
            raise RunError(f"{lock}: cannot be locked: {error.strerror or error}") from error
        yield


def wait_until_free(lock: Path) -> None:
    """Return when nobody holds the lock on a file, or when there is no such file. Raises OSError where it cannot be opened."""
    if lock.exists():
        with suppress(FileNotFoundError), FileLock(lock):  # the directory may have been renamed by now
            pass
