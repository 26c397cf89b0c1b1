"""Figures from observations made by hand: medians, gaps and error ratios that can be counted on paper."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pipeline.attacks.measurement import Claim
from pipeline.attacks.measurements import Corruptions, DecisionBased, Distances, MinimumNorm
from pipeline.attacks.threat import Region
from pipeline.evaluation.measured import (
    MEASURED,
    Figure,
    MeasurementReport,
    background_gap,
    figures,
    mean_corruption_error,
    median_distance,
    robust_beyond,
)
from pipeline.evaluation.statistics import share, wilson


def distances(values: list[float], groups: list[str] | None = None) -> pl.DataFrame:
    names = [f"s{i}" for i in range(len(values))]
    return pl.DataFrame({"sample_id": names, "group": groups or names, "value": values})


def test_the_median_is_the_middle_distance_and_its_interval_holds_what_half_may_be_robust_to() -> None:
    table = distances([float(i) for i in range(1, 102)])
    median = median_distance(table)
    assert median.value == 51
    # By hand: of 101 images the share farther than d is (101 - d) / 101, whose Wilson interval ends about 0.096 on either side.
    z = stats.norm.ppf(0.975)
    reach = math.sqrt(0.25 * 101 + z**2 / 4) * z / (101 + z**2)
    assert median.low == pytest.approx(51 - 101 * reach, abs=1.5)
    assert median.high == pytest.approx(51 + 101 * reach, abs=1.5)
    assert median.low + median.high == 102  # the order statistics are as far from one end as from the other
    assert robust_beyond(table, 51).value == 50 / 101
    assert (median.n, median.groups) == (101, 101)


def test_infinite_distances_move_the_median_and_may_leave_its_interval_open() -> None:
    infinite = math.inf
    assert median_distance(distances([1.0, 2.0, infinite, infinite, infinite])).value == infinite
    some = median_distance(distances([float(i) for i in range(60)] + [infinite] * 40))
    assert some.value == 49
    assert some.high < infinite
    open_ended = median_distance(distances([float(i) for i in range(52)] + [infinite] * 48))
    assert open_ended.value == 49
    assert open_ended.low < 49
    assert open_ended.high == infinite
    never = median_distance(distances([infinite] * 20))
    assert (never.low, never.value, never.high) == (infinite, infinite, infinite)


def test_where_all_distances_are_alike_no_other_is_in_the_interval_unless_the_images_are_few() -> None:
    """Of 20 images none is nearer than 0.3: that half of all were is as unlikely as 20 heads. Of 3 it is not."""
    alike = median_distance(distances([0.3] * 20))
    assert (alike.low, alike.value, alike.high) == (0.3, 0.3, 0.3)
    assert median_distance(distances([0.3] * 3)).low == 0


def test_images_of_few_groups_know_the_median_less_well() -> None:
    values = [float(i // 10) for i in range(100)]
    alone = median_distance(distances(values))
    grouped = median_distance(distances(values, [f"g{i // 10}" for i in range(100)]))
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > alone.high - alone.low
    assert grouped.groups == 10


def test_the_interval_of_the_median_holds_the_true_one_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        median = median_distance(distances(rng.exponential(size=60).tolist()))
        held += median.low <= math.log(2) <= median.high
    assert stats.binomtest(held, 200, 0.95, alternative="less").pvalue > 1e-3


@pytest.mark.parametrize("spec", [MinimumNorm, DecisionBased])
@pytest.mark.parametrize("region", list(Region))
def test_a_distance_within_a_region_is_not_called_robust_accuracy_without_it(spec: type[Distances], region: Region) -> None:
    """Nobody has to keep to a region: whatever the measurement is called, its figures say to which part of the image it speaks."""
    constant = {"measurement": pl.lit("mine"), "counted": pl.lit(True)}
    observed = distances([0.1, 0.2, math.inf]).with_columns(**constant)
    labels = [one.label for one in figures(observed, {"mine": spec(region=region, epsilons=(0.1, 0.2))})]
    where = {Region.EVERYWHERE: ""}.get(region, f", attacker on the {region.value}")
    assert labels == [f"{what}{where}" for what in ("median distance", "robust accuracy at 0.1", "robust accuracy at 0.2")]


def swaps(same: list[bool | None], other: list[bool | None]) -> pl.DataFrame:
    rows = [
        {"sample_id": f"s{i}", "group": f"s{i}", "condition": condition, "correct": bool(right), "counted": right is not None}
        for condition, column in (("same-class", same), ("other-class", other))
        for i, right in enumerate(column)
    ]
    return pl.DataFrame(rows)


def test_the_gap_is_taken_on_images_that_have_both_backgrounds() -> None:
    gap = background_gap(swaps([True, True, True, False, None], [True, False, False, True, False]))
    assert gap is not None
    assert gap.value == (3 - 2) / 4
    assert gap.n == 4
    assert background_gap(swaps([None, None], [True, True])) is None


def corrupted(errors: dict[str, list[int]], images: int = 10) -> pl.DataFrame:
    """The number of wrong images under each corruption, by severity."""
    rows = [
        {"sample_id": f"s{i}", "condition": name, "level": float(severity), "correct": i >= wrong}
        for name, counts in errors.items()
        for severity, wrong in enumerate(counts, start=1)
        for i in range(images)
    ]
    return pl.DataFrame([*rows, {"sample_id": "s0", "condition": "clean", "level": 0.0, "correct": True}])


def test_the_corruption_error_is_the_mean_of_ratios_and_not_the_ratio_of_means() -> None:
    baseline = corrupted({"fog": [1, 3], "snow": [5, 5]})
    assert mean_corruption_error(baseline, baseline) == 1
    better = corrupted({"fog": [1, 1], "snow": [4, 5]})
    assert mean_corruption_error(better, baseline) == pytest.approx((2 / 4 + 9 / 10) / 2)
    with pytest.raises(ValueError, match="not observed on the same images"):
        mean_corruption_error(corrupted({"fog": [1, 3]}), baseline)
    with pytest.raises(ValueError, match="nothing to divide by"):
        mean_corruption_error(baseline, corrupted({"fog": [0, 0], "snow": [5, 5]}))


@pytest.mark.parametrize("wrong", [0, 20])
def test_an_accuracy_that_no_image_contradicts_has_the_interval_of_a_share_at_every_severity(wrong: int) -> None:
    table = corrupted({"fog": [wrong, wrong], "snow": [wrong, wrong]}, images=20)
    clean = pl.DataFrame([{"sample_id": f"s{i}", "condition": "clean", "level": 0.0, "correct": i >= wrong} for i in range(20)])
    groups = pl.col("sample_id").str.replace(r"\d$", "").alias("group")
    constant = {"measurement": pl.lit("c"), "counted": pl.lit(True), "mask_iou": pl.lit(1.0)}
    observed = pl.concat([table.filter(pl.col("level") > 0), clean]).with_columns(groups, **constant)
    expected = share(np.arange(20) >= wrong, np.arange(20) // 10)
    found = [one for one in figures(observed, {"c": Corruptions()}) if one.unit == "share"]
    assert [one.label for one in found] == [f"{name}: accuracy" for name in ("clean", "all corruptions", "fog", "snow")]
    for one in found:
        assert one.estimate == expected


def test_an_accuracy_over_corruptions_counts_an_image_once_however_often_it_is_shown() -> None:
    """Every image is right under all conditions or under none: 75 looks at 40 images are worth 40 images."""
    rows = [
        {"sample_id": f"s{i:02d}", "condition": "fog", "level": float(level), "correct": i % 2 == 0}
        for level in range(1, 76)
        for i in range(40)
    ]
    constant = {"measurement": pl.lit("c"), "counted": pl.lit(True), "mask_iou": pl.lit(1.0)}
    clean = {"sample_id": "s00", "condition": "clean", "level": 0.0, "correct": True}
    observed = pl.DataFrame([*rows, clean]).with_columns(pl.col("sample_id").alias("group"), **constant)
    (found,) = (one.estimate for one in figures(observed, {"c": Corruptions()}) if one.label == "fog: accuracy")
    expected = wilson(20, 40)
    assert (found.value, found.n, found.groups) == (0.5, 40, 40)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_the_report_of_figures_is_read_as_it_was_written_infinite_ends_included(tmp_path: Path) -> None:
    median = median_distance(distances([1.0, math.inf, math.inf]))
    figure = Figure(
        measurement="nearest",
        kind="minimum-norm",
        threat="linf",
        label="median distance",
        claim=Claim.UPPER_ESTIMATE,
        unit="distance",
        estimate=median,
    )
    report = MeasurementReport(figures=(figure,))
    report.write(tmp_path / MEASURED)
    assert MeasurementReport.read(tmp_path / MEASURED) == report
    assert median.value == math.inf
