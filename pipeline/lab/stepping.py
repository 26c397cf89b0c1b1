"""The points of a running attack, one at a time: from a function that tells an observer to a generator that can be left."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from torch import Tensor

from pipeline.attacks.tracker import Observer

Result = TypeVar("Result")


class _Left(Exception):  # noqa: N818
    """Nobody looks on any more."""


def stepwise(attack: Callable[[Observer], Result]) -> Generator[Tensor, None, Result]:
    """Run ``attack(observer)`` in a thread of its own and yield what its observer is told, a point of every image at a time.

    The attack waits at every point until the next one is asked for, so it is never ahead by more than one. The generator returns
    what the attack does, and raises what it raises. Closed before its end, it ends the attack at the point where that is, and
    returns when it has ended.
    """
    told: SimpleQueue[Tensor | None] = SimpleQueue()
    wanted = threading.Semaphore(1)  # the first point may be looked for at once
    left = threading.Event()
    outcome: Future[Result] = Future()

    def observer(points: Tensor, margins: Tensor) -> None:
        del margins  # of the copy that the search climbs; what is shown is asked of the system
        wanted.acquire()
        if left.is_set():
            raise _Left
        told.put(points)

    def run() -> None:
        try:
            outcome.set_result(attack(observer))
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            told.put(None)

    thread = threading.Thread(target=run, name="attack", daemon=True)
    thread.start()
    try:
        while (points := told.get()) is not None:
            wanted.release()
            yield points
    finally:
        left.set()
        wanted.release()
        thread.join()
    return outcome.result()
