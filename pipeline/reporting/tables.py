"""What stands in the tables of a report."""

from collections.abc import Callable, Sequence

import polars as pl

from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.comparisons import Comparison
from pipeline.reporting.data import Study
from pipeline.reporting.findings import Findings, SystemFigures
from pipeline.reporting.table import Cell, Column, Table, grouped


def headline(study: Study, findings: Findings) -> Table:
    """Clean and robust accuracy of every main system at every epsilon."""
    systems = findings.of_role("main")
    return _accuracy_table(
        "headline",
        "All systems",
        f"Accuracy in percent with 95 % interval. {wording.pooling_text(study)}",
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
        "Accuracy of systems that are neither compared nor part of the answer, in percent with 95 % interval. "
        + wording.pooling_text(study),
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
        f"Accuracy in percent against the quality of the mask, with 95 % interval. {wording.pooling_text(study)}",
        study,
        sorted(systems, key=lambda figures: -figures.clean_iou.value),
        (Column(label="Masks in testing"), Column(label="Mask IoU", detail="clean", numeric=True)),
        lambda figures: (Cell(text=figures.condition.tested), _iou_cell(figures.clean_iou)),
    )


def seeds(study: Study, findings: Findings) -> Table:
    """Each training of every main system by itself."""
    attacked = [epsilon for epsilon in study.epsilons if epsilon > 0]
    columns = (*_masks_columns(), Column(label="Seed", numeric=True), Column(label="Clean", detail="%", numeric=True))
    columns += _strengths(attacked, "robust %")
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    tidy = []
    for figures in findings.of_role("main"):
        names = (Cell(text=figures.condition.tested), Cell(text=figures.condition.trained))
        rows = groups.setdefault(wording.classifier(figures.condition.classifier_objective), [])
        for place, seed in enumerate(figures.seeds):
            values = [figures.seed_clean[place], *(figures.seed_robust[epsilon][place] for epsilon in attacked)]
            rows.append((*names, Cell(text=str(seed)), *(_share_cell(value) for value in values)))
        tidy += _tidy_of_seeds(figures, attacked)
    return Table(
        name="seeds",
        title="Every training by itself",
        caption="Accuracy in percent of the systems of each training seed, with 95 % Wilson interval: how far trainings differ.",
        columns=columns,
        groups=grouped(groups),
        tidy=pl.DataFrame(tidy, infer_schema_length=None),
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
        "Differences of robust accuracy on the same images, first minus second. p speaks of these trained models: with several "
        "seeds it is that of the seed that shows the difference least, and 1 where seeds point both ways; it is corrected over all "
        "comparisons at one strength. Would show: the least difference that every seed would have shown so corrected, four times "
        "in five."
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
    columns += _strengths(attacked, "mean IoU")
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
        groups=grouped(groups),
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
    columns += _strengths(attacked, "robust %")
    columns += (Column(label="n", detail="images x seeds", numeric=True),)
    columns += (Column(label="Sanity"),) if with_sanity else ()
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    tidy = []
    for figures in systems:
        values = [(0.0, figures.clean), *((epsilon, figures.robust[epsilon]) for epsilon in attacked)]
        row = (*names(figures), *(_share_cell(value) for _, value in values))
        row += (_sample_cell(figures),)
        row += (_sanity_cell(figures),) if with_sanity else ()
        groups.setdefault(wording.classifier(figures.condition.classifier_objective), []).append(row)
        tidy += [_tidy(figures, epsilon, "accuracy", value) for epsilon, value in values]
        if len(figures.seeds) > 1:
            tidy += _tidy_of_seeds(figures, attacked)
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=columns,
        groups=grouped(groups),
        tidy=pl.DataFrame(tidy, infer_schema_length=None),
    )


def _strengths(epsilons: Sequence[float], detail: str) -> tuple[Column, ...]:
    return tuple(Column(label=epsilon_text(epsilon), detail=detail, numeric=True) for epsilon in epsilons)


def _masks_columns() -> tuple[Column, ...]:
    return (Column(label="Masks in testing"), Column(label="Masks in training"))


def _share_cell(estimate: Estimate) -> Cell:
    return Cell(text=wording.percent(estimate), detail=wording.percent_interval(estimate))


def _sample_cell(figures: SystemFigures) -> Cell:
    images, groups = figures.clean.n, figures.clean.groups
    return Cell(text=f"{images} x {len(figures.seeds)}", detail=f"in {groups} groups" if groups < images else "")


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
        Cell(text="not estimable" if comparison.detectable is None else f"{100 * comparison.detectable:.1f}"),
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
        "groups": comparison.difference.groups,
        "seeds": len(comparison.by_seed),
        "p": comparison.p_value,
        "p_holm": comparison.adjusted,
        "only_first_over_seeds": sum(one.only_first for one in comparison.by_seed),
        "only_second_over_seeds": sum(one.only_second for one in comparison.by_seed),
        "detectable": comparison.detectable,
    }


def _tidy_of_seeds(figures: SystemFigures, attacked: Sequence[float]) -> list[dict[str, object]]:
    values = [(0.0, figures.seed_clean), *((epsilon, figures.seed_robust[epsilon]) for epsilon in attacked)]
    return [
        _tidy(figures, epsilon, "accuracy", estimate, seed=seed)
        for epsilon, estimates in values
        for seed, estimate in zip(figures.seeds, estimates, strict=True)
    ]


def _tidy(
    figures: SystemFigures, epsilon: float, measure: str, estimate: Estimate, *, seed: int | None = None
) -> dict[str, object]:
    """``seed`` is null for figures pooled over all seeds of a system."""
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
        "seed": seed,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "images": estimate.n,
        "groups": estimate.groups,
        "seeds": len(figures.seeds) if seed is None else 1,
    }
