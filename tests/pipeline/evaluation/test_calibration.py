"""Calibration: against torchmetrics, and against systems whose calibration is known because it was drawn."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from pipeline.evaluation.calibration import BINS, error_by_chance, expected_calibration_error, reliability


@pytest.mark.parametrize("bins", [1, 10, BINS])
@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.3])
def test_the_calibration_error_is_that_of_torchmetrics(bins: int, shift: float) -> None:
    rng = np.random.default_rng(bins)
    confidences = rng.random(500)
    right = rng.random(500) < np.clip(confidences + shift, 0, 1)
    theirs = binary_calibration_error(torch.from_numpy(confidences), torch.from_numpy(right).long(), n_bins=bins, norm="l1")
    assert expected_calibration_error(confidences, right, bins=bins) == pytest.approx(float(theirs), abs=1e-9)


def test_the_bins_add_up_to_the_error_and_hold_every_image_once() -> None:
    rng = np.random.default_rng(0)
    confidences, right = 0.3 + 0.7 * rng.random(200), rng.random(200) < 0.6
    found = reliability(confidences, right, np.arange(200))
    assert sum(one.right.n for one in found) == 200
    assert all(one.low < one.confidence <= one.high for one in found)
    added = sum(one.right.n * abs(one.right.value - one.confidence) for one in found) / 200
    assert expected_calibration_error(confidences, right) == pytest.approx(added, abs=1e-12)
    assert found[0].low >= 4 / 15 - 1e-12  # bins without an image are left out


def test_the_ends_belong_to_the_bins_of_guo_et_al() -> None:
    """A bin holds its upper end: 1 lies in the last one, beside 0.95, and 0 in the first."""
    confidences, right = np.array([0.0, 0.5, 0.95, 1.0]), np.array([False, True, False, True])
    found = reliability(confidences, right, np.arange(4), bins=2)
    assert [(one.low, one.high, one.right.n) for one in found] == [(0.0, 0.5, 2), (0.5, 1.0, 2)]
    assert expected_calibration_error(confidences, right, bins=2) == pytest.approx((abs(0.25 - 0.5) + abs(0.975 - 0.5)) / 2)


def test_a_calibrated_system_stays_below_what_chance_allows_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(1)
    confidences = rng.uniform(0.2, 1.0, 150)
    limit = error_by_chance([confidences], np.random.default_rng(2))
    below = [expected_calibration_error(confidences, rng.random(150) < confidences) <= limit for _ in range(400)]
    assert 0.90 < np.mean(below) < 0.99
    assert expected_calibration_error(confidences, rng.random(150) < confidences - 0.2) > limit


def test_more_images_leave_less_to_chance() -> None:
    confidences = np.random.default_rng(3).uniform(0.2, 1.0, 4000)
    few, many = (error_by_chance([confidences[:count]], np.random.default_rng(4)) for count in (100, 4000))
    assert many < few / 3


@pytest.mark.parametrize("wrong", [[], [1.1], [-0.1], [float("nan")]])
def test_what_is_no_confidence_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="each in"):
        expected_calibration_error(np.array(wrong, dtype=np.float64), np.zeros(len(wrong), dtype=bool))
