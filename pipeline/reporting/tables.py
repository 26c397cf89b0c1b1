"""What stands in the tables of a report."""

from collections.abc import Callable, Sequence

from pipeline.attacks.diagnostics import Outcome
from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.comparisons import Comparison
from pipeline.reporting.data import Study
from pipeline.reporting.figures import Figures, SystemFigures
from pipeline.reporting.metrics import ACCURACY, MASK_IOU, Metric
from pipeline.reporting.table import Cell, Column, Row, Table, make_table, numbers, points_cell, tidy_estimate

Described = tuple[Column, Callable[[SystemFigures], Cell]]
"""A column, and what stands in it for a system."""

MASKS: tuple[Described, ...] = (
    (Column("Masks in testing"), lambda figures: Cell(figures.condition.tested)),
    (Column("Masks in training"), lambda figures: Cell(figures.condition.trained)),
)
MASK_COLUMNS = tuple(column for column, _ in MASKS)
COMPARISON_COLUMNS = (
    numbers("Epsilon"),
    numbers("Points", "95 % interval"),
    numbers("p", "Holm"),
    numbers("Only first / only second", "images"),
    numbers("Would show", "points"),
    numbers("By seed", "points"),
)
"""What ``comparison_cells`` fills."""
_SAMPLE = numbers("n", "images x seeds")


def headline(study: Study, found: Figures) -> Table:
    """Clean and robust accuracy of every main system at every epsilon, and what the sanity checks say of it."""
    return of_metric(
        study,
        found.of_role("main"),
        ACCURACY,
        title="All systems",
        trailing=((_SAMPLE, _sample_cell), (Column("Sanity"), _sanity_cell)),
    )


def diagnostic(study: Study, found: Figures) -> Table:
    """The same of arms that are neither compared nor part of the answer."""
    return of_metric(
        study,
        found.of_role("diagnostic"),
        ACCURACY,
        name="diagnostic",
        title="Further systems",
        caption="Accuracy of systems that are neither compared nor part of the answer, in percent with 95 % interval.",
        trailing=((_SAMPLE, _sample_cell),),
    )


def degradation(study: Study, systems: Sequence[SystemFigures]) -> Table:
    """Masks made worse on purpose, the oracle and predicted masks, with their measured IoU, best mask first."""
    return of_metric(
        study,
        sorted(systems, key=lambda figures: -figures.clean_iou.value),
        ACCURACY,
        name="degradation",
        title="Masks of measured quality",
        caption="Accuracy in percent against the quality of the mask, with 95 % interval.",
        leading=(MASKS[0], (numbers("Mask IoU", "clean"), lambda figures: metric_cell(MASK_IOU, figures.clean_iou))),
        trailing=((_SAMPLE, _sample_cell),),
    )


def seeds(study: Study, found: Figures) -> Table:
    """Each training of every main system by itself."""
    rows, tidy = [], []
    for figures in (one for one in found.of_role("main") if not one.condition.is_own):
        for place, seed in enumerate(figures.seeds):
            values = [measured.by_seed[place] for measured in figures.measured[ACCURACY.measure].values()]
            names = (cell(figures) for _, cell in MASKS)
            row = (*names, Cell(str(seed)), *(metric_cell(ACCURACY, value) for value in values))
            rows.append((wording.heading(figures.condition), row))
        tidy += _tidy_of_seeds(figures, ACCURACY)
    return make_table(
        "seeds",
        title="Every training by itself",
        caption="Accuracy in percent of the systems of each training seed, with 95 % Wilson interval: how far trainings differ.",
        columns=(*MASK_COLUMNS, numbers("Seed"), *metric_columns(ACCURACY, (0.0, *study.attacked))),
        rows=rows,
        tidy=tidy,
    )


def comparisons(found: Figures) -> Table:
    """Every paired comparison at every epsilon."""
    rows = []
    for one in found.comparisons:
        learned = next((side for side in (one.first, one.second) if side.uses_segmenter), None)
        detail = (
            "" if learned is None else f"classifier trained with {learned.train_masks}, {learned.segmenter_objective} segmenter"
        )
        rows.append((wording.classifier(one.first.classifier_objective), (Cell(one.name, detail), *comparison_cells(one))))
    caption = (
        "Differences of robust accuracy on the same images, first minus second. p speaks of these trained models: with several "
        "seeds it is that of the seed that shows the difference least, and 1 where seeds point both ways; it is corrected over all "
        "comparisons at one epsilon. Would show: the least difference that every seed would have shown so corrected, four times "
        "in five."
    )
    return make_table(
        "comparisons",
        title="All paired comparisons",
        caption=caption,
        columns=(Column("Difference"), *COMPARISON_COLUMNS),
        rows=rows,
        tidy=map(comparison_tidy, found.comparisons),
    )


def sanity(study: Study) -> Table:
    """Every check of every arm that has a sanity report; failures first."""
    order = (Outcome.FAIL, Outcome.PASS, Outcome.SKIP)
    checked = [(arm, check) for arm in study.arms for check in arm.checks or ()]
    rows = [
        ("", (Cell(arm.name), Cell(check.outcome.value, outcome=check.outcome.value), Cell(check.name), Cell(check.finding)))
        for arm, check in sorted(checked, key=lambda pair: order.index(pair[1].outcome))
    ]
    tidy = [
        {"arm": arm.name, **{name: getattr(check, name) for name in ("name", "outcome", "finding", "advice")}}
        for arm, check in checked
    ]
    return make_table(
        "sanity",
        title="All sanity checks",
        caption="Checks for what makes a system look more robust than it is. SKIP: the check says nothing about that system.",
        columns=(Column("Arm"), Column("Verdict"), Column("Check"), Column("Finding")),
        rows=rows,
        tidy=tidy,
    )


