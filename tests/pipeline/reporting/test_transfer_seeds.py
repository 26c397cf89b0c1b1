"""Images of one training shown to another one: many pairs of few trainings know no more than these trainings do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.ablation.manifest import TransferEntry
from pipeline.reporting.data import Study
from pipeline.reporting.reading import read_study
from pipeline.reporting.transfer import transfer_sections

RIGHT = (0.2, 0.35, 0.5, 0.65)
"""Share of images that stand, by seed: trainings differ far more than images do by chance."""


@pytest.fixture(scope="module")
def study(simulated, tmp_path_factory) -> Study:
    run = tmp_path_factory.mktemp("transfer") / "run"
    arms = [(*simulated.ARMS[3][:5], "main", *simulated.ARMS[3][6:])]
    return read_study(simulated.write_ablation(run, num_images=400, seeds=(0, 1, 2, 3), arms=arms, with_gallery=False))


def intervals(study: Study, deciding: str, folder: Path) -> dict[str, tuple[float, float, float]]:
    """Value and ends of the one cell of each table, where an image stands or falls by the seed of its source or target alone."""
    rng = np.random.default_rng(0)
    ids = study.arms[0].records["sample_id"].unique().sort().to_list()
    entries = []
    answers = {arm.seed: rng.random(len(ids)) < RIGHT[arm.seed] for arm in study.arms}
    for source in study.arms:
        rows = [
            {"source": source.name, "target": target.name, "sample_id": name, "group": name, "robust": bool(right)}
            for target in study.arms
            for name, right in zip(ids, answers[(source if deciding == "source" else target).seed], strict=True)
        ]
        at = pl.lit(study.primary_epsilon).alias("epsilon")
        pl.DataFrame(rows).with_columns(at).write_parquet(folder / f"{source.seed}.parquet")
        entries.append(TransferEntry(arm=source.name, rows=str(folder / f"{source.seed}.parquet")))
    (section,) = transfer_sections(replace(study, transfers=tuple(entries)))
    return {table.name: table.tidy.select("value", "low", "high").row(0) for table in section.tables}


@pytest.mark.parametrize("deciding", ["source", "target"])
def test_pairs_of_other_seeds_have_the_interval_of_as_many_seeds(study, tmp_path, deciding):
    """Each seed decides once among pairs of the same seed, and three times among the twelve of other seeds: the figure is the same,
    and so is what is known of it."""
    found = intervals(study, deciding, tmp_path)
    (value, low, high), (other_value, other_low, other_high) = found["transfer-same-seed"], found["transfer-other-seed"]
    assert other_value == pytest.approx(value)
    assert other_low == pytest.approx(low, abs=0.02)
    assert other_high == pytest.approx(high, abs=0.02)
