"""One evaluation by several processes: what each shows of the whole, and which of them sums up."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import OccupiedError
from pipeline.progress import Advance, progress_bar
from pipeline.runs.locking import locked
from pipeline.runs.sharing import Together, Turns, alone

CLAIMS = ".claims"
"""Where processes say what they are at, in the directory of an evaluation."""
_LOOK_S = 2.0


class WholeProgress:
    """Progress of what all processes do together, shown by one of them: by another one when that has ended."""

    def __init__(self, claim: Path, description: str, *, missing: Callable[[], int], unit: str, stack: ExitStack) -> None:
        self._claim, self._description, self._missing, self._unit, self._stack = claim, description, missing, unit, stack
        self._total = self._left = missing()
        self._looked_at = 0.0
        self._step: Advance | None = None

    def __call__(self, _: int = 0) -> None:
        """Look at what is finished by now, at most every few seconds."""
        if time.monotonic() - self._looked_at < _LOOK_S:
            return
        self._looked_at = time.monotonic()
        left = self._missing()
        if self._step is None and self._may_show():
            self._step = self._stack.enter_context(progress_bar(self._description, total=self._total, unit=self._unit))
            self._left = self._total
        if self._step is not None and left < self._left:
            self._step(self._left - left)
        self._left = left

    def _may_show(self) -> bool:
        self._claim.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._stack.enter_context(locked(self._claim, busy="another process shows it"))
        except OccupiedError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Show:
    """How a process stands to the others at a run."""

    run: Path
    shared: bool
    """There may be others."""
    shown: bool
    """It may show their progress."""


@contextmanager
def progress_and_turns(
    show: Show, description: str, *, results: Path, missing: Callable[[], int], unit: str
) -> Iterator[tuple[Callable[[int], object], Turns]]:
    """What to tell of finished steps, and how the parts are done: by this process, or by all that share the run."""
    claims = show.run / CLAIMS
    with ExitStack() as stack:
        if not show.shared:
            yield stack.enter_context(progress_bar(description, total=missing(), unit=unit)), alone
        elif not show.shown:
            yield (lambda _: None), Together(claims / description, results, waiting=lambda: None)
        else:
            progress = WholeProgress(claims / "progress.lock", description, missing=missing, unit=unit, stack=stack)
            progress()
            yield progress, Together(claims / description, results, waiting=progress)
