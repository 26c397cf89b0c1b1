"""What the page does, without the page: a run that is looked at again and again, and what one visitor sees of it."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipeline.errors import InputError, NumberError, UserError
from pipeline.lab.arms import NotYetError
from pipeline.lab.bench import Bench, Sample, open_bench
from pipeline.lab.config import LabConfig, Settings
from pipeline.lab.trial import Trial, prepare, run

SETTLE_S = 0.15
"""An attack waits so long before it begins: a slider that is dragged wants many, and the last one counts."""


@dataclass(kw_only=True)
class Session:
    """One visitor: the newest trial, and which request it belongs to."""

    trial: Trial | None = None
    request: int = 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is attacked, as the controls have it."""

    image: int | None
    """Of the test split; None where there is none, or a photo is meant."""
    photo: Path | None
    label: int | None
    """What the photo shows; None: nobody says."""
    arms: Sequence[str]
    settings: Settings


@dataclass(kw_only=True)
class Desk:
    """The run of a laboratory, shared by all visitors."""

    config: LabConfig
    device: torch.device
    bench: Bench | None = None
    trouble: str | None = None
    """Why there is nothing to attack."""
    _looking: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def look(self, *, first: bool = False) -> None:
        """Look at the run; it may be being written. A trouble takes the place of what was seen; at ``first`` one that time does not
        mend is raised: a UserError."""
        with self._looking:
            try:
                config = self.config
                self.bench = open_bench(
                    config.run, prepared=config.prepared, segmenter_run=config.segmenter_run, device=self.device
                )
                self.trouble = None
            except UserError as error:
                if first and not isinstance(error, NotYetError):
                    raise
                self.bench, self.trouble = None, str(error)

    def sample(self, choice: Choice) -> Sample:
        """What is attacked. Raises InputError."""
        bench = self._open_bench()
        if choice.photo is not None:
            return bench.photo(choice.photo, choice.label)
        if choice.image is None:
            raise InputError("choose an image of the test split, or drop in a photo")
        return bench.test_image(choice.image)

    def first(self, choice: Choice) -> Trial:
        """The clean image under the chosen systems. Raises UserError."""
        bench = self._open_bench()
        trial, _ = prepare(bench, [bench.arm(name) for name in choice.arms], self.sample(choice), choice.settings)
        return trial

    def attack(self, session: Session, choice: Choice) -> Iterator[Trial | None]:
        """Attack, and yield the trial as it grows. A newer request of the visitor ends it at its next frame, and None comes last.

        Raises UserError, and NumberError where the system answers with what is no number.
        """
        session.request += 1
        mine = session.request
        time.sleep(SETTLE_S)
        if session.request != mine:
            yield None
            return
        bench = self._open_bench()
        trial, attacked_images = prepare(bench, [bench.arm(name) for name in choice.arms], self.sample(choice), choice.settings)
        session.trial = trial
        yield trial
        try:
            with closing(run(trial, attacked_images)) as running:
                for _ in running:
                    if session.request != mine:
                        yield None
                        return
                    yield trial
        except FloatingPointError as error:
            raise NumberError(f"the attack was blind on this image ({error}): choose another one, or another system") from error

    def stop(self, session: Session) -> None:
        """End what is running."""
        session.request += 1

    def _open_bench(self) -> Bench:
        if self.bench is None:
            raise InputError(self.trouble or "there is no run")
        return self.bench
