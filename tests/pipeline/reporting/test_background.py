"""The oracle's gain over the share of background, from runs that differ in their context margin."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from pipeline.reporting.commands import files
from pipeline.reporting.comparisons import compared
from pipeline.reporting.reading import read_study
from pipeline.reporting.side_by_side import compose_runs


@pytest.fixture(scope="module")
def studies(simulated, tmp_path_factory):
    """Two runs with other images, of margins 0.5 and 0.1: the wider one is named first."""
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for name, context in (("wide", 0.5), ("tight", 0.1)):
        run = simulated.write_ablation(
            folder / name, num_images=40, seeds=(0,), arms=simulated.ARMS[3:7], with_gallery=False, experiment=name
        )
        study = read_study(run)
        found.append(replace(study, about={**study.about, "config": {**study.about["config"], "data": {"context": context}}}))
    return found


@pytest.mark.slow
def test_the_gain_of_every_margin_stands_over_its_share_of_background(studies):
    made = files(compose_runs(studies))
    rows = list(csv.DictReader(io.StringIO(made["tables/background.csv"].decode())))
    assert [(row["run"], float(row["context"])) for row in rows] == [("tight", 0.1), ("wide", 0.5)]
    for row, study in zip(rows, reversed(studies), strict=True):
        (arm,) = next(arms for key, arms in study.by_condition("main").items() if key.train_masks == key.test_masks == "oracle")
        clean = arm.records.unique("sample_id")["clean_mask_mean"]
        assert float(row["background"]) == pytest.approx(1 - np.mean(clean.to_numpy()))
        expected = next(one for one in compared(study) if one.name == "oracle - none" and one.epsilon == study.primary_epsilon)
        assert float(row["difference"]) == pytest.approx(expected.difference.value)
        assert float(row["epsilon"]) == study.primary_epsilon
    assert "figures/background-adversarial.svg" in made


def test_runs_of_one_margin_have_no_such_section(studies):
    same = [replace(study, about=studies[0].about) for study in studies]
    assert "background" not in [section.name for section in compose_runs(same).sections]
