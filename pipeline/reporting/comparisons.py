"""The paired comparisons that answer the question, and the one that the answer is about.

One seed: Tango's score interval and the exact sign-flip test over groups. Several seeds: the interval is that of
``statistics.difference_over_seeds``, and the p value is the largest of the seeds' own (1 where their differences point both ways):
it is small only where every seed alone shows the difference (an intersection-union test, Berger 1982,
https://doi.org/10.1080/00401706.1982.10487790), and it speaks of these trained models. Holm's correction is over all comparisons
at one epsilon.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from pipeline.evaluation.primary_comparison import primary_rank
from pipeline.evaluation.statistics import Estimate, PairedComparison, compare, difference_over_seeds, holm
from pipeline.masks.config import MaskSource
from pipeline.reporting.data import Arm, Condition, Study, verdicts

SIGNIFICANT, POWER = 0.05, 0.8
DUST = 1e-12
"""What rounding may leave of an end of an interval that is 0."""


class Conclusion(StrEnum):
    """What a comparison allows to say."""

    HIGHER = "higher"
    LOWER = "lower"
    UNCONFIRMED = "unconfirmed"
    """The test alone shows a difference, corrected for the number of comparisons it does not."""
    OPEN = "open"
    """The test alone does not show a difference, or the interval holds 0."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Robust accuracy of the first system minus that of the second, on the same images."""

    name: str
    """``oracle - none``"""
    first: Condition
    second: Condition
    epsilon: float
    difference: Estimate
    p_value: float
    adjusted: float
    """After Holm over all comparisons at this epsilon."""
    detectable: float | None
    """Smallest difference that every seed together would have shown with 80 % power in a family of this size, at the level of
    Holm's first step; None where so few images differ that it cannot be estimated."""
    by_seed: tuple[PairedComparison, ...]
    first_value: float
    second_value: float

    @property
    def conclusion(self) -> Conclusion:
        if self.p_value >= SIGNIFICANT or (self.difference.low <= DUST and self.difference.high >= -DUST):
            return Conclusion.OPEN
        if self.adjusted >= SIGNIFICANT:
            return Conclusion.UNCONFIRMED
        return Conclusion.HIGHER if self.difference.value > 0 else Conclusion.LOWER

    @property
    def discordant(self) -> int:
        """The most images that the two systems differ on under one seed."""
        return max(one.only_first + one.only_second for one in self.by_seed)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one classifier objective contributes to the answer, at the headline's epsilon; None where an arm is missing."""

    classifier_objective: str
    oracle_none: Comparison | None
    learned_none: Comparison | None
    """Of the learned system that ``pipeline.evaluation.primary_comparison`` ranks first."""
    oracle_learned: Comparison | None
    """Of the same learned system."""
    all_learned: tuple[Comparison, ...] = ()
    """Every learned system minus none."""
    num_doubtful: int = 0
    """Learned systems that are not among them, because a check failed or was not made."""

    @property
    def agreeing(self) -> list[Comparison]:
        """Learned systems of which the same can be said against none as of the one that the answer is about."""
        return [one for one in self.all_learned if self.learned_none and one.conclusion is self.learned_none.conclusion]

    @property
    def comparisons(self) -> list[Comparison]:
        """Those that there are."""
        return [one for one in (self.oracle_none, self.learned_none, self.oracle_learned) if one is not None]


def compared(study: Study) -> list[Comparison]:
    """The family at each epsilon above 0: oracle - none, and for each learned system learned - none and oracle - learned."""
    arms = study.by_condition("main")
    pairs = [
        (name, arms[first], arms[second])
        for objective in study.classifier_objectives
        for name, first, second in _pairs([key for key in arms if not key.is_own and key.classifier_objective == objective])
    ]
    return families(pairs, study.attacked)


def compared_with_own(study: Study) -> list[Comparison]:
    """The family at each epsilon above 0 of systems of the user's own: each minus every system that was trained here without masks,
    with the oracle's or with learned ones, and minus every other one of the user's own that stands before it.

    A family of its own: a system that is added changes nothing of the answer.
    """
    arms, own = study.by_condition("main"), study.own
    others = [key for key in arms if not key.is_own and (key.test_masks in ("none", "oracle") or key.uses_segmenter)]
    pairs = [(one, other) for place, one in enumerate(own) for other in [*others, *own[:place]]]
    short = {other: other.classifier_objective if other.is_own else other.test_masks for _, other in pairs}
    named = [(f"{one.classifier_objective} - {short[other]}", arms[one], arms[other]) for one, other in pairs]
    return families(named, study.attacked)


