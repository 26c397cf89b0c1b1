"""What stands in the tables of a report."""

from collections.abc import Callable, Sequence

import polars as pl

from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.findings import Comparison, Findings, SystemFigures
from pipeline.reporting.study import Study
from pipeline.reporting.table import Cell, Column, Table


def headline(study: Study, findings: Findings) -> Table:
    """Clean and robust accuracy of every main system at every epsilon."""
    systems = findings.of_role("main")
    return _accuracy_table(
        "headline",
        "All systems",
        f"Accuracy in percent with 95 % interval. {_pooling(study)}",
        study,
        systems,
        _masks_columns(),
        lambda figures: (Cell(text=figures.condition.tested), Cell(text=figures.condition.trained)),
        with_sanity=True,
    )


def diagnostic(study: Study, findings: Findings) -> Table:
    """The same of arms that are neither compared nor part of the answer."""
    return _accuracy_table(
        "diagnostic",
        "Further systems",
        f"Accuracy of systems that are neither compared nor part of the answer, in percent with 95 % interval. {_pooling(study)}",
        study,
        findings.of_role("diagnostic"),
        _masks_columns(),
        lambda figures: (Cell(text=figures.condition.tested), Cell(text=figures.condition.trained)),
    )


def degradation(study: Study, systems: Sequence[SystemFigures]) -> Table:
    """Masks made worse on purpose, the oracle and predicted masks, with their measured IoU, best mask first."""
    return _accuracy_table(
        "degradation",
        "Masks of measured quality",
        f"Accuracy in percent against the quality of the mask, with 95 % interval. {_pooling(study)}",
        study,
        sorted(systems, key=lambda figures: -figures.clean_iou.value),
        (Column(label="Masks in testing"), Column(label="Mask IoU", detail="clean", numeric=True)),
        lambda figures: (Cell(text=figures.condition.tested), _iou_cell(figures.clean_iou)),
    )


def comparisons(findings: Findings) -> Table:
    """Every paired comparison at every epsilon."""
    columns = (
        Column(label="Difference"),
        Column(label="Strength", detail="epsilon", numeric=True),
        Column(label="Points", detail="95 % interval", numeric=True),
        Column(label="p", detail="Holm", numeric=True),
        Column(label="Only first / only second", detail="images", numeric=True),
        Column(label="Would show", detail="points", numeric=True),
        Column(label="By seed", detail="points", numeric=True),
    )
    objectives = dict.fromkeys(one.first.classifier_objective for one in findings.comparisons)
    groups = tuple(
        (
            wording.classifier(objective),
            tuple(_comparison_row(one) for one in findings.comparisons if one.first.classifier_objective == objective),
        )
        for objective in objectives
    )
    caption = (
        "Differences of robust accuracy on the same images, first minus second. p is that of the seed that shows the difference "
        "least, corrected over all comparisons at one strength."
    )
    rows = [_comparison_tidy(one) for one in findings.comparisons]
    return Table(
        name="comparisons",
        title="All paired comparisons",
        caption=caption,
        columns=columns,
        groups=groups,
        tidy=pl.DataFrame(rows, infer_schema_length=None),
    )


def mask_iou(study: Study, systems: Sequence[SystemFigures]) -> Table:
    """Mean mask IoU of systems with predicted masks, clean and at every epsilon."""
    attacked = [epsilon for epsilon in study.epsilons if epsilon > 0]
    columns = (*_masks_columns(), Column(label="Clean", detail="mean IoU", numeric=True))
    columns += tuple(Column(label=epsilon_text(epsilon), detail="mean IoU", numeric=True) for epsilon in attacked)
    tidy = []
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for figures in systems:
        names = (Cell(text=figures.condition.tested), Cell(text=figures.condition.trained))
        values = [(0.0, figures.clean_iou), *((epsilon, figures.attacked_iou[epsilon]) for epsilon in attacked)]
        group = wording.classifier(figures.condition.classifier_objective)
        groups.setdefault(group, []).append((*names, *(_iou_cell(value) for _, value in values)))
        tidy += [_tidy(figures, epsilon, "mask_iou", value) for epsilon, value in values]
    return Table(
        name="mask-iou",
        title="Mask IoU",
        caption="Overlap of the predicted mask with the oracle (mean IoU over images, 1 is perfect), with 95 % interval.",
        columns=columns,
        groups=tuple((group, tuple(rows)) for group, rows in groups.items()),
        tidy=pl.DataFrame(tidy, infer_schema_length=None),
    )


