"""Accuracy class by class: an average hides the class that an attacker would choose."""

from typing import NamedTuple

import polars as pl

from pipeline.evaluation.metrics import on_shared_images
from pipeline.evaluation.statistics import CONFIDENCE, Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.data import Arm, Condition, Study
from pipeline.reporting.figures import share
from pipeline.reporting.metrics import ACCURACY
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Row, Table, make_table, numbers, share_cell, tidy_estimate
from pipeline.reporting.tables import MASK_COLUMNS

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


Found = dict[Condition, dict[float, tuple[ByClass, Worst]]]
"""Of every system at every epsilon; 0 is not attacked."""


def classes_section(study: Study) -> Section:
    """The worst class of every main system, and every class of every one."""
    found = {
        condition: {at: _classes(arms, at) for at in study.clean_and_primary}
        for condition, arms in study.by_condition("main").items()
    }
    attacked = f" and at {epsilon_text(study.primary_epsilon)}" if study.attacked else ""
    return Section(
        name="classes",
        title="Which class suffers most?",
        intro=f"Accuracy of each class by itself, without attack{attacked}. The worst of many "
        "classes is so partly by chance. Its interval allows for that: it is one of intervals that hold for all classes of a "
        "system at once (Bonferroni), so it is wider than those of the list of every class, which hold for one class each.",
        tables=(_worst(study, found),),
        folded=tuple(
            _every(study, heading, {key: one for key, one in found.items() if wording.heading(key) == heading})
            for heading in dict.fromkeys(map(wording.heading, found))
        ),
    )


def _classes(arms: list[Arm], epsilon: float) -> tuple[ByClass, Worst]:
    """Every class, and the one with the lowest accuracy, the first of several."""
    by_class = _by_class(arms, epsilon)
    name = min(by_class, key=lambda one: by_class[one].value)
    at_once = _by_class(arms, epsilon, confidence=1 - FAMILY / len(by_class), only=name)[name]
    return by_class, Worst(name, at_once, all_alike=len({one.value for one in by_class.values()}) == 1 < len(by_class))


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


def _worst(study: Study, found: Found) -> Table:
    rows: list[tuple[str, Row]] = []
    tidy: list[dict[str, object]] = []
    for condition, by_epsilon in found.items():
        cells = [Cell(condition.tested), Cell(condition.trained)]
        for epsilon, (by_class, worst) in by_epsilon.items():
            named = Cell("all alike") if worst.all_alike else Cell(worst.name, f"{worst.at_once.n} images")
            average = sum(each.value for each in by_class.values()) / len(by_class)
            cells += [named, share_cell(worst.at_once), Cell(f"{100 * average:.1f}")]
            about = {"worst_class": worst.name, "all_alike": worst.all_alike, "measure": ACCURACY.measure}
            figures = {**about, **tidy_estimate(worst.at_once), "classes": len(by_class)}
            tidy.append({**condition.columns, "epsilon": epsilon, **figures})
        rows.append((wording.heading(condition), tuple(cells)))
    columns = list(MASK_COLUMNS)
    for where in map(wording.epsilon_or_clean, study.clean_and_primary):
        columns += [
            Column("Worst class", where),
            numbers("Its accuracy", f"{where}, %"),
            numbers("All classes alike", f"{where}, %"),
        ]
    return make_table(
        "worst-class",
        title="Worst classes",
        caption="The class with the lowest accuracy, in percent with an interval that holds for all classes at once with 95 % "
        "confidence (Bonferroni), and the mean over classes, each counted alike however many images it has. "
        + wording.pooling_text(study),
        columns=columns,
        rows=rows,
        tidy=tidy,
    )


def _every(study: Study, heading: str, found: Found) -> Table:
    first, by_epsilon = next(iter(found.items()))
    shown = f"Robust accuracy at {epsilon_text(study.primary_epsilon)}" if study.attacked else "Accuracy without attack"
    rows = [
        ("", (Cell(name), Cell(str(clean.n)), *(share_cell(one[study.primary_epsilon][0][name]) for one in found.values())))
        for name, clean in by_epsilon[0.0][0].items()
    ]
    return make_table(
        f"classes-{wording.slug(first.classifier_objective)}",
        title=f"Every class, {heading[:1].lower()}{heading[1:]}",
        caption=f"{shown} in percent with 95 % interval, by class and by masks in testing. {wording.pooling_text(study)}",
        columns=(Column("Class"), numbers("n", "images"), *(numbers(one.tested, f"trained with {one.trained}") for one in found)),
        rows=rows,
        tidy=(
            {**condition.columns, "class": name, "epsilon": epsilon, "measure": ACCURACY.measure, **tidy_estimate(one)}
            for condition, by_epsilon in found.items()
            for epsilon, (by_class, _) in by_epsilon.items()
            for name, one in by_class.items()
        ),
    )
