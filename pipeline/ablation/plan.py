"""What an ablation is about to do, in lines: what is trained, reused, attacked, and roughly how long."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from pipeline.ablation.cache import Store
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.grid import (
    ClassifierPiece,
    DecompositionPiece,
    EvaluationPiece,
    Piece,
    SegmenterPiece,
    SilhouettePiece,
    arms,
)


class State(StrEnum):
    """How far a piece is."""

    REUSED = "reused"
    CONTINUED = "continued"
    NEW = "new"


class Step(NamedTuple):
    """A piece and what is known of it before it is begun."""

    piece: Piece
    state: State
    seconds: float | None
    """How long such pieces took here, else how long they should take; None: not known."""
    measured: bool
    """Such pieces were measured here."""


_VERBS = {
    SegmenterPiece: "train",
    ClassifierPiece: "train",
    SilhouettePiece: "train",
    EvaluationPiece: "attack",
    DecompositionPiece: "explain",
}


def outlook(store: Store, pieces: Sequence[Piece], guess: Callable[[Piece], float] | None = None) -> list[Step]:
    """The steps in order. A piece whose ingredients are not there yet counts as new.

    ``guess``: seconds of a piece where none of its kind was measured, ``forecast.Forecast.seconds``.
    """
    steps = []
    for piece in pieces:
        work = store.look(piece)
        state = State.NEW
        if work is not None and work.begun:
            state = State.REUSED if work.finished else State.CONTINUED
        seconds = store.estimate(piece)
        measured = seconds is not None
        if not measured and guess is not None and state is not State.REUSED:
            seconds = guess(piece)
        steps.append(Step(piece=piece, state=state, seconds=seconds, measured=measured))
    return steps


def verb(piece: Piece) -> str:
    """What is done to a piece: train, attack or explain."""
    return _VERBS[type(piece)]


def lines(config: AblateConfig, steps: Sequence[Step], *, prepared: bool) -> list[str]:
    """The plan for people."""
    systems, seeds = len(arms(config)), len(config.seeds)
    stages = sum(isinstance(step.piece, SegmenterPiece | ClassifierPiece) for step in steps)
    epsilons = len(config.attack.threat.epsilons)
    text = [
        f"{config.experiment}: {systems} systems of {stages} trained stages, {seeds} seed{'s' * (seeds > 1)};"
        f" {len(config.attack.attacks)} attacks at {epsilons} epsilon{'s' * (epsilons > 1)}"
    ]
    if not prepared:
        text.append(f"      prepare  new        {config.data.source} images into {config.prepared}")
    for number, step in enumerate(steps, start=1):
        cost = "" if step.state is State.REUSED else f"  [{duration(step.seconds, measured=step.measured)}]"
        text.append(f"{number:>4}  {verb(step.piece):<7}  {step.state.value:<9}  {step.piece.title}{cost}")
    left = [step for step in steps if step.state is not State.REUSED]
    text.append(f"to do: {len(left)} of {len(steps)} pieces; {remaining(left)}")
    return text


def remaining(steps: Sequence[Step]) -> str:
    """How long steps will take, and how that is known."""
    known = [step.seconds for step in steps if step.seconds is not None]
    guessed = sum(not step.measured for step in steps)
    if not steps:
        return "nothing is left to do"
    if len(known) < len(steps):
        return "time unknown until the data are prepared"
    if not guessed:
        return f"{duration(sum(known), measured=True)}, as such pieces took here"
    how = "all" if guessed == len(steps) else f"{guessed} of {len(steps)} pieces"
    return f"{duration(sum(known), measured=False)} ({how} by counting passes through the stages)"


def duration(seconds: float | None, *, measured: bool) -> str:
    """``about 40 s``, ``about 12 min``, ``about 3.5 h``, with ``roughly`` where it was not measured; None is ``time unknown``."""
    if seconds is None:
        return "time unknown"
    how = "about" if measured else "roughly"
    if seconds < 90:
        return f"{how} {max(1, round(seconds))} s"
    return f"{how} {round(seconds / 60)} min" if seconds < 5400 else f"{how} {seconds / 3600:.1f} h"
