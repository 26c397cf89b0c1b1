"""Worker processes: they leave signals to their parent, and end with it, however it ended."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

from pipeline.interrupts import SIGNALS, held_back

_PARENT_POLL_S = 0.5


class Workers:
    """The worker processes of one owner."""

    def __init__(self) -> None:
        self._processes: set[BaseProcess] = set()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """For their start: what is sent to all of them waits until they have called ``leave_to_parent``."""
        others = set(multiprocessing.active_children())
        with held_back():  # half a start would leave a process that nobody knows; other threads hear what is blocked in this one
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            resource_tracker.ensure_running()  # a process beside the first worker: it does not ignore SIGHUP by itself, ...
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # ... and its start has unblocked the others
            try:
                yield
            finally:
                self._processes |= set(multiprocessing.active_children()) - others
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill(self) -> None:
        """End them at once: for workers that hold nothing which their owner needs to go on.

        One that is still starting hears no signal for seconds, and the end of one that has loaded torch takes as long.
        """
        with _ends_unnoticed():
            for process in self._processes:
                process.kill()
            for process in self._processes:
                process.join()


@contextmanager
def _ends_unnoticed() -> Iterator[None]:
    """The end of a worker is no fault here, for which torch's handler takes it. Only the main thread has handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)


def leave_to_parent(worker: int = 0) -> None:
    """For a worker that was started within ``Workers.starting``: its parent alone decides what a signal to all of them means.

    The worker ends with its parent, and by a SIGTERM that comes from it. ``worker`` is its number, which is what the
    ``worker_init_fn`` of a DataLoader gets.
    """
    del worker
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "sigtimedwait"):  # SIGTERM stays blocked
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGHUP))
        _end_when_parent_does(_terminated_by_parent)
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        end_with_parent()


def end_with_parent(parent: int | None = None) -> None:
    """End this process within a second of its parent's end, however that ended: without it workers of a killed command stay.

    ``parent`` is its number, where that is known from before this process looked. To repeat it is harmless.
    """
    _end_when_parent_does(_slept, parent)


def interrupt_with_parent() -> None:
    """Within a second of its parent's end, however that ended, this process gets a SIGTERM: for one that handles signals itself and
    has something to keep."""
    _end_when_parent_does(_slept, end=lambda: os.kill(os.getpid(), signal.SIGTERM))


def _end_when_parent_does(
    ended: Callable[[int], bool], number: int | None = None, end: Callable[[], None] = lambda: os._exit(1)
) -> None:
    name, process = "end-with-parent", multiprocessing.parent_process()
    known = process.pid if number is None and process is not None else number
    parent = os.getppid() if known is None else known
    if any(thread.name == name for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent and not ended(parent):
            pass
        end()

    threading.Thread(target=watch, name=name, daemon=True).start()


def _slept(parent: int) -> bool:
    del parent
    time.sleep(_PARENT_POLL_S)
    return False


def _terminated_by_parent(parent: int) -> bool:
    sent = signal.sigtimedwait((signal.SIGTERM,), _PARENT_POLL_S)
    return sent is not None and sent.si_pid == parent
