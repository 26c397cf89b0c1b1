"""Figures of single classes, counted by hand."""

from dataclasses import replace

import polars as pl
import pytest
from scipy.stats import binomtest

from pipeline.evaluation.statistics import wilson
from pipeline.reporting.classes import classes_section
from pipeline.reporting.reading import read_study


@pytest.fixture(scope="module")
def study(simulated, tmp_path_factory):
    run = tmp_path_factory.mktemp("classes") / "run"
    return read_study(simulated.write_ablation(run, num_images=63, seeds=(0,), arms=simulated.ARMS[3:5], with_gallery=False))


def by_hand(arm, epsilon: float) -> dict[str, tuple[int, int]]:
    """By class, how many images stand and how many there are, by plain loops."""
    stands: dict[str, bool] = {}
    label = {}
    for row in arm.records.iter_rows(named=True):
        label[row["sample_id"]] = arm.summary.classes[row["label"]]
        right = row["clean_prediction"] == row["label"]
        if 0 < row["epsilon"] <= epsilon:
            right = right and row["adversarial_prediction"] == row["label"]
        stands[row["sample_id"]] = stands.get(row["sample_id"], True) and right
    of_class = {name: [stands[key] for key in stands if label[key] == name] for name in set(label.values())}
    return {name: (sum(values), len(values)) for name, values in of_class.items()}


@pytest.mark.parametrize("epsilon", [0.0, 8 / 255])
def test_every_class_of_every_system_has_its_share_and_interval(study, epsilon):
    tidy = classes_section(study).folded[0].tidy.filter(pl.col("epsilon") == epsilon)
    assert len(tidy) == 2 * 5
    for arm in study.arms:
        rows = tidy.filter(pl.col("test_masks") == arm.condition.test_masks).to_dicts()
        counted = by_hand(arm, epsilon)
        assert {row["class"] for row in rows} == set(counted)
        for row in rows:
            expected = wilson(*counted[row["class"]])
            assert (row["value"], row["images"]) == (expected.value, expected.n)
            assert (row["low"], row["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_the_worst_class_is_the_one_with_the_lowest_share_and_classes_count_alike_in_their_mean(study):
    few = ~((pl.col("label") == 0) & (pl.col("sample_id") < "image-0045"))  # so that the mean over images is another
    arms = tuple(replace(arm, records=arm.records.filter(few)) for arm in study.arms)
    study = replace(study, arms=arms)
    rows = classes_section(study).tables[0].groups[0][1]
    assert len(rows) == len(study.arms) == 2
    tidy = classes_section(study).tables[0].tidy.filter(pl.col("epsilon") > 0).to_dicts()
    for arm, row in zip(study.arms, rows, strict=True):
        shares = {name: right / of for name, (right, of) in by_hand(arm, 8 / 255).items()}
        worst, figure, even = row[5:8]
        assert shares[worst.text] == min(shares.values())
        assert figure.text == f"{100 * min(shares.values()):.1f}"
        counts = by_hand(arm, 8 / 255)[worst.text]
        at_once = binomtest(*counts).proportion_ci(confidence_level=1 - 0.05 / 5, method="wilson")  # Bonferroni over five classes
        own = next(row for row in tidy if row["test_masks"] == arm.condition.test_masks)
        assert (own["low"], own["high"]) == (pytest.approx(at_once.low), pytest.approx(at_once.high))
        assert (own["worst_class"], own["images"], own["classes"]) == (worst.text, counts[1], 5)
        assert worst.detail == f"{counts[1]} images"
        assert even.text == f"{100 * sum(shares.values()) / len(shares):.1f}"


def test_a_class_without_an_image_is_left_out(study):
    without = [arm.records.filter(pl.col("label") != 2) for arm in study.arms]
    arms = tuple(replace(arm, records=records) for arm, records in zip(study.arms, without, strict=True))
    section = classes_section(replace(study, arms=arms))
    assert section.folded[0].num_rows == 4
    assert "<script>alert(1)</script>" not in section.folded[0].tidy["class"].to_list()
