"""One attack on one image under several systems side by side: all that was seen of it, frame by frame."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from pipeline.ablation.counterfactual import Attribution
from pipeline.errors import ConfigError, UserError
from pipeline.lab.arms import Arm
from pipeline.lab.bench import Bench, Sample
from pipeline.lab.config import MOST_ARMS, Settings
from pipeline.lab.frames import AttackedImage, Frame, Phase


@dataclass(kw_only=True)
class View:
    """One system: what it has shown so far, or why it shows nothing."""

    arm: Arm
    label: int | None = None
    """The class that counts as right."""
    frames: list[Frame] = field(default_factory=list)
    note: str | None = None
    """Why it cannot be shown, or is not attacked."""
    attribution: Attribution | None = None
    """By what the image was lost; None where it was not, or the mask has no part in it."""
    follows_image: bool = False
    """An attacker can move the mask."""

    @property
    def finished(self) -> bool:
        """The result is there."""
        return bool(self.frames) and self.frames[-1].phase == Phase.RESULT

    def at(self, position: int | None) -> Frame | None:
        """The frame at a position of the trial, or the last one before it; None: the newest. None where there is none."""
        return None if not self.frames else self.frames[-1 if position is None else min(position, len(self.frames) - 1)]


@dataclass(kw_only=True)
class Trial:
    """What is seen."""

    bench: Bench
    sample: Sample
    settings: Settings
    views: tuple[View, ...]

    @property
    def num_frames(self) -> int:
        """Of the system that has shown most."""
        return max((len(view.frames) for view in self.views), default=0)


def prepare(bench: Bench, arms: Sequence[Arm], sample: Sample, settings: Settings) -> tuple[Trial, list[AttackedImage | None]]:
    """Look at the clean image under every system. A system that cannot be shown has a note in place of frames.

    Raises ConfigError for no system and for more than fit.
    """
    if not 1 <= len(arms) <= MOST_ARMS:
        raise ConfigError(f"systems: choose one to {MOST_ARMS} of them, to be shown side by side")
    views, attacked_images = [], []
    for arm in arms:
        view, attacked_image = View(arm=arm), None
        try:
            if arm.source.needs_data and sample.mask is None:
                raise ConfigError("Its mask is the data set's own, and this picture has none.")
            system = bench.system(arm)
            attacked_image = AttackedImage(system, sample, bench.device)
            view.label, view.follows_image = attacked_image.label, system.mask_traits.is_attackable
            view.frames.append(attacked_image.clean)
            if settings.region != "everywhere" and sample.mask is None:
                where = settings.region.value
                view.note = f"The region {where} follows the data set's outline, and this picture has none: choose everywhere."
            elif (reason := attacked_image.why_skipped(settings)) is not None:
                view.note = f"Not attacked: {reason}."
        except UserError as error:
            view.note = str(error)
        views.append(view)
        attacked_images.append(attacked_image)
    return Trial(bench=bench, sample=sample, settings=settings, views=tuple(views)), attacked_images


def run(trial: Trial, attacked_images: Sequence[AttackedImage | None]) -> Generator[Trial]:
    """Attack under every system that can be, a point of each in turn; yields the trial after every turn.

    The last frame of a system is what ``attack`` returns. Closed before its end, it ends the attacks.
    """
    running: dict[int, Generator[Frame]] = {}
    for position, (view, attacked_image) in enumerate(zip(trial.views, attacked_images, strict=True)):
        if attacked_image is not None and view.note is None:
            running[position] = attacked_image.frames(trial.settings)
    try:
        for frames in running.values():
            next(frames)  # the clean image, which is there
        while running:
            for position in list(running):
                view, attacked_image = trial.views[position], attacked_images[position]
                assert attacked_image is not None
                view.frames.append(next(running[position]))
                if view.finished:
                    view.attribution = attacked_image.attribution(view.frames[-1])
                    running.pop(position).close()
            yield trial
    finally:
        for frames in running.values():
            frames.close()