def families(pairs: Sequence[tuple[str, list[Arm], list[Arm]]], epsilons: Iterable[float]) -> list[Comparison]:
    """Pairs of systems, compared at each epsilon by themselves: with Holm's correction, and what each would have shown under it. A
    pair without a seed in common is left out."""
    found = []
    for epsilon in epsilons:
        family = [_compare_systems(name, first, second, epsilon) for name, first, second in pairs]
        kept = [one for one in family if one is not None]
        for one, adjusted in zip(kept, holm([one.p_value for one in kept]), strict=True):
            found.append(replace(one, adjusted=adjusted, detectable=_detectable(one.by_seed, len(kept))))
    return found


def answered(objective: str, comparisons: Sequence[Comparison]) -> Answer:
    """The answer for one classifier objective from the comparisons at one epsilon."""
    ours = [one for one in comparisons if one.first.classifier_objective == objective]
    against_none = [one for one in ours if one.first.uses_segmenter]
    behind = {one.second: one for one in ours if one.second.uses_segmenter}
    learned = sorted({one.first for one in against_none} | set(behind), key=primary_rank)
    return Answer(
        classifier_objective=objective,
        oracle_none=next((one for one in ours if one.name == "oracle - none"), None),
        learned_none=next((one for one in against_none if one.first == learned[0]), None),
        oracle_learned=behind.get(learned[0]) if learned else None,
        all_learned=tuple(against_none),
    )


def generator(key: str) -> np.random.Generator:
    """Draws depend on what is estimated alone, so an added arm changes no other interval."""
    return np.random.default_rng(zlib.crc32(key.encode()))


def _pairs(conditions: Sequence[Condition]) -> list[tuple[str, Condition, Condition]]:
    plain = {
        key.test_masks: key for key in conditions if key.train_masks == key.test_masks and key.test_masks in ("none", "oracle")
    }
    none, oracle = plain.get("none"), plain.get("oracle")
    pairs = [("oracle - none", oracle, none)]
    moving = (key for key in conditions if MaskSource(key.test_masks).is_learned)
    for learned in sorted(moving, key=primary_rank):
        pairs += [(f"{learned.test_masks} - none", learned, none), (f"oracle - {learned.test_masks}", oracle, learned)]
    return [(name, first, second) for name, first, second in pairs if first is not None and second is not None]


def _compare_systems(name: str, first: list[Arm], second: list[Arm], epsilon: float) -> Comparison | None:
    """Two systems under the seeds that both have, on the images that all of these have met, not corrected.

    None without such a seed. Raises ValueError where they share no image.
    """
    seeds = sorted({arm.seed for arm in first} & {arm.seed for arm in second})
    if not seeds:
        return None
    of_first, of_second = ([arm for arm in arms if arm.seed in seeds] for arms in (first, second))
    both, groups = verdicts(of_first + of_second, epsilon)
    ours, theirs = both[: len(seeds)], both[len(seeds) :]
    by_seed = tuple(compare(one, other, groups) for one, other in zip(ours, theirs, strict=True))
    rng = generator(f"{name} {first[0].condition.draws} {second[0].condition.draws} {epsilon}")
    agree = len({np.sign(one.difference.value) for one in by_seed}) == 1
    return Comparison(
        name=name,
        first=first[0].condition,
        second=second[0].condition,
        epsilon=epsilon,
        difference=difference_over_seeds(ours, theirs, groups, rng),
        p_value=max(one.p_value for one in by_seed) if agree else 1.0,
        adjusted=1.0,
        detectable=None,
        by_seed=by_seed,
        first_value=float(ours.mean()),
        second_value=float(theirs.mean()),
    )


def _detectable(by_seed: Sequence[PairedComparison], family: int) -> float | None:
    """Every seed has to show it, so each with a power whose product over the seeds is the one that is asked for."""
    each = [one.detectable(level=SIGNIFICANT / family, power=POWER ** (1 / len(by_seed))) for one in by_seed]
    known = [one for one in each if one is not None]
    return max(known) if len(known) == len(each) else None
