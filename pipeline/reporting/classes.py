"""Accuracy class by class: an average hides the class that an attacker would choose."""

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from pipeline.evaluation.statistics import CONFIDENCE, Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.data import Arm, Condition, Study, on_shared_images
from pipeline.reporting.figures import share
from pipeline.reporting.metrics import ACCURACY
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, grouped

ByClass = dict[str, Estimate]
"""Accuracy by the name of a class, in the order of the data set; classes without an image are left out."""
FAMILY = 1 - CONFIDENCE
"""With which probability some interval of all classes of a system may miss, where they hold for all at once."""


class Worst(NamedTuple):
    """The class with the lowest accuracy."""

    name: str
    at_once: Estimate
    """With an interval that holds for all classes at once."""
    all_alike: bool
    """Every class has the same accuracy: none is the worst."""


def classes_section(study: Study) -> Section:
    """The worst class of every main system, and every class of every one."""
    arms, epsilons = study.by_condition("main"), (0.0, study.primary_epsilon)
    found = {
        condition: {epsilon: _by_class(of_condition, epsilon) for epsilon in epsilons} for condition, of_condition in arms.items()
    }
    worst = {
        condition: {epsilon: _worst_class(arms[condition], epsilon, by_class) for epsilon, by_class in by_epsilon.items()}
        for condition, by_epsilon in found.items()
    }
    return Section(
        name="classes",
        title="Which class suffers most?",
        intro=f"Accuracy of each class by itself, without attack and at {epsilon_text(study.primary_epsilon)}. The worst of many "
        "classes is so partly by chance. Its interval allows for that: it is one of intervals that hold for all classes of a "
        "system at once (Bonferroni), so it is wider than those of the list of every class, which hold for one class each.",
        tables=(_worst(study, found, worst),),
        folded=tuple(
            _every(study, heading, {key: one for key, one in found.items() if wording.heading(key) == heading})
            for heading in dict.fromkeys(map(wording.heading, found))
        ),
    )


def _worst_class(arms: list[Arm], epsilon: float, by_class: ByClass) -> Worst:
    """The class with the lowest accuracy, the first of several."""
    name = min(by_class, key=lambda one: by_class[one].value)
    at_once = _by_class(arms, epsilon, confidence=1 - FAMILY / len(by_class), only=name)[name]
    return Worst(name, at_once, all_alike=len({one.value for one in by_class.values()}) == 1 < len(by_class))


def _by_class(arms: list[Arm], epsilon: float, *, confidence: float = CONFIDENCE, only: str | None = None) -> ByClass:
    labels = arms[0].records.unique("sample_id").select("sample_id", "label")
    tables = [ACCURACY.values(arm.records, epsilon).join(labels, on="sample_id") for arm in arms]
    found = {}
    for label, name in enumerate(arms[0].summary.classes):
        if only not in (None, name):
            continue
        of_class = [table.filter(pl.col("label") == label) for table in tables]
        if set.intersection(*(set(table["sample_id"]) for table in of_class)):
            key = f"class {label} {arms[0].condition.draws} {epsilon}"
            found[name] = share(*on_shared_images(of_class), key, confidence=confidence)
    return found


def _worst(study: Study, found: dict[Condition, dict[float, ByClass]], worst: dict[Condition, dict[float, Worst]]) -> Table:
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for condition, by_epsilon in found.items():
        cells: list[Cell] = []
        for epsilon, by_class in by_epsilon.items():
            one = worst[condition][epsilon]
            named = Cell(text="all alike") if one.all_alike else Cell(text=one.name, detail=f"{one.at_once.n} images")
            average = sum(each.value for each in by_class.values()) / len(by_class)
            cells += [named, _cell(one.at_once), Cell(text=f"{100 * average:.1f}")]
        row = (Cell(text=condition.tested), Cell(text=condition.trained), *cells)
        groups.setdefault(wording.heading(condition), []).append(row)
    columns = [Column(label="Masks in testing"), Column(label="Masks in training")]
    for epsilon in (0.0, study.primary_epsilon):
        where = epsilon_text(epsilon) if epsilon else "clean"
        columns += [
            Column(label="Worst class", detail=where),
            Column(label="Its accuracy", detail=f"{where}, %", numeric=True),
            Column(label="All classes alike", detail=f"{where}, %", numeric=True),
        ]
    return Table(
        name="worst-class",
        title="Worst classes",
        caption="The class with the lowest accuracy, in percent with an interval that holds for all classes at once with 95 % "
        "confidence (Bonferroni), and the mean over classes, each counted alike however many images it has. "
        + wording.pooling_text(study),
        columns=tuple(columns),
        groups=grouped(groups),
        tidy=pl.DataFrame(list(_tidy_worst(found, worst)), infer_schema_length=None),
    )


def _every(study: Study, heading: str, found: dict[Condition, dict[float, ByClass]]) -> Table:
    first_condition, by_epsilon = next(iter(found.items()))
    first = by_epsilon[0.0]
    at = epsilon_text(study.primary_epsilon)
    rows = []
    for name, clean in first.items():
        cells = (_cell(by_epsilon[study.primary_epsilon][name]) for by_epsilon in found.values())
        rows.append((Cell(text=name), Cell(text=str(clean.n)), *cells))
    named = (Column(label=one.tested, detail=f"trained with {one.trained}", numeric=True) for one in found)
    return Table(
        name=f"classes-{wording.slug(first_condition.classifier_objective)}",
        title=f"Every class, {heading[:1].lower()}{heading[1:]}",
        caption=f"Robust accuracy at {at} in percent with 95 % interval, by class and by masks in testing. "
        + wording.pooling_text(study),
        columns=(Column(label="Class"), Column(label="n", detail="images", numeric=True), *named),
        groups=(("", tuple(rows)),),
        tidy=pl.DataFrame(list(_tidy(found)), infer_schema_length=None),
    )


def _cell(estimate: Estimate) -> Cell:
    return Cell(text=wording.percent(estimate), detail=wording.percent_interval(estimate))


def _tidy(found: dict[Condition, dict[float, ByClass]]) -> Iterator[dict[str, object]]:
    for condition, by_epsilon in found.items():
        for epsilon, by_class in by_epsilon.items():
            for name, one in by_class.items():
                figures = {"value": one.value, "low": one.low, "high": one.high, "images": one.n, "groups": one.groups}
                yield {**condition.columns, "class": name, "epsilon": epsilon, "measure": ACCURACY.measure, **figures}


def _tidy_worst(
    found: dict[Condition, dict[float, ByClass]], worst: dict[Condition, dict[float, Worst]]
) -> Iterator[dict[str, object]]:
    for condition, by_epsilon in worst.items():
        for epsilon, one in by_epsilon.items():
            figures = {"value": one.at_once.value, "low": one.at_once.low, "high": one.at_once.high}
            sample = {"images": one.at_once.n, "groups": one.at_once.groups, "classes": len(found[condition][epsilon])}
            named = {"worst_class": one.name, "all_alike": one.all_alike, "measure": ACCURACY.measure}
            yield {**condition.columns, "epsilon": epsilon, **named, **figures, **sample}
