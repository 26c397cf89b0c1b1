"""Who works in a directory: a lock on a file in it, which ends with its process, however that ends."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import OccupiedError, RunError


@contextmanager
def locked(lock: Path, *, busy: str) -> Iterator[None]:
    """Hold the lock on a file, which is made where there is none.

    Raises OccupiedError(busy) at once where another process holds it, and RunError where the file cannot be written.
    """
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise OccupiedError(busy, lock) from error
    except OSError as error:
        raise RunError(f"{lock}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        held.release()


def wait_until_free(lock: Path) -> None:
    """Return when nobody holds the lock on a file, or when there is no such file. Raises OSError where it cannot be opened."""
    if lock.exists():
        with suppress(FileNotFoundError), FileLock(lock):  # the directory may have been renamed by now
            pass
