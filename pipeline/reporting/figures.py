"""What the records of a study say: every system's figures, and the comparisons between them.

One seed: shares have Wilson intervals at the effective number of images. Several seeds: the interval is that of
``statistics.pooled_over_seeds``, for shares never within Wilson's, and the figures of each seed stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from pipeline.attacks.diagnostics import Outcome
from pipeline.evaluation import statistics
from pipeline.evaluation.metrics import on_shared_images
from pipeline.evaluation.statistics import Estimate, mean_estimate, pooled_over_seeds
from pipeline.progress import progress_bar
from pipeline.reporting.comparisons import Answer, Comparison, answered, compared, generator
from pipeline.reporting.data import Arm, Condition, Role, Study
from pipeline.reporting.metrics import ACCURACY, MASK_IOU, METRICS, Metric


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric of one system at one epsilon."""

    pooled: Estimate
    by_seed: tuple[Estimate, ...] = ()
    """The same for each seed; of shares only."""


@dataclass(frozen=True, kw_only=True)
class SystemFigures:
    """One system, pooled over its seeds. The unit is the image."""

    condition: Condition
    role: Role
    seeds: tuple[int, ...]
    measured: dict[str, dict[float, Measured]]
    """By measure and epsilon; 0 is not attacked. Under attack only where the metric applies to the system."""
    passed: int
    failed: int
    """Sanity checks over all seeds."""
    unchecked: int
    """Seeds without a sanity report."""

    def at(self, metric: Metric, epsilon: float) -> Estimate:
        """Its figure at an epsilon."""
        return self.measured[metric.measure][epsilon].pooled

    def curve(self, metric: Metric) -> dict[float, Estimate]:
        """Its figures by epsilon, ascending from 0."""
        return {epsilon: measured.pooled for epsilon, measured in self.measured[metric.measure].items()}

    def is_share(self, metric: Metric) -> bool:
        """The metric is a share of images, and no mean over them."""
        return bool(self.measured[metric.measure][0.0].by_seed)

    @property
    def clean(self) -> Estimate:
        return self.at(ACCURACY, 0.0)

    @property
    def clean_iou(self) -> Estimate:
        return self.at(MASK_IOU, 0.0)

    def robust(self, epsilon: float) -> Estimate:
        """Share of images that no attack up to this epsilon has turned."""
        return self.at(ACCURACY, epsilon)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Everything that tables and plots show."""

    systems: tuple[SystemFigures, ...]
    comparisons: tuple[Comparison, ...]
    answers: tuple[Answer, ...]

    def of_role(self, role: Role) -> list[SystemFigures]:
        """In the order of the run."""
        return [figures for figures in self.systems if figures.role == role]

    def under(self, metric: Metric) -> list[SystemFigures]:
        """The main systems that a metric says something about."""
        return [figures for figures in self.of_role("main") if metric.applies(figures.condition)]


def panels_of(systems: Sequence[SystemFigures]) -> dict[str, list[SystemFigures]]:
    """What is drawn together, by classifier objective. Systems of the user's own stand beside those of every objective; where there
    are no others, each by its name."""
    own = [one for one in systems if one.condition.is_own]
    trained = [one for one in systems if not one.condition.is_own]
    names = dict.fromkeys(one.condition.classifier_objective for one in trained or own)
    beside = own if trained else []
    return {name: [*(one for one in trained or own if one.condition.classifier_objective == name), *beside] for name in names}


def compute_figures(study: Study, metrics: Sequence[Metric] = METRICS) -> Figures:
    """Work out every figure. The metrics hold accuracy and mask IoU."""
    roles: tuple[Role, ...] = ("main", "degradation", "diagnostic")
    wanted = [(role, arms) for role in roles for arms in study.by_condition(role).values()]
    systems = []
    with progress_bar("figures", total=len(wanted), unit="systems") as advance:
        for role, arms in wanted:
            systems.append(_figures(arms, role, study, metrics))
            advance()
    comparisons = compared(study)
    primary = [comparison for comparison in comparisons if comparison.epsilon == study.primary_epsilon]
    return Figures(
        systems=tuple(systems),
        comparisons=tuple(comparisons),
        answers=tuple(answered(objective, primary) for objective in study.classifier_objectives),
    )


def share(
    values: Bool[np.ndarray, "seeds images"],
    groups: Shaped[np.ndarray, " images"],
    key: str,
    *,
    confidence: float = statistics.CONFIDENCE,
) -> Estimate:
    """``statistics.share_over_seeds``, by draws that are named after what is estimated."""
    return statistics.share_over_seeds(values, groups, generator(key), confidence=confidence)


def mean(values: Float[np.ndarray, "seeds images"], groups: Shaped[np.ndarray, " images"], key: str) -> Estimate:
    """A mean over images with its interval: BCa bootstrap for one seed, else pooled over seeds."""
    rng = generator(key)
    return mean_estimate(values[0], groups, rng) if len(values) == 1 else pooled_over_seeds(values, groups, rng)


def _figures(arms: list[Arm], role: Role, study: Study, metrics: Sequence[Metric]) -> SystemFigures:
    condition = arms[0].condition
    checks = [check for arm in arms for check in arm.checks or ()]
    return SystemFigures(
        condition=condition,
        role=role,
        seeds=tuple(arm.seed for arm in arms),
        measured={
            metric.measure: {
                epsilon: _measured(arms, role, metric, epsilon)
                for epsilon in (0.0, *(study.attacked if metric.applies(condition) else ()))
            }
            for metric in metrics
        },
        passed=sum(check.outcome == Outcome.PASS for check in checks),
        failed=sum(check.outcome == Outcome.FAIL for check in checks),
        unchecked=sum(arm.checks is None for arm in arms),
    )


def _measured(arms: list[Arm], role: Role, metric: Metric, epsilon: float) -> Measured:
    values, groups = on_shared_images([metric.values(arm.records, epsilon) for arm in arms])
    clean, attacked = metric.draws
    key = f"{role} {arms[0].condition.draws}"
    named = f"{attacked} {key} {epsilon}" if epsilon else f"{clean} {key}"
    if values.dtype != bool:
        return Measured(pooled=mean(values.astype(np.float64), groups, named))
    return Measured(pooled=share(values, groups, named), by_seed=tuple(statistics.share(row, groups) for row in values))
