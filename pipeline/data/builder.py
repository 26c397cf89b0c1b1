"""Writing a prepared data set: several processes, bounded memory, all or nothing."""

import errno
import json
import multiprocessing
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.dataset import FILES, MANIFEST, REJECTS, failed, open_prepared, read_manifest
from pipeline.data.sample import Plan, Reject, Sample
from pipeline.data.store import Store, write_manifest
from pipeline.errors import DataError, OccupiedError
from pipeline.interrupts import temporary, told
from pipeline.progress import progress_bar
from pipeline.runs.files import canonical_sha256, sync
from pipeline.runs.locking import locked
from pipeline.workers import Workers, leave_to_parent

# How many items each process may be ahead: enough to keep it busy, and a bound on the decoded images that wait in memory.
ITEMS_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What ``write_prepared`` did."""

    unchanged: bool
    """True: the directory was there already, made by the same recipe from the same source files, and is intact."""
    num_samples: int
    counts: dict[str, dict[str, int]]
    """Samples by split and class name."""
    rejects: dict[str, int]
    """Rejected objects by rule."""
    notes: dict[str, int]
    """Samples that something is to be said of, by the names of ``rules.NOTES``."""
    seconds: float


def write_prepared(plan: Plan, target: Path, *, name: str, image_size: int, root: Path | None, workers: int) -> Outcome:
    """Turn a plan into the prepared data set ``target``.

    The directory is written under a temporary name beside ``target`` and renamed when every byte is on the disk, so it is either
    complete or absent; where no usable sample is left, it holds rejects.csv alone, which the next call replaces. ``workers``
    processes decode (0: in this process); the result does not depend on how many. ``root`` is the source's root, to which the
    recorded paths of the source files are relative.

    Raises DataError: target exists with another recipe, source or damage; no samples; a class that cannot be trained on.
    Raises OccupiedError where another process is writing it, RunError where the lock beside it cannot be made.
    """
    made_from = {"name": name, "image_size": image_size, "recipe": dict(plan.recipe), "source": _source_signature(plan.files, root)}
    made_from = json.loads(json.dumps(made_from))
    if target.exists() and not failed(target):
        return _existing(target, made_from)
    started = time.monotonic()
    with (
        partial_directory(target) as partial,
        told(f"before {target} was complete, so nothing of it is kept; the same command begins it anew"),
    ):
        store = Store(partial, image_size, plan.rejects)
        try:
            with progress_bar("preparing", total=len(plan.items), unit="items") as advance:
                for results in _load_all(plan, workers):
                    store.add(results)
                    advance()
        finally:
            store.close()
        try:
            manifest = store.finish(plan.classes, made_from, plan.without_sample, learnable=plan.for_training)
        except DataError as error:
            for name in (*FILES, MANIFEST):
                if name != REJECTS:
                    (partial / name).unlink(missing_ok=True)
            _put(partial, target)
            raise DataError(f"{error}; each one is in {target / REJECTS}") from error
        manifest["seconds"] = round(time.monotonic() - started, 3)
        write_manifest(partial, manifest)
    return _outcome(manifest, unchanged=False)


def _put(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``, in the place of the rejects of an earlier call."""
    sync(partial)
    if failed(target):
        shutil.rmtree(target)
    partial.rename(target)
    sync(target.parent)


def _outcome(manifest: dict[str, Any], *, unchanged: bool) -> Outcome:
    told = ("num_samples", "counts", "rejects", "notes", "seconds")
    return Outcome(unchanged=unchanged, **{name: manifest[name] for name in told})


def _existing(target: Path, made_from: dict[str, Any]) -> Outcome:
    manifest = read_manifest(target)
    for key, value in made_from.items():
        if manifest[key] != value:
            what = "other or changed source files" if key == "source" else f"another {_first_difference(manifest[key], value, key)}"
            raise DataError(f"{target}: was made with {what}; choose another prepared=DIR, or delete this one to make it anew")
    open_prepared(target)
    return _outcome(manifest, unchanged=True)


def _first_difference(old: Any, new: Any, key: str) -> str:
    """The dotted key and both values of the first difference between two JSON-able values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                return _first_difference(old.get(name), new.get(name), f"{key}.{name}")
    return f"{key} ({old!r}, now {new!r})"


def _source_signature(files: Sequence[Path], root: Path | None) -> str:
    """Tells whether the source changed: relative paths, sizes and modification times of all its files."""
    lines = []
    for file in files:
        state = file.stat()
        lines.append([str(file.relative_to(root) if root else file), state.st_size, state.st_mtime_ns])
    return canonical_sha256(sorted(lines))


def _load_all(plan: Plan, workers: int) -> Iterator[list[Sample | Reject]]:
    if workers == 0:
        yield from map(plan.load, plan.items)
        return
    # spawn: forking a process that runs threads (the progress bar, polars) can deadlock.
    context, processes = multiprocessing.get_context("spawn"), Workers()
    with processes.starting():
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    with pool:
        waiting: deque[Future[list[Sample | Reject]]] = deque()
        try:
            for item in plan.items:
                with processes.starting():
                    waiting.append(pool.submit(plan.load, item))
                if len(waiting) >= ITEMS_AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a decoding process died (out of memory?); run again with fewer workers=...") from error
        except BaseException:  # of the caller, too, as it closes this generator
            processes.kill()  # else the pool waits for all that it was given, and for processes that are still starting
            raise


def _begin_worker() -> None:
    import cv2

    leave_to_parent()
    cv2.setNumThreads(1)


@contextmanager
def partial_directory(target: Path) -> Iterator[Path]:
    """An empty temporary directory beside ``target``, renamed to it on success and removed on any failure.

    Only who holds the lock touches it. The lock lies outside, because the directory comes and goes, and is never deleted: a second
    process could otherwise wait for the deleted file while a third locks a new one.
    """
    partial, lock = (target.parent / f".{target.name}.{ending}" for ending in ("partial", "lock"))
    busy = f"{target}: another process is preparing it right now"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from error
    with locked(lock, busy=busy):
        if target.exists() and not failed(target):  # the other process came to its end between our look and our lock
            raise OccupiedError(busy, lock)
        try:
            if partial.exists():  # of a run that was killed
                shutil.rmtree(partial)
            with temporary(partial):
                partial.mkdir()
                yield partial
                _put(partial, target)
        except OSError as error:
            if not _forbids_writing(error, partial, target):
                raise
            raise DataError(f"{target}: cannot be written ({error.strerror}); nothing was kept") from error


def _forbids_writing(error: OSError, *places: Path) -> bool:
    """Whether an error says that one of these directories cannot be written, and not that something else cannot be read."""
    if isinstance(error.filename, str | os.PathLike):
        return any(Path(error.filename).is_relative_to(place) for place in places)
    return error.errno in _FULL  # what goes wrong with an open file names no file


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
