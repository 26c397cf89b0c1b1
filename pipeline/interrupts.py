"""SIGINT (Ctrl-C), SIGTERM and SIGHUP: work is brought to a safe place, and the command says where it goes on.

Under ``signals_handled`` a signal raises ``Interrupted`` where the program stands. Work that loses something by that stands in
``held_back`` and looks at ``interruption()`` where it can stop. A second signal ends the process at once.
"""

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_ACT_S = 0.2
"""Signals so close to each other are one: ``timeout`` and job systems send theirs to a process and to its group."""
_PARENT_POLL_S = 0.5
_NAMES = {signal.SIGINT: "Ctrl-C"}


class Interrupted(KeyboardInterrupt):
    """A signal has ended the work. The message says what is kept and how to go on."""

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.number = number
        self.is_told = True
        """Whether the message says how to go on."""

    @classmethod
    def by(cls, cause: "KeyboardInterrupt | signal.Signals", where: str = "") -> "Interrupted":
        """By a signal, or by what an earlier message was about: ``interrupted by SIGTERM`` and ``where``."""
        number = cause if isinstance(cause, signal.Signals) else getattr(cause, "number", signal.SIGINT)
        made = cls(f"interrupted by {_NAMES.get(number, number.name)} {where}".rstrip(), number)
        made.is_told = bool(where)
        return made

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as shells have it: 130, 143 or 129."""
        return 128 + self.number


class _Arrived:
    """What has arrived. Handlers are a property of the process, and so is this."""

    number: signal.Signals | None = None
    at: float = 0.0
    held: int = 0


def interruption() -> signal.Signals | None:
    """The signal that waits for the work to come to a safe place; None while there is none."""
    return _Arrived.number if _Arrived.held else None


@contextmanager
def held_back() -> Iterator[None]:
    """In here a signal waits. One that has not become an ``Interrupted`` by the end becomes one then."""
    _Arrived.held += 1
    try:
        yield
    finally:
        _Arrived.held -= 1
    if _Arrived.number is not None and not _Arrived.held:
        raise Interrupted.by(_Arrived.number)


@contextmanager
def let_through() -> Iterator[None]:
    """Within ``held_back``: in here a signal raises at once again, and so does one that has been waiting."""
    held, _Arrived.held = _Arrived.held, 0
    try:
        if _Arrived.number is not None:
            raise Interrupted.by(_Arrived.number)
        yield
    finally:
        _Arrived.held = held


@contextmanager
def signals_handled() -> Iterator[None]:
    """Handle the signals meanwhile; afterwards their handlers are what they were. One that is ignored by ``nohup`` stays ignored.

    Does nothing outside the main thread, which alone gets signals, and inside itself.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _handle:
        yield
        return
    handled = [number for number in SIGNALS if number is signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _handle) for number in handled}
    _Arrived.number = None
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    del frame
    if _Arrived.number is None:
        _Arrived.number, _Arrived.at = signal.Signals(number), time.monotonic()
        if not _Arrived.held:
            raise Interrupted.by(_Arrived.number)
    elif time.monotonic() - _Arrived.at > SAME_ACT_S:
        os._exit(128 + number)


def leave_to_parent(worker: int = 0) -> None:
    """For a worker process: its parent alone decides what a signal to all of them means, and the worker ends with it.

    ``worker`` is its number, which is what the ``worker_init_fn`` of a DataLoader gets.
    """
    del worker
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent()


def end_with_parent() -> None:
    """End this process within a second of its parent's end, however that ended: without it workers of a killed command stay.

    To repeat it is harmless.
    """
    name, number, parent = "end-with-parent", os.getppid(), multiprocessing.parent_process()
    if any(thread.name == name for thread in threading.enumerate()):
        return

    def watch() -> None:
        if parent is not None:
            parent.join()
        while os.getppid() == number:
            time.sleep(_PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name=name, daemon=True).start()


@contextmanager
def starting_workers() -> Iterator[None]:
    """For the start of daemon processes: what is sent to all of them waits until they have called ``leave_to_parent``.

    They are killed when this process exits, which would else wait for them to obey a SIGTERM.
    """
    resource_tracker.ensure_running()  # started with the first worker, it would unblock two of the signals again
    atexit.register(_kill_workers)  # before multiprocessing's own function, which was registered when it was imported
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_workers() -> None:
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
