"""Systems of the user's own beside those that were trained here: paired differences on the same images."""

from collections.abc import Sequence

from pipeline.reporting import tables, wording
from pipeline.reporting.comparisons import Comparison, compared_with_own
from pipeline.reporting.data import Study
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, make_table
from pipeline.reporting.trust import Failure

_INTRO = (
    "Models that were not trained here, attacked with the same attacks on the same images. A positive difference: the system named "
    "first is harder to fool. What they were trained on nobody has recorded: where test images were among it, they look better "
    "than they are. Under several seeds their weights stay the same, and only the random starts of the attacks differ."
)


def own_section(study: Study, failed: Sequence[Failure]) -> tuple[Section, ...]:
    """One section, or none where every system was trained here or there is nothing to compare."""
    found = compared_with_own(study)
    if not found:
        return ()
    compared = {side for one in found for side in (one.first, one.second)}
    doubts = [f"{wording.system_text(one.condition)}: {one.name}" for one in failed if one.condition in compared]
    warning = f"Differences from these are not to be trusted, because a check failed. {'. '.join(doubts)}." if doubts else None
    return (
        Section(
            name="own-systems", title="How do systems of your own compare?", intro=_INTRO, tables=(_table(found),), warning=warning
        ),
    )


def _table(found: Sequence[Comparison]) -> Table:
    tidy = [{**tables.comparison_tidy(one), "second_classifier_objective": one.second.classifier_objective} for one in found]
    return make_table(
        "own-systems",
        title="Systems of your own minus others",
        caption="Differences of robust accuracy on the same images, with p corrected by Holm over all of these at one epsilon, "
        "apart from the comparisons of the answer.",
        columns=(Column("Difference"), *tables.COMPARISON_COLUMNS),
        rows=((wording.heading(one.first), (Cell(one.name, _other(one)), *tables.comparison_cells(one))) for one in found),
        tidy=tidy,
    )


def _other(one: Comparison) -> str:
    second = one.second
    return wording.heading(second) if second.is_own else f"{wording.classifier(second.classifier_objective)}, masks {second.masks}"
