"""What an ablation is about to do, in lines: what is trained, reused, attacked, and how long that took before."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from pipeline.evaluation.experiment import AblateConfig
from pipeline.evaluation.grid import (
    ClassifierPiece,
    DecompositionPiece,
    EvaluationPiece,
    Piece,
    SegmenterPiece,
    SilhouettePiece,
    arms,
)
from pipeline.evaluation.work import Store


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
    """How long such pieces took here; None: never measured."""


_VERBS = {
    SegmenterPiece: "train",
    ClassifierPiece: "train",
    SilhouettePiece: "train",
    EvaluationPiece: "attack",
    DecompositionPiece: "explain",
}


def outlook(store: Store, pieces: Sequence[Piece]) -> list[Step]:
    """The steps in order. A piece whose ingredients are not there yet counts as new."""
    steps = []
    for piece in pieces:
        work = store.look(piece)
        state = State.NEW
        if work is not None and work.begun:
            state = State.REUSED if work.finished else State.CONTINUED
        steps.append(Step(piece=piece, state=state, seconds=store.estimate(piece)))
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
        cost = "" if step.state is State.REUSED else f"  [{duration(step.seconds)}]"
        text.append(f"{number:>4}  {verb(step.piece):<7}  {step.state.value:<9}  {step.piece.title}{cost}")
    left = [step for step in steps if step.state is not State.REUSED]
    text.append(f"to do: {len(left)} of {len(steps)} pieces; {remaining(left)}")
    return text


def remaining(steps: Sequence[Step]) -> str:
    """How long steps will take, as far as such pieces were measured on this machine."""
    known = [step.seconds for step in steps if step.seconds is not None]
    unknown = len(steps) - len(known)
    if not steps:
        return "nothing is left to do"
    if not known:
        return "time unknown, nothing of the kind was measured here yet"
    note = f", and {unknown} piece{'s' * (unknown > 1)} of a kind not measured yet" if unknown else ""
    return f"{duration(sum(known))}, as such pieces took here{note}"


def duration(seconds: float | None) -> str:
    """``about 40 s``, ``about 12 min``, ``about 3.5 h``; None is ``time unknown``."""
    if seconds is None:
        return "time unknown"
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
