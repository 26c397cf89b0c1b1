"""SIGINT (Ctrl-C), SIGTERM and SIGHUP: work is brought to a safe place, and the command says where it goes on.

Under ``signals_handled`` a signal raises ``Interrupted`` where the program stands. Work that loses something by that stands in
``held_back`` and looks at ``interruption()`` where it can stop. A second signal ends the process at once.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_ACT_S = 0.2
"""Signals so close to each other are one: ``timeout`` and job systems send theirs to a process and to its group."""
_WAKE = signal.SIGURG
"""Makes the main thread look for what has arrived. By itself it means nothing, and is ignored where nobody handles it."""
_NAMES = {signal.SIGINT: "Ctrl-C"}


class Interrupted(KeyboardInterrupt):
    """A signal has ended the work. The message says what is kept and how to go on, once somebody who knows has put it there."""

    def __init__(self, number: signal.Signals, where: str = "") -> None:
        super().__init__(f"interrupted by {_NAMES.get(number, number.name)} {where}".rstrip())
        self.number, self.where = number, where

    @classmethod
    def by(cls, cause: KeyboardInterrupt, where: str) -> "Interrupted":
        """By what an earlier message was about: ``interrupted by SIGTERM`` and ``where``."""
        return cls(getattr(cause, "number", signal.SIGINT), where)

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as shells have it: 130, 143 or 129."""
        return 128 + self.number


class _Arrived:
    """What has arrived. Handlers are a property of the process, and so is this."""

    handled: bool = False
    number: signal.Signals | None = None
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
        raise Interrupted(_Arrived.number)


@contextmanager
def let_through() -> Iterator[None]:
    """Within ``held_back``: in here a signal raises at once again, and so does one that has been waiting."""
    held, _Arrived.held = _Arrived.held, 0
    try:
        if _Arrived.number is not None:
            raise Interrupted(_Arrived.number)
        yield
    finally:
        _Arrived.held = held


@contextmanager
def told(where: str) -> Iterator[None]:
    """What comes out of here interrupted says ``where``, unless it says something already."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if getattr(interrupt, "where", ""):
            raise
        raise Interrupted.by(interrupt, where) from interrupt


@contextmanager
def signals_handled() -> Iterator[None]:
    """Handle the signals meanwhile; afterwards their handlers are what they were. One that is ignored by ``nohup`` stays ignored.

    Does nothing outside the main thread, which alone gets signals, and inside itself.
    """
    if threading.current_thread() is not threading.main_thread() or _Arrived.handled:
        yield
        return
    _Arrived.handled, _Arrived.number, held = True, None, _Arrived.held
    handled = [number for number in SIGNALS if number is signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _handle) for number in handled}
    previous[_WAKE] = signal.signal(_WAKE, _woken)
    try:
        with _second_one_ends_at_once():
            yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _Arrived.handled, _Arrived.held = False, held


@contextmanager
def signals_unhandled() -> Iterator[None]:
    """Within ``signals_handled``: in here a signal ends the process as it does without us.

    For a call that may wait for other processes for ever and meanwhile lets no handler run, while there is nothing to lose.
    """
    ours = [number for number in SIGNALS if signal.getsignal(number) is _handle]
    for number in ours:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    del frame
    if _Arrived.number is None:
        _Arrived.number = signal.Signals(number)
        if not _Arrived.held:
            raise Interrupted(_Arrived.number)


def _woken(number: int, frame: FrameType | None) -> None:
    del number, frame


def _forked() -> None:
    """A forked child is not the process whose work is brought to a safe place, and must not tell that one's thread either."""
    if _Arrived.handled:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) is _handle:
                signal.signal(number, signal.SIG_DFL)
        _Arrived.handled = False


os.register_at_fork(after_in_child=_forked)


@contextmanager
def _second_one_ends_at_once() -> Iterator[None]:
    """By a thread, which hears of signals also while the main thread is in a long call of torch, where no handler runs."""
    main = threading.get_ident()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        first = None
        while number := int.from_bytes(os.read(reader, 1)):
            if number not in SIGNALS:  # that somebody else handles, such as the end of a child
                continue
            if first is None:
                first = time.monotonic()
                # Another thread may have been told; and polars, once imported, lets a lock go on waiting after a SIGINT.
                signal.pthread_kill(main, _WAKE)
            elif time.monotonic() - first > SAME_ACT_S:
                os._exit(128 + number)

    watcher = threading.Thread(target=watch, name="second-signal", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        _Arrived.held += 1  # one that comes now comes too late: the work is done
        signal.set_wakeup_fd(previous)
        os.write(writer, bytes(1))
        watcher.join()
        os.close(writer)
        os.close(reader)
