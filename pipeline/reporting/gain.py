"""What the oracle's masks add, and what it is made of: one section of the report."""

import polars as pl

from pipeline.ablation.gain import LEVELS, PARTS
from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.data import Study
from pipeline.reporting.panel import LOOKS
from pipeline.reporting.plots import bars
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, make_table, numbers, share_cell

TITLE = "Why does the oracle help?"
LABELS = {
    "gain": "Oracle minus none",
    "surface": "Surface taken from the attacker",
    "outline": "What the outline names",
    "rest": "The rest",
    "none": "No masks",
    "foreground": "No masks, attacker on the foreground",
    "background": "No masks, attacker on the background",
    "foreign-same": "Masks of other images of the class",
    "random-alike": "Random masks alike",
    "oracle": "Oracle",
}
"""Parts and levels of ``ablation.gain``, in words."""
_INTRO = (
    "What oracle masks add to none, split by controls on the same images. Surface: the classifier without masks, and an attacker "
    "who may change the foreground alone. Outline: masks of other images of the same class minus random masks of equal area, "
    "components and perimeter, neither of which shows where the object is. The rest is what these two do not account for; parts "
    "that overlap make it smaller, and it may be negative."
)


def gain_section(study: Study) -> Section:
    """The parts of the gain at the primary epsilon, with intervals for independent groups and seeds."""
    if not study.gain:
        missing = "The oracle's gain was not split; an ablation with gain=true in its experiment splits it."
        return Section(name="gain", title=TITLE, intro="", missing=missing)
    figures = _figures(study)
    panels = [
        bars(
            f"gain-{objective}",
            wording.classifier(objective),
            [(LABELS[level], values[level]) for level in LEVELS],
            xlabel="robust accuracy (%)",
            color=LOOKS["oracle"].color,
        )
        for objective, values in figures.items()
    ]
    levels = "Robust accuracies that the parts are made of"
    tables = (
        _table(study, figures, tuple(PARTS), name="gain", title=TITLE, unit="points"),
        _table(study, figures, LEVELS, name="gain-levels", title=levels, unit="%"),
    )
    return Section(name="gain", title=TITLE, intro=_INTRO, panels=tuple(panels), tables=tables)


def _figures(study: Study) -> dict[str, dict[str, Estimate]]:
    """By classifier objective and part, at the primary epsilon."""
    found: dict[str, dict[str, Estimate]] = {}
    for entry in study.gain or ():
        if entry.epsilon == study.primary_epsilon:
            estimate = Estimate(value=entry.value, low=entry.low, high=entry.high, n=entry.n, groups=entry.groups)
            found.setdefault(entry.classifier_objective, {})[entry.part] = estimate
    return found


def _table(
    study: Study, figures: dict[str, dict[str, Estimate]], parts: tuple[str, ...], *, name: str, title: str, unit: str
) -> Table:
    rows = [
        (wording.classifier(objective), (Cell(LABELS[part]), share_cell(values[part]), Cell(str(values[part].n))))
        for objective, values in figures.items()
        for part in parts
    ]
    tidy = [vars(entry) for entry in study.gain or () if entry.part in parts]
    return make_table(
        name,
        title=title,
        caption=f"In {unit} with 95 % interval, at {epsilon_text(study.primary_epsilon)}.",
        columns=(Column("Part"), numbers("Robust accuracy", unit), numbers("n")),
        rows=rows,
        tidy=pl.DataFrame(tidy).rename({"n": "images"}),
    )