def sanity(study: Study) -> Table:
    """Every check of every arm that has a sanity report; failures first."""
    order = {"FAIL": 0, "PASS": 1, "SKIP": 2}
    checked = [(arm, check) for arm in study.arms for check in arm.checks or ()]
    rows = [
        (Cell(text=arm.name), Cell(text=check.outcome, outcome=check.outcome), Cell(text=check.name), Cell(text=check.finding))
        for arm, check in sorted(checked, key=lambda pair: order.get(pair[1].outcome, 3))
    ]
    tidy = [
        {"arm": arm.name, **{name: getattr(check, name) for name in ("name", "outcome", "finding", "advice")}}
        for arm, check in checked
    ]
    return Table(
        name="sanity",
        title="All sanity checks",
        caption="Checks for what makes a system look more robust than it is. SKIP: the check says nothing about that system.",
        columns=(Column(label="Arm"), Column(label="Verdict"), Column(label="Check"), Column(label="Finding")),
        groups=(("", tuple(rows)),),
        tidy=pl.DataFrame(tidy, infer_schema_length=None),
    )


def _accuracy_table(
    name: str,
    title: str,
    caption: str,
    study: Study,
    systems: Sequence[SystemFigures],
    leading: tuple[Column, ...],
    names: Callable[[SystemFigures], tuple[Cell, ...]],
    *,
    with_sanity: bool = False,
) -> Table:
    attacked = [epsilon for epsilon in study.epsilons if epsilon > 0]
    columns = (*leading, Column(label="Clean", detail="%", numeric=True))
    columns += tuple(Column(label=epsilon_text(epsilon), detail="robust %", numeric=True) for epsilon in attacked)
    columns += (Column(label="n", detail="images x seeds", numeric=True),)
    columns += (Column(label="Sanity"),) if with_sanity else ()
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    tidy = []
    for figures in systems:
        values = [(0.0, figures.clean), *((epsilon, figures.robust[epsilon]) for epsilon in attacked)]
        row = (*names(figures), *(_share_cell(value) for _, value in values))
        row += (Cell(text=f"{figures.clean.n} x {len(figures.seeds)}"),)
        row += (_sanity_cell(figures),) if with_sanity else ()
        groups.setdefault(wording.classifier(figures.condition.classifier_objective), []).append(row)
        tidy += [_tidy(figures, epsilon, "accuracy", value) for epsilon, value in values]
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=columns,
        groups=tuple((group, tuple(rows)) for group, rows in groups.items()),
        tidy=pl.DataFrame(tidy, infer_schema_length=None),
    )


def _masks_columns() -> tuple[Column, ...]:
    return (Column(label="Masks in testing"), Column(label="Masks in training"))


def _pooling(study: Study) -> str:
    if len({arm.seed for arm in study.arms}) == 1:
        return "Wilson intervals."
    return "Pooled over training seeds; the interval covers images and seeds."


def _share_cell(estimate: Estimate) -> Cell:
    return Cell(text=wording.percent(estimate), detail=wording.percent_interval(estimate))


def _iou_cell(estimate: Estimate) -> Cell:
    return Cell(text=f"{estimate.value:.3f}", detail=f"[{estimate.low:.3f}, {estimate.high:.3f}]")


def _sanity_cell(figures: SystemFigures) -> Cell:
    if figures.unchecked == len(figures.seeds):
        return Cell(text="not checked")
    unchecked = f", {figures.unchecked} seeds unchecked" if figures.unchecked else ""
    if figures.failed:
        return Cell(text=f"FAIL {figures.failed} of {figures.failed + figures.passed}{unchecked}", outcome="FAIL")
    return Cell(text=f"PASS {figures.passed} of {figures.passed}{unchecked}", outcome="PASS")


def _comparison_row(comparison: Comparison) -> tuple[Cell, ...]:
    learned = next((side for side in (comparison.first, comparison.second) if side.uses_segmenter), None)
    detail = "" if learned is None else f"classifier trained with {learned.train_masks}, {learned.segmenter_objective} segmenter"
    only = [f"{one.only_first} / {one.only_second}" for one in comparison.by_seed]
    return (
        Cell(text=comparison.name, detail=detail),
        Cell(text=epsilon_text(comparison.epsilon)),
        Cell(text=wording.points(comparison.difference), detail=wording.points_interval(comparison.difference)),
        Cell(text=wording.p_text(comparison.adjusted)),
        Cell(text=", ".join(only)),
        Cell(text="none" if comparison.detectable is None else f"{100 * comparison.detectable:.1f}"),
        Cell(text=", ".join(wording.points(one.difference) for one in comparison.by_seed)),
    )


def _comparison_tidy(comparison: Comparison) -> dict[str, object]:
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
        "seeds": len(comparison.by_seed),
        "p": comparison.p_value,
        "p_holm": comparison.adjusted,
        "only_first": sum(one.only_first for one in comparison.by_seed),
        "only_second": sum(one.only_second for one in comparison.by_seed),
        "detectable": comparison.detectable,
    }


def _tidy(figures: SystemFigures, epsilon: float, measure: str, estimate: Estimate) -> dict[str, object]:
    condition = figures.condition
    return {
        "classifier_objective": condition.classifier_objective,
        "segmenter_objective": condition.segmenter_objective,
        "train_masks": condition.train_masks,
        "test_masks": condition.test_masks,
        "setting": condition.setting,
        "role": figures.role,
        "epsilon": epsilon,
        "measure": measure,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "images": estimate.n,
        "seeds": len(figures.seeds),
    }
