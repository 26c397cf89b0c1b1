"""What the records of a study say: every system's figures, and the paired comparisons that answer its question.

One seed: shares have Wilson intervals, differences the paired bootstrap and the exact McNemar test. Several seeds: the interval
is that of ``statistics.pooled_over_seeds``. The p value is then the largest of the seeds' own (1 where their differences point both
ways): it is small only where every seed alone shows the difference (an intersection-union test, Berger 1982,
https://doi.org/10.1080/00401706.1982.10487790). Holm's correction is over all comparisons at one epsilon.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float

from pipeline.evaluation.statistics import (
    Estimate,
    PairedComparison,
    compare,
    holm,
    mean_estimate,
    pooled_over_seeds,
    smallest_detectable_difference,
    wilson,
)
from pipeline.reporting.study import Arm, Condition, Role, Study, per_image, verdicts

SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class SystemFigures:
    """One system, pooled over its seeds. The unit is the image."""

    condition: Condition
    role: Role
    seeds: tuple[int, ...]
    clean: Estimate
    robust: dict[float, Estimate]
    """By epsilon: share of images that no attack has felled."""
    seed_robust: dict[float, tuple[Estimate, ...]]
    """The same for each seed."""
    clean_iou: Estimate
    attacked_iou: dict[float, Estimate]
    """By epsilon: mean IoU with the oracle on each image's worst adversarial image. Empty for masks no segmenter predicts."""
    passed: int
    failed: int
    """Sanity checks over all seeds."""
    unchecked: int
    """Seeds without a sanity report."""
    seconds: float


class Conclusion(StrEnum):
    """What a comparison allows to say."""

    HIGHER = "higher"
    LOWER = "lower"
    UNCONFIRMED = "unconfirmed"
    """The interval leaves out 0, the corrected test does not agree."""
    OPEN = "open"
    """The interval holds 0."""


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
    """Smallest difference that one seed's images would have shown with 80 % power; None where none would."""
    by_seed: tuple[PairedComparison, ...]
    first_value: float
    second_value: float

    @property
    def conclusion(self) -> Conclusion:
        if self.difference.low <= 0 <= self.difference.high:
            return Conclusion.OPEN
        if self.adjusted >= SIGNIFICANT:
            return Conclusion.UNCONFIRMED
        return Conclusion.HIGHER if self.difference.value > 0 else Conclusion.LOWER


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one classifier objective contributes to the answer, at the headline's epsilon; None where an arm is missing."""

    classifier_objective: str
    oracle_none: Comparison | None
    learned_none: Comparison | None
    oracle_learned: Comparison | None

    @property
    def comparisons(self) -> list[Comparison]:
        """Those that there are."""
        return [one for one in (self.oracle_none, self.learned_none, self.oracle_learned) if one is not None]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that tables and figures show."""

    systems: tuple[SystemFigures, ...]
    comparisons: tuple[Comparison, ...]
    answers: tuple[Answer, ...]

    def of_role(self, role: Role, classifier_objective: str | None = None) -> list[SystemFigures]:
        """In the order of the run."""
        chosen = [figures for figures in self.systems if figures.role == role]
        return [figures for figures in chosen if classifier_objective in (None, figures.condition.classifier_objective)]


def find(study: Study) -> Findings:
    """Work out every figure. Draws depend on what is estimated alone, so an added arm changes no other interval."""
    roles: tuple[Role, ...] = ("main", "degradation", "diagnostic")
    systems = tuple(_figures(arms, role, study) for role in roles for arms in study.groups(role).values())
    comparisons = _comparisons(study)
    headline = [comparison for comparison in comparisons if comparison.epsilon == study.headline]
    return Findings(
        systems=systems,
        comparisons=tuple(comparisons),
        answers=tuple(_answer(objective, headline) for objective in study.classifier_objectives),
    )


def share(values: Bool[np.ndarray, "seeds images"], key: str) -> Estimate:
    """A share with its interval: Wilson's for one seed, else pooled over seeds.

    Where all images of all seeds say the same, resampling knows no spread; the interval is then Wilson's for one seed.
    """
    if len(values) == 1 or values.all() or not values.any():
        return wilson(int(values[0].sum()), values.shape[1])
    return pooled_over_seeds(values.astype(np.float64), _rng(key))


def mean(values: Float[np.ndarray, "seeds images"], key: str) -> Estimate:
    """A mean over images with its interval: BCa bootstrap for one seed, else pooled over seeds."""
    return mean_estimate(values[0], _rng(key)) if len(values) == 1 else pooled_over_seeds(values, _rng(key))


def _figures(arms: list[Arm], role: Role, study: Study) -> SystemFigures:
    key = f"{role} {arms[0].condition}"
    robust, seed_robust, iou = {}, {}, {}
    for epsilon in study.epsilons:
        _, stands = verdicts(arms, epsilon)
        robust[epsilon] = share(stands, f"robust {key} {epsilon}")
        seed_robust[epsilon] = tuple(wilson(int(row.sum()), len(row)) for row in stands)
        if arms[0].condition.uses_segmenter:
            iou[epsilon] = mean(per_image(arms, "adversarial_mask_iou", epsilon), f"iou {key} {epsilon}")
    right = per_image(arms, "clean_prediction", None) == per_image(arms, "label", None)
    checks = [check for arm in arms for check in arm.checks or ()]
    return SystemFigures(
        condition=arms[0].condition,
        role=role,
        seeds=tuple(arm.seed for arm in arms),
        clean=share(right, f"clean {key}"),
        robust=robust,
        seed_robust=seed_robust,
        clean_iou=mean(per_image(arms, "clean_mask_iou", None), f"clean iou {key}"),
        attacked_iou=iou,
        passed=sum(check.outcome == "PASS" for check in checks),
        failed=sum(check.outcome == "FAIL" for check in checks),
        unchecked=sum(arm.checks is None for arm in arms),
        seconds=sum(arm.seconds for arm in arms),
    )


def _comparisons(study: Study) -> list[Comparison]:
    """The family at each epsilon above 0: oracle - none, and for each learned system learned - none and oracle - learned."""
    groups = study.groups("main")
    found = []
    for epsilon in (epsilon for epsilon in study.epsilons if epsilon > 0):
        family = []
        for objective in study.classifier_objectives:
            for name, first, second in _pairs([key for key in groups if key.classifier_objective == objective]):
                comparison = _compare(name, groups[first], groups[second], epsilon)
                family += [comparison] if comparison is not None else []
        adjusted = holm([comparison.p_value for comparison in family])
        found += [replace(comparison, adjusted=p) for comparison, p in zip(family, adjusted, strict=True)]
    return found


def _pairs(conditions: Sequence[Condition]) -> list[tuple[str, Condition, Condition]]:
    plain = {
        key.test_masks: key for key in conditions if key.train_masks == key.test_masks and key.test_masks in ("none", "oracle")
    }
    none, oracle = plain.get("none"), plain.get("oracle")
    pairs = [("oracle - none", oracle, none)]
    for learned in sorted((key for key in conditions if key.test_masks in ("learned", "learned-hard")), key=_plainness):
        pairs += [(f"{learned.test_masks} - none", learned, none), (f"oracle - {learned.test_masks}", oracle, learned)]
    return [(name, first, second) for name, first, second in pairs if first is not None and second is not None]


def _plainness(learned: Condition) -> tuple[bool, bool, bool]:
    """What the answer's sentences are about comes first: the soft gate, a classifier trained on such masks, a natural segmenter."""
    return learned.test_masks != "learned", learned.train_masks != learned.test_masks, learned.segmenter_objective != "natural"


