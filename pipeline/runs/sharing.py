"""One piece of work by any number of processes, on one machine or on many with a common disk: each takes a part that nobody has.

Who has which part is said by locks on files, which end with their process, however that ends: what a killed process had is free
at once, and nobody has to guess after what time it counts as dead. What is finished is said by the results alone.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from pipeline.errors import OccupiedError, writing
from pipeline.runs.locking import locked

POLL_S = 0.5
"""How often a process that finds no free part looks again."""


Turns = Callable[[Callable[[], Sequence[int]], Callable[[int], None]], None]
"""``turns(missing, work)`` calls ``work`` until ``missing`` names no part: in which order, and by whom, parts are done."""


def alone(missing: Callable[[], Sequence[int]], work: Callable[[int], None]) -> None:
    """By this process, one after the other."""
    for part in missing():
        work(part)


class Together:
    """By all processes that come here with the same directory of claims."""

    def __init__(self, claims: Path, results: Path, *, waiting: Callable[[], None]) -> None:
        """``claims`` and ``results`` are directories, there or not; ``waiting`` is called while all that is missing is in hands."""
        self._claims, self._results, self._waiting = claims, results, waiting

    def __call__(self, missing: Callable[[], Sequence[int]], work: Callable[[int], None]) -> None:
        """Returns when nothing is missing: a part whose process is killed meanwhile is taken over. Raises RunError where no claim
        can be written, and what ``work`` raises."""
        for directory in (self._claims, self._results):
            _make(directory)
        while left := missing():
            if not any(self._takes(part, missing, work) for part in left):
                self._waiting()
                time.sleep(POLL_S)

    def _takes(self, part: int, missing: Callable[[], Sequence[int]], work: Callable[[int], None]) -> bool:
        """Whether the part was free, and has been done now."""
        try:
            with locked(self._claims / f"{part:05d}.lock", busy="another process has it"):
                _look_afresh(self._results)
                if part not in missing():  # the one that had it has finished
                    return False
                work(part)
                return True
        except OccupiedError as busy:
            if busy.lock is None or busy.lock.parent != self._claims:  # of the work, not of the claim
                raise
            return False


def once(claim: Path, results: Path, *, done: Callable[[], bool], work: Callable[[], None]) -> bool:
    """Do what all processes want done, in the first that comes; the others wait, and take over if it ends without. Whether it was
    this one. ``done`` says by what lies in the directory ``results`` that nothing is left to do."""
    _make(claim.parent)
    with locked(claim, busy=None):
        _look_afresh(results)
        if done():
            return False
        work()
        return True


def _make(directory: Path) -> None:
    with writing(directory, cannot="be made"):
        directory.mkdir(parents=True, exist_ok=True)


def _look_afresh(directory: Path) -> None:
    """See what other machines have put into a directory. A network file system may answer from memory; what this machine changes
    itself makes it ask again."""
    with writing(directory), NamedTemporaryFile(dir=directory, prefix="."):
        pass
