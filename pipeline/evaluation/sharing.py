"""One evaluation by several processes: what each shows of the whole, and which of them sums up."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
        if self._step is None:
            self._claim.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OccupiedError):
                self._stack.enter_context(locked(self._claim, busy="another process shows it"))
                self._step = self._stack.enter_context(progress_bar(self._description, total=self._total, unit=self._unit))
                self._left = self._total
        if self._step is not None and left < self._left:
            self._step(self._left - left)
        self._left = left


@contextmanager
def progress_and_turns(
    description: str, *, results: Path, missing: Callable[[], int], unit: str, shared: bool, shown: bool
) -> Iterator[tuple[Callable[[int], object], Turns]]:
    """What to tell of finished steps, and how the parts are done: by this process, or by all that share the run. Results lie in a
    directory of the run; where it is ``shared`` there may be others, and one that is ``shown`` may show their progress."""
    claims = results.parent / CLAIMS
    with ExitStack() as stack:
        if not shared:
            yield stack.enter_context(progress_bar(description, total=missing(), unit=unit)), alone
        elif not shown:
            yield (lambda _: None), Together(claims / description, results, waiting=lambda: None)
        else:
            progress = WholeProgress(claims / "progress.lock", description, missing=missing, unit=unit, stack=stack)
            progress()
            yield progress, Together(claims / description, results, waiting=progress)
