"""The confidence of systems in a report, counted by hand."""

import numpy as np
import polars as pl
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from pipeline.reporting.calibration import FEWEST, calibration_section
from pipeline.reporting.figures import compute_figures
from pipeline.reporting.reading import read_study


@pytest.fixture(scope="module")
def study(simulated, tmp_path_factory):
    run = tmp_path_factory.mktemp("calibrated") / "run"
    return read_study(simulated.write_ablation(run, num_images=90, arms=simulated.ARMS[3:6], with_gallery=False))


@pytest.fixture(scope="module")
def section(study):
    return calibration_section(study, compute_figures(study))


def by_hand(arm, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of each image and whether it is right, by a plain loop: attacked, of the copy with the largest margin."""
    found: dict[str, tuple[float, float, bool]] = {}
    for row in arm.records.iter_rows(named=True):
        side = "adversarial" if epsilon else "clean"
        if epsilon and row["epsilon"] != epsilon:
            continue
        seen = (row[f"{side}_margin"], row[f"{side}_confidence"], row[f"{side}_prediction"] == row["label"])
        if row["sample_id"] not in found or seen[0] > found[row["sample_id"]][0]:
            found[row["sample_id"]] = seen
    rows = [found[name] for name in sorted(found)]
    return np.array([row[1] for row in rows]), np.array([row[2] for row in rows])


@pytest.mark.parametrize("epsilon", [0.0, 8 / 255])
def test_the_errors_are_the_mean_over_trainings_of_torchmetrics(study, section, epsilon):
    tidy = section.tables[0].tidy.filter(pl.col("epsilon") == epsilon)
    assert len(tidy) == 3
    for condition, arms in study.by_condition("main").items():
        row = tidy.filter(pl.col("test_masks") == condition.test_masks).row(0, named=True)
        pairs = [by_hand(arm, epsilon) for arm in arms]
        assert len(pairs) == 2
        expected = [
            float(binary_calibration_error(torch.from_numpy(sure), torch.from_numpy(right).long(), n_bins=15))
            for sure, right in pairs
        ]
        assert row["ece"] == pytest.approx(np.mean(expected), abs=1e-9)
        assert row["too_sure"] == pytest.approx(np.mean([sure.mean() - right.mean() for sure, right in pairs]))
        assert row["low"] < row["too_sure"] < row["high"]
        assert 0 < row["ece_by_chance"] < 0.3


def test_every_image_of_every_training_stands_in_one_bin(section):
    of_systems = section.folded[0].tidy.group_by("test_masks", "epsilon").agg(pl.col("n").sum())
    assert of_systems["n"].to_list() == [180] * 6


def test_diagrams_are_drawn_clean_and_attacked_and_leave_small_bins_out(section):
    assert [panel.name for panel in section.panels] == ["calibration-adversarial-clean", "calibration-adversarial-attacked"]
    large = section.folded[0].tidy.filter((pl.col("epsilon") == 0) & (pl.col("n") >= FEWEST))
    assert section.panels[0].description.count("% sure") == len(large)
