"""A run whose only epsilon is 0, as one that measures corruptions: nothing of its report speaks of an attack."""

from dataclasses import replace

import polars as pl
import pytest

from pipeline.reporting.document import compose
from pipeline.reporting.reading import read_study


@pytest.fixture(scope="module")
def unattacked(ablation):
    """The same run, had 0 been its only epsilon."""
    study = read_study(ablation)
    clean = [arm.records.filter(pl.col("epsilon") == study.epsilons[0]).with_columns(epsilon=pl.lit(0.0)) for arm in study.arms]
    arms = tuple(replace(arm, records=records) for arm, records in zip(study.arms, clean, strict=True))
    return replace(study, arms=arms, decomposition=None)


def test_a_run_that_attacked_no_epsilon_above_0_is_not_said_to_lack_arms_or_to_have_attacked(unattacked):
    document = compose(unattacked)
    assert document.answers == ()
    assert document.unanswered == "No epsilon above 0 was attacked, so there is no robust accuracy to compare."
    assert document.subtitle.endswith("no epsilon above 0 attacked")
    told = " ".join((*document.how_to_read, *document.methods, *(one.intro for one in document.sections if one.name == "classes")))
    told += " ".join(table.caption for table in document.tables() if table.name.startswith(("classes", "worst", "calibration")))
    for claim in ("up to 0", "at 0", "at epsilon .", "Attacks, in this order", "obust accuracy"):
        assert claim not in told


def test_no_column_and_no_figure_is_there_twice_and_every_row_has_a_cell_for_each_column(unattacked, ablation):
    for document in (compose(unattacked), compose(read_study(ablation))):
        names = [panel.name for panel in document.panels()]
        assert len(set(names)) == len(names)
        for table in document.tables():
            if table.name in ("calibration", "worst-class"):
                assert len(set(table.columns)) == len(table.columns)
            assert {len(row) for _, rows in table.groups for row in rows} == {len(table.columns)}, table.name
