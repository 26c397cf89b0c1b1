"""What the oracle's masks add over how much background there is: runs of one experiment at several context margins."""

from collections.abc import Mapping

from pipeline.reporting import plots, tables, wording
from pipeline.reporting.comparisons import Comparison
from pipeline.reporting.data import Study
from pipeline.reporting.figures import Figures
from pipeline.reporting.metrics import MASK_AREA
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, make_table, numbers

TITLE = "How much background does it take?"
_INTRO = (
    "The same experiment with crops that show more or less around the object (data.context): the oracle's gain, robust accuracy "
    "with its masks minus that without masks, over the mean share of the image that is background. Every margin is a data set of "
    "its own with stages of its own, so the runs share no image: compare their intervals. A larger margin also shows a smaller "
    "object."
)


def background_section(runs: Mapping[str, tuple[Study, Figures]]) -> Section | None:
    """Of runs of an ablation that differ in ``data.context``; None where fewer than two of them have both arms."""
    margins = {name: context for name, (study, _) in runs.items() if (context := _context(study)) is not None}
    gains = {name: [one for one in runs[name][1].answers if one.oracle_none is not None] for name in margins}
    shown = sorted((name for name in margins if gains[name]), key=lambda name: margins[name])
    if len({margins[name] for name in shown}) < 2:
        return None
    points: dict[str, list[tuple[str, float, Comparison]]] = {}
    for name in shown:
        for answer in gains[name]:
            gain = answer.oracle_none
            assert gain is not None
            oracle = next(one for one in runs[name][1].of_role("main") if one.condition == gain.first)
            share = 1 - oracle.at(MASK_AREA, 0.0).value  # of the image outside the oracle's masks, on the images that were attacked
            points.setdefault(answer.classifier_objective, []).append((name, share, gain))
    return Section(
        name="background",
        title=TITLE,
        intro=_INTRO,
        panels=tuple(
            plots.gains(
                f"background-{wording.slug(objective)}",
                wording.classifier(objective),
                sorted(((share, gain.difference) for _, share, gain in of_runs), key=lambda one: one[0]),
            )
            for objective, of_runs in points.items()
        ),
        tables=(_table(points, margins),),
    )


def _context(study: Study) -> float | None:
    value = study.about.get("config", {}).get("data", {}).get("context")
    return float(value) if isinstance(value, int | float) else None


def _table(points: Mapping[str, list[tuple[str, float, Comparison]]], margins: Mapping[str, float]) -> Table:
    rows, tidy = [], []
    for objective, of_runs in points.items():
        for name, share, comparison in of_runs:
            cells = (Cell(name), Cell(f"{margins[name]:g}"), Cell(f"{100 * share:.1f}"))
            rows.append((wording.classifier(objective), (*cells, *tables.comparison_cells(comparison))))
            tidy.append({"run": name, "context": margins[name], "background": share, **tables.comparison_tidy(comparison)})
    named = (Column("Run"), numbers("data.context"), numbers("Background", "% of the image"))
    return make_table(
        "background",
        title=TITLE,
        caption="Oracle minus none at the primary epsilon of each run; p is corrected within its run.",
        columns=(*named, *tables.COMPARISON_COLUMNS),
        rows=rows,
        tidy=tidy,
    )
