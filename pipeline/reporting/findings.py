"""What the records of a study say: every system's figures, and the comparisons between them.

One seed: shares have Wilson intervals at the effective number of images. Several seeds: the interval is that of
``statistics.pooled_over_seeds``, and the figures of each seed stand beside it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from pipeline.evaluation import statistics
from pipeline.evaluation.statistics import Estimate, mean_estimate, pooled_over_seeds
from pipeline.reporting.comparisons import Answer, Comparison, answered, compared, generator
from pipeline.reporting.data import Arm, Condition, Role, Study, per_image, verdicts


@dataclass(frozen=True, kw_only=True)
class SystemFigures:
    """One system, pooled over its seeds. The unit is the image."""

    condition: Condition
    role: Role
    seeds: tuple[int, ...]
    clean: Estimate
    seed_clean: tuple[Estimate, ...]
    """The same for each seed."""
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
    """Work out every figure."""
    roles: tuple[Role, ...] = ("main", "degradation", "diagnostic")
    systems = tuple(_figures(arms, role, study) for role in roles for arms in study.by_condition(role).values())
    comparisons = compared(study)
    headline = [comparison for comparison in comparisons if comparison.epsilon == study.headline]
    return Findings(
        systems=systems,
        comparisons=tuple(comparisons),
        answers=tuple(answered(objective, headline) for objective in study.classifier_objectives),
    )


def share(values: Bool[np.ndarray, "seeds images"], groups: Shaped[np.ndarray, " images"], key: str) -> Estimate:
    """A share with its interval: Wilson's for one seed, else pooled over seeds.

    Where all images of all seeds say the same, resampling knows no spread; the interval is then Wilson's for one seed.
    """
    if len(values) == 1 or values.all() or not values.any():
        return statistics.share(values[0], groups)
    return pooled_over_seeds(values.astype(np.float64), groups, generator(key))


def mean(values: Float[np.ndarray, "seeds images"], groups: Shaped[np.ndarray, " images"], key: str) -> Estimate:
    """A mean over images with its interval: BCa bootstrap for one seed, else pooled over seeds."""
    rng = generator(key)
    return mean_estimate(values[0], groups, rng) if len(values) == 1 else pooled_over_seeds(values, groups, rng)


def _figures(arms: list[Arm], role: Role, study: Study) -> SystemFigures:
    key = f"{role} {arms[0].condition}"
    robust, seed_robust, iou = {}, {}, {}
    for epsilon in study.epsilons:
        stands, groups = verdicts(arms, epsilon)
        robust[epsilon] = share(stands, groups, f"robust {key} {epsilon}")
        seed_robust[epsilon] = tuple(statistics.share(row, groups) for row in stands)
        if arms[0].condition.uses_segmenter:
            iou[epsilon] = mean(*per_image(arms, "adversarial_mask_iou", epsilon), f"iou {key} {epsilon}")
    predictions, groups = per_image(arms, "clean_prediction", None)
    right = predictions == per_image(arms, "label", None)[0]
    checks = [check for arm in arms for check in arm.checks or ()]
    return SystemFigures(
        condition=arms[0].condition,
        role=role,
        seeds=tuple(arm.seed for arm in arms),
        clean=share(right, groups, f"clean {key}"),
        seed_clean=tuple(statistics.share(row, groups) for row in right),
        robust=robust,
        seed_robust=seed_robust,
        clean_iou=mean(*per_image(arms, "clean_mask_iou", None), f"clean iou {key}"),
        attacked_iou=iou,
        passed=sum(check.outcome == "PASS" for check in checks),
        failed=sum(check.outcome == "FAIL" for check in checks),
        unchecked=sum(arm.checks is None for arm in arms),
        seconds=sum(arm.seconds for arm in arms),
    )
