"""SIGINT (Ctrl-C), SIGTERM and SIGHUP: work is brought to a safe place, and the command says where it goes on.

Under ``signals_handled`` a signal raises ``Interrupted`` where the program stands. Work that loses something by that stands in
``held_back`` and looks at ``interruption()`` where it can stop. A second signal ends the process at once. A command that has not
ended ``GIVEN_S`` after the first, because one step or one call of torch takes longer, is given up where it stands.
"""

import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GIVEN_S = 2.0
"""Job systems and people wait a few seconds longer, and then kill."""
SAME_ACT_S = 0.2
"""Signals so close to each other are one: ``timeout`` and job systems send theirs to a process and to its group."""
_WAKE = signal.SIGURG
"""Makes the main thread look for what has arrived. By itself it means nothing, and is ignored where nobody handles it."""
_NAMES = {signal.SIGINT: "Ctrl-C"}
_POLL_S = 0.05
_CURSOR_BACK = b"\r\x1b[K\x1b[?25h"
"""To a terminal on which a progress bar was: away with it, and the cursor is seen again."""


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
    raised: bool = False
    """A handler has raised ``Interrupted`` where the program stood."""
    held: int = 0
    places: list[tuple[str | Callable[[], str | None], bool]] = []  # noqa: RUF012 - of the process, as all here
    """What the open ``told`` say, the outermost first, and whether they say it instead of those within."""
    said: str | None = None
    """What the ``Interrupted`` that is on its way out says."""
    temporary: list[Path] = []  # noqa: RUF012 - likewise
    """Directories that are to go with the work."""
    unbroken = threading.RLock()


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
def unbroken() -> Iterator[None]:
    """In here work is not given up: what is kept of it is changing. To be short."""
    with _Arrived.unbroken:
        yield


@contextmanager
def temporary(directory: Path) -> Iterator[None]:
    """Afterwards there is no such directory, also where the work is given up."""
    _Arrived.temporary.append(directory)
    try:
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _Arrived.temporary.remove(directory)


@contextmanager
def told(where: str | Callable[[], str | None], *, instead: bool = False) -> Iterator[None]:
    """What comes out of here interrupted says ``where``, unless it says something already; with ``instead`` also then. An error is
    taken for the interruption after which it comes: compiled code and code of the user's own may have made the one of the other.

    A function is called when it comes to that, in another thread where the work is given up: then it also has to see to it that
    what it says is so. None: another process says it.
    """
    depth = len(_Arrived.places)
    try:
        with unbroken():
            _Arrived.places.append((where, instead))
        yield
    except (KeyboardInterrupt, Exception) as cause:
        if isinstance(cause, KeyboardInterrupt):
            interrupt = cause
        elif _Arrived.raised and _Arrived.number is not None:
            interrupt = Interrupted(_Arrived.number)
        else:
            raise
        if getattr(interrupt, "where", "") and not instead:
            raise
        error = Interrupted.by(interrupt, _text(where) or "")
        _Arrived.said = error.where
        raise error from cause
    finally:
        with unbroken():
            del _Arrived.places[depth:]


def _text(where: str | Callable[[], str | None]) -> str | None:
    return where if isinstance(where, str) else where()


@contextmanager
def signals_handled(given_up: Callable[[Interrupted], None] | None = None) -> Iterator[None]:
    """Handle the signals meanwhile; afterwards their handlers are what they were. One that is ignored by ``nohup`` stays ignored.

    ``given_up`` says, in another thread, how work was interrupted that is given up, and the process ends; without it, as for
    somebody's own process that uses the library, nothing is given up. Does nothing outside the main thread, which alone gets
    signals, and inside itself.
    """
    if threading.current_thread() is not threading.main_thread() or _Arrived.handled:
        yield
        return
    _Arrived.handled, _Arrived.number, _Arrived.raised, _Arrived.said, held = True, None, False, None, _Arrived.held
    handled = [number for number in SIGNALS if number is signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _handle) for number in handled}
    previous[_WAKE] = signal.signal(_WAKE, lambda *_: None)
    hook, sys.unraisablehook = sys.unraisablehook, _quiet(sys.unraisablehook)
    try:
        with _watched(given_up):
            yield
    finally:
        sys.unraisablehook = hook
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


def _quiet(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """One that comes in what lets no exception out (a finalizer) is no news: whoever brings the work to its end tells it."""
    return lambda lost: None if isinstance(lost.exc_value, Interrupted) else hook(lost)


def _handle(number: int, frame: FrameType | None) -> None:
    del frame
    if _Arrived.number is None:
        _Arrived.number = signal.Signals(number)
        if not _Arrived.held:
            _Arrived.raised = True
            raise Interrupted(_Arrived.number)


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
def _watched(given_up: Callable[[Interrupted], None] | None) -> Iterator[None]:
    """By a thread, which hears of signals also while the main thread is in a long call of torch, where no handler runs.

    A second signal ends the process at once, and so does the end of the time that the first one gave.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, threading.get_ident(), given_up), name="signals", daemon=True)
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


def _watch(reader: int, main: int, given_up: Callable[[Interrupted], None] | None) -> None:
    first: float | None = None
    by = signal.SIGTERM
    while True:
        left = None if first is None or given_up is None else max(_POLL_S, first + GIVEN_S - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            if given_up is not None and _Arrived.unbroken.acquire(blocking=False):
                _give_up(by, given_up)
            continue
        number = int.from_bytes(os.read(reader, 1))
        if not number:
            return
        if number not in SIGNALS:  # that somebody else handles, such as the end of a child
            continue
        if first is None:
            first, by = time.monotonic(), signal.Signals(number)  # no handler may have run, and none will in a long call
            # Another thread may have been told; and polars, once imported, lets a lock go on waiting after a SIGINT.
            signal.pthread_kill(main, _WAKE)
        elif time.monotonic() - first > SAME_ACT_S:
            _end(number)


def _give_up(number: signal.Signals, given_up: Callable[[Interrupted], None]) -> None:
    """Say what the main thread would have said, and end the process with its children and temporary directories."""
    try:
        said = _Arrived.said or _said_where_it_stands()
    except Exception as error:  # a disk that is full
        said = f"and nothing more could be kept: {error}"
    if said is None:  # one of several processes: the first says it, and ends them
        time.sleep(1)
    else:
        unread = threading.Timer(_POLL_S * 10, _end, [number])  # who reads what is said may have stopped reading
        unread.daemon = True
        unread.start()
        with suppress(OSError, ValueError):
            given_up(Interrupted(number, said))
        unread.cancel()
        _kill_children()
        for directory in list(_Arrived.temporary):
            shutil.rmtree(directory, ignore_errors=True)
    _end(number)


def _said_where_it_stands() -> str | None:
    said: str | None = ""
    for where, instead in reversed(_Arrived.places):
        if said == "" or (instead and said is not None):
            said = _text(where)
    return said


def _kill_children() -> None:
    """Those that work with this process would take its end for a failure of their own, and say so."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()


def _end(number: int) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        with suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), _CURSOR_BACK)
    os._exit(128 + number)
