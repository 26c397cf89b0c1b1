"""Progress of long work on stderr: a live bar with rate and remaining time on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 15.0


@runtime_checkable
class Advance(Protocol):
    """Tell how much has been finished since the last time."""

    def __call__(self, steps: int = 1) -> None: ...


@contextmanager
def progress_bar(description: str, *, total: int, unit: str) -> Iterator[Advance]:
    """Yield a function to call with the number of finished steps out of ``total``, one by one or several together."""
    if sys.stderr.isatty():
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeElapsedColumn()
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(description, total=total)
            yield lambda steps=1: progress.advance(task, steps)
    else:
        yield _lines(description, total, unit)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self._unit}/s" if speed else "")


def _lines(description: str, total: int, unit: str) -> Advance:
    """For logs: one line every few seconds instead of a bar that redraws itself."""
    done, started = 0, time.monotonic()
    last = started

    def advance(steps: int = 1) -> None:
        nonlocal done, last
        done, now = done + steps, time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last, rate = now, done / (now - started)
        left = max(0, total - done) / rate  # the total of a stream may be an estimate
        print(f"{description}: {done}/{total} {unit}, {rate:.1f} {unit}/s, {left:.0f} s left", file=sys.stderr, flush=True)

    return advance
