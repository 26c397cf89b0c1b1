"""May a headline be believed? A verdict from the diagnostics of the systems that it compares, and from how varied they answer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.evaluation.constant_predictor import CONSTANT, constant_predictor
from pipeline.reporting import wording
from pipeline.reporting.comparisons import Answer
from pipeline.reporting.data import Arm, Condition, Study

_STEPS = "loss against steps"
_SEARCHES = (_STEPS, "survivors misclassified", "Square against white-box")
"""Checks that attack the system, of which one at least has to say something."""


class Verdict(StrEnum):
    """On a headline."""

    TRUSTED = "trusted"
    """Every system was checked, and no check failed."""
    NOT_TRUSTED = "not trusted"
    """A check failed, or a system was not checked: the headline is not printed as an answer."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed check of one system."""

    condition: Condition
    name: str
    findings: tuple[str, ...]
    """Of each seed that failed."""
    advice: str


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The verdict, and why."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """Systems with the checks that they failed, and those that were not checked; empty for ``TRUSTED``."""
    images: int = 0
    """On how many images searches were tried, of the system with the fewest."""

    def __str__(self) -> str:
        """``not trusted because of learned masks: Square against white-box``"""
        return f"{self.verdict.value}{' because of ' if self.reasons else ''}{'; '.join(self.reasons)}"


def failures(study: Study) -> tuple[Failure, ...]:
    """Every failed check of every system, that of constant predictors last where its records alone tell it."""
    found: dict[tuple[Condition, str], list[tuple[int, Check]]] = {}
    for arm in study.arms:
        for check in arm.checks or ():
            if check.outcome == Outcome.FAIL:
                found.setdefault((arm.condition, check.name), []).append((arm.seed, check))
    for condition, arms in study.by_condition("main").items():
        told = [(arm.seed, constant_predictor(arm.records, arm.summary.classes)) for arm in arms]
        failed = [(seed, check) for seed, check in told if check.outcome == Outcome.FAIL]
        if failed:
            found.setdefault((condition, CONSTANT), failed)
    return tuple(
        Failure(
            condition=condition,
            name=name,
            findings=tuple(f"seed {seed}: {check.finding}" for seed, check in failed),
            advice=failed[0][1].advice,
        )
        for (condition, name), failed in found.items()
    )


def judge(answer: Answer, study: Study, failed: Sequence[Failure]) -> Trust:
    """The verdict on the comparisons of one answer. ``failed`` is what ``failures`` says of the study."""
    arms = study.by_condition("main")
    conditions = list(dict.fromkeys(side for one in answer.comparisons for side in (one.first, one.second)))
    reasons = _doubts(conditions, arms, failed)
    verdict = Verdict.NOT_TRUSTED if reasons else Verdict.TRUSTED
    checks = [check for condition in conditions for arm in arms[condition] for check in arm.checks or ()]
    images = min((int(check.figures.get("images", 0)) for check in checks if check.name == _STEPS), default=0)
    return Trust(verdict=verdict, reasons=reasons, images=images)


def without_doubtful(answer: Answer, study: Study, failed: Sequence[Failure]) -> Answer:
    """The answer that counts learned systems only where a verdict on them alone would be that they are trusted."""
    arms = study.by_condition("main")
    kept = tuple(one for one in answer.all_learned if not _doubts([one.first], arms, failed))
    return replace(answer, all_learned=kept, num_doubtful=len(answer.all_learned) - len(kept))


def warning(systems: Mapping[str, tuple[Iterable[Condition], Sequence[Failure]]]) -> str | None:
    """Which systems that are compared failed a check. For each run, named where there are several: what is compared of it, and what
    ``failures`` says of it."""
    doubts = [
        f"{f'{run}: ' if run else ''}{wording.system_text(failure.condition)}: {failure.name}"
        for run, (conditions, failed) in systems.items()
        for failure in failed
        if failure.condition in set(conditions)
    ]
    return f"Differences from these are not to be trusted, because a check failed. {'. '.join(doubts)}." if doubts else None


def _doubts(conditions: Sequence[Condition], arms: Mapping[Condition, list[Arm]], failed: Sequence[Failure]) -> tuple[str, ...]:
    """Systems with the checks that they failed, then those that were not checked."""
    return (
        *(f"{one.tested} masks: {failure.name}" for one in conditions for failure in failed if failure.condition == one),
        *(f"{one.tested} masks: not checked" for one in conditions if not all(map(_is_checked, arms[one]))),
    )


def _is_checked(arm: Arm) -> bool:
    """Some search was tried: what can be told of a system without attacking it says little of an attack."""
    return any(check.outcome != Outcome.SKIP and check.name in _SEARCHES for check in arm.checks or ())
