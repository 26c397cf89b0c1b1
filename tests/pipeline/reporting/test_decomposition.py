"""Where the robustness went: shares that add up, names that do not collide, doubts that are said."""

import polars as pl
import pytest

from pipeline.ablation.counterfactual import Attribution
from pipeline.reporting.decomposition import decomposition_section, silhouette_section
from pipeline.reporting.reading import read_study

KEY = ["classifier_objective", "segmenter_objective", "train_masks", "test_masks", "epsilon"]


@pytest.fixture(scope="module")
def study(simulated, tmp_path_factory):
    run = tmp_path_factory.mktemp("decomposed") / "run"
    arms = simulated.ARMS[3:5]
    return read_study(simulated.write_ablation(run, num_images=60, arms=arms, with_gallery=False, per_group=3, overlooked=2))


def test_the_fates_of_every_arm_and_strength_add_up_to_all_images(study):
    table = decomposition_section(study).tables[0]
    attributions = table.tidy.filter(pl.col("measure").is_in([each.value for each in Attribution]))
    sums = attributions.group_by(KEY).agg(pl.col("value").sum(), pl.len())
    assert set(sums["len"]) == {len(Attribution)}
    assert sums["value"].to_list() == pytest.approx([1.0] * len(sums))


def test_the_robust_accuracies_of_the_arms_are_not_named_like_a_fate(study):
    """Lost minus gained is their difference, and the attribution "robust" is less than either."""
    tidy = decomposition_section(study).tables[0].tidy
    assert {"arm_robust", "oracle_arm_robust"} <= set(tidy["measure"])
    parts = [part for _, part in tidy.group_by(KEY)]
    assert len(parts) == 3  # epsilons
    for part in parts:
        value = dict(zip(part["measure"], part["value"], strict=True))
        lost = sum(share for name, share in value.items() if name.startswith("lost-"))
        assert value["oracle_arm_robust"] - value["arm_robust"] == pytest.approx(lost - value["gained"])
        assert value["arm_robust"] == pytest.approx(value["robust"] + value["gained"])
        assert set(part["groups"]) == {20}


def test_images_that_the_suite_overlooked_are_counted_for_each_arm(study):
    warning = decomposition_section(study).warning
    rows = study.decomposition
    for arm, epsilon in (("arm, seed 0", 2 / 255), ("arm, seed 1", 8 / 255)):
        at = rows.filter((pl.col("arm") == arm) & (pl.col("epsilon") == epsilon))
        most = 100 * (at["robust"].sum() - 2) / 60
        of_arm = next(part for part in warning.split("; ") if f"{arm}: " in part)
        assert f"{most:.1f} % at {round(255 * epsilon)}/255 (2 overlooked)" in of_arm
    sound = rows.with_columns(both_attack_robust="robust")
    assert decomposition_section(type(study)(**{**vars(study), "decomposition": sound})).warning is None


def test_another_classifier_of_the_oracle_arm_is_named(study):
    section = decomposition_section(study)
    assert "the classifier differs too" in section.intro
    assert section.tables[0].groups[0][1][0][1].detail == "the oracle's arm: oracle"
    same = study.decomposition.with_columns(oracle_train_masks="train_masks")
    section = decomposition_section(type(study)(**{**vars(study), "decomposition": same}))
    assert "the classifier differs too" not in section.intro
    assert section.tables[0].groups[0][1][0][1].detail == ""


def test_the_three_gradients_are_told_with_their_steps(study):
    table = decomposition_section(study).tables[1]
    assert [column.label for column in table.columns[2:]] == [
        "Gradient through both",
        "Gradient through the pixels only",
        "Gradient through the mask only",
    ]
    assert "50 steps" in table.caption
    assert "mask still follows the attacked image" in table.caption


def test_the_outline_table_names_its_split_and_that_it_takes_images_for_independent(study):
    table = silhouette_section(study).tables[0]
    assert [row[1].text for row in table.groups[0][1]] == ["test", "test"]
    assert table.tidy["split"].to_list() == ["test", "test"]
    assert "too narrow" in table.caption