def of_metric(
    study: Study,
    systems: Sequence[SystemFigures],
    metric: Metric,
    *,
    title: str,
    name: str | None = None,
    caption: str | None = None,
    leading: Sequence[Described] = MASKS,
    trailing: Sequence[Described] = (),
) -> Table:
    """A metric of some systems, not attacked and at every epsilon; for programs also that of each of several seeds."""
    rows, tidy = [], []
    for figures in systems:
        curve = figures.curve(metric)
        row = (*(cell(figures) for _, cell in leading), *(metric_cell(metric, value) for value in curve.values()))
        row += tuple(cell(figures) for _, cell in trailing)
        rows.append((wording.heading(figures.condition), row))
        tidy += [_tidy(figures, epsilon, metric, value) for epsilon, value in curve.items()]
        if len(figures.seeds) > 1:
            tidy += _tidy_of_seeds(figures, metric)
    first, last = ([column for column, _ in described] for described in (leading, trailing))
    return make_table(
        name or metric.table,
        title=title,
        caption=f"{caption or metric.caption} {pooling_text(study, systems, metric)}",
        columns=(*first, *metric_columns(metric, (0.0, *study.attacked)), *last),
        rows=rows,
        tidy=tidy,
    )


def pooling_text(study: Study, systems: Sequence[SystemFigures], metric: Metric) -> str:
    """What the intervals of a metric of some systems cover."""
    return wording.pooling_text(study, of_shares=all(figures.is_share(metric) for figures in systems))


def metric_columns(metric: Metric, epsilons: Sequence[float]) -> tuple[Column, ...]:
    """One a figure; epsilon 0 is not attacked."""
    return tuple(
        numbers(epsilon_text(epsilon), metric.unit) if epsilon else numbers("Clean", metric.clean_unit) for epsilon in epsilons
    )


def metric_cell(metric: Metric, estimate: Estimate) -> Cell:
    """A figure with its interval."""
    form = (f".{metric.digits}f", metric.scale)
    return Cell(estimate.number(*form), estimate.interval(*form))


def _sample_cell(figures: SystemFigures) -> Cell:
    images, groups = figures.clean.n, figures.clean.groups
    return Cell(f"{images} x {len(figures.seeds)}", f"in {groups} groups" if groups < images else "")


def _sanity_cell(figures: SystemFigures) -> Cell:
    if figures.unchecked == len(figures.seeds):
        return Cell("not checked")
    unchecked = f", {figures.unchecked} seeds unchecked" if figures.unchecked else ""
    if figures.failed:
        return Cell(f"FAIL {figures.failed} of {figures.failed + figures.passed}{unchecked}", outcome="FAIL")
    return Cell(f"PASS {figures.passed} of {figures.passed}{unchecked}", outcome="PASS")


def comparison_cells(comparison: Comparison) -> Row:
    """What stands behind the name of a comparison."""
    only = [f"{one.only_first} / {one.only_second}" for one in comparison.by_seed]
    return (
        Cell(epsilon_text(comparison.epsilon)),
        points_cell(comparison.difference),
        Cell(wording.p_text(comparison.adjusted)),
        Cell(", ".join(only)),
        Cell("not estimable" if comparison.detectable is None else f"{100 * comparison.detectable:.1f}"),
        Cell(", ".join(wording.points(one.difference) for one in comparison.by_seed)),
    )


def comparison_tidy(comparison: Comparison) -> dict[str, object]:
    """The same for programs."""
    return {
        "classifier_objective": comparison.first.classifier_objective,
        "comparison": comparison.name,
        "first": comparison.first.tested,
        "first_trained_with": comparison.first.train_masks,
        "second": comparison.second.tested,
        "second_trained_with": comparison.second.train_masks,
        "epsilon": comparison.epsilon,
        "difference": comparison.difference.value,
        "low": comparison.difference.low,
        "high": comparison.difference.high,
        "images": comparison.difference.n,
        "groups": comparison.difference.groups,
        "seeds": len(comparison.by_seed),
        "p": comparison.p_value,
        "p_holm": comparison.adjusted,
        "only_first_over_seeds": sum(one.only_first for one in comparison.by_seed),
        "only_second_over_seeds": sum(one.only_second for one in comparison.by_seed),
        "detectable": comparison.detectable,
    }


def _tidy_of_seeds(figures: SystemFigures, metric: Metric) -> list[dict[str, object]]:
    return [
        _tidy(figures, epsilon, metric, estimate, seed=seed)
        for epsilon, measured in figures.measured[metric.measure].items()
        if measured.by_seed  # means have none
        for seed, estimate in zip(figures.seeds, measured.by_seed, strict=True)
    ]


def _tidy(
    figures: SystemFigures, epsilon: float, metric: Metric, estimate: Estimate, *, seed: int | None = None
) -> dict[str, object]:
    """``seed`` is null for figures pooled over all seeds of a system."""
    condition = figures.condition
    return {
        **condition.columns,
        "role": figures.role,
        "epsilon": epsilon,
        "measure": metric.measure,
        "seed": seed,
        **tidy_estimate(estimate),
        "seeds": len(figures.seeds) if seed is None else 1,
    }