def _compare(name: str, first: list[Arm], second: list[Arm], epsilon: float) -> Comparison | None:
    seeds = sorted({arm.seed for arm in first} & {arm.seed for arm in second})
    if not seeds:
        return None
    of_first, of_second = ([arm for arm in arms if arm.seed in seeds] for arms in (first, second))
    _, both = verdicts(of_first + of_second, epsilon)
    ours, theirs = both[: len(seeds)], both[len(seeds) :]
    rng = _rng(f"{name} {first[0].condition} {second[0].condition} {epsilon}")
    by_seed = tuple(compare(one, other, rng) for one, other in zip(ours, theirs, strict=True))
    differences = ours.astype(np.float64) - theirs
    discordance = float(np.abs(differences).mean())
    return Comparison(
        name=name,
        first=first[0].condition,
        second=second[0].condition,
        epsilon=epsilon,
        difference=by_seed[0].difference if len(seeds) == 1 or np.ptp(differences) == 0 else pooled_over_seeds(differences, rng),
        p_value=_under_every_seed(by_seed),
        adjusted=1.0,
        detectable=smallest_detectable_difference(both.shape[1], discordance) if discordance else None,
        by_seed=by_seed,
        first_value=float(ours.mean()),
        second_value=float(theirs.mean()),
    )


def _under_every_seed(by_seed: Sequence[PairedComparison]) -> float:
    signs = {np.sign(comparison.difference.value) for comparison in by_seed}
    return max(comparison.p_value for comparison in by_seed) if len(signs) == 1 else 1.0


def _answer(objective: str, comparisons: list[Comparison]) -> Answer:
    ours = [comparison for comparison in comparisons if comparison.first.classifier_objective == objective]

    def first(start: str, end: str) -> Comparison | None:
        return next((one for one in ours if one.name.startswith(start) and one.name.endswith(end)), None)

    return Answer(
        classifier_objective=objective,
        oracle_none=first("oracle", "none"),
        learned_none=first("learned", "none"),
        oracle_learned=next((one for one in ours if one.name.startswith("oracle - learned")), None),
    )


def _rng(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))
