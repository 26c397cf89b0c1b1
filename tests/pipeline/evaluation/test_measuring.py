"""Measurements from the run to figures: every image once under every condition, resumed exactly, on every mask source."""

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import Tensor

from pipeline.attacks.corruptions import corrupt
from pipeline.attacks.measurement import Claim
from pipeline.attacks.measurements import Backgrounds, Corruption, Corruptions, DecisionBased, MinimumNorm, Patches, Smoothing
from pipeline.attacks.patch_attack import PatchAttack
from pipeline.attacks.threat import Region
from pipeline.config import validate
from pipeline.errors import ConfigError, RunError
from pipeline.evaluation.evaluator import attack_images
from pipeline.evaluation.measured import (
    attacked_accuracy,
    certified_accuracy,
    figures,
    patched_accuracy,
    robust_beyond,
)
from pipeline.evaluation.measuring import MEASUREMENTS, measure_images, missing_observations, read_observations
from pipeline.evaluation.metrics import clean_accuracy, robust_accuracy
from pipeline.evaluation.records import RecordStore, Unit, read_records, read_tables, write_table
from pipeline.masks.config import MaskSource

CPU = torch.device("cpu")
SUITE = {
    "nearest": MinimumNorm(num_steps=15),
    "nearest-l2": MinimumNorm(search="ddn", norm="l2", num_steps=15),
    "patches": Patches(shares=(2 / 144, 9 / 144), attack=PatchAttack(num_promising=1, num_random=1, num_steps=2)),
    "corruptions": Corruptions(corruptions=(Corruption.FOG, Corruption.ELASTIC), severities=(1, 5)),
    "backgrounds": Backgrounds(),
    "smoothing": Smoothing(
        sigma=0.02, num_selection=10, num_draws=40, error_rate=0.01, radii=(0.01, 0.1), num_steps=3, attack_draws=2
    ),
}
CONDITIONS = {"nearest": 1, "nearest-l2": 1, "patches": 6, "corruptions": 5, "backgrounds": 5, "smoothing": 3}


def measure(run: object, path: Path) -> pl.DataFrame:
    measure_images(run, path, device=CPU, advance=lambda _: None)  # type: ignore[arg-type]
    observations = read_observations(path)
    assert observations is not None
    return observations


@pytest.fixture(scope="module")
def observations(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return measure(small.evaluation_run(measurements=SUITE), tmp_path_factory.mktemp("measured"))


@pytest.mark.slow
def test_every_image_is_observed_once_under_every_condition(small: ModuleType, observations: pl.DataFrame) -> None:
    assert len(observations) == small.IMAGES * sum(CONDITIONS.values())
    counted = observations.group_by("measurement").agg(pl.struct("condition", "level").n_unique(), pl.col("sample_id").n_unique())
    assert {name: conditions for name, conditions, _ in counted.iter_rows()} == CONDITIONS
    assert set(counted["sample_id"]) == {small.IMAGES}
    assert dict(observations.group_by("measurement").agg(pl.col("threat").first()).iter_rows()) == {
        "nearest": "linf",
        "nearest-l2": "l2",
        "patches": "patch",
        "corruptions": "corruption",
        "backgrounds": "background",
        "smoothing": "l2",
    }


@pytest.mark.parametrize(
    ("kind", "words", "named"),
    [
        (Backgrounds, {"backdrops": ["same-class", "other-class", "same-class"]}, "same-class"),
        (Corruptions, {"severities": [1, 3, 1]}, "gaussian-noise 1"),
        (Corruptions, {"corruptions": ["fog", "fog"]}, "fog 1"),
        (Patches, {"shares": [0.02, "2/100"]}, "everywhere 0.02"),
        (Smoothing, {"radii": [0.5, 0.5]}, "attacked 0.5"),
    ],
)
def test_a_condition_that_is_named_twice_would_count_images_twice_and_is_refused(kind: type, words: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=f"names the same condition twice: {named}$"):
        validate(kind, words)


def test_what_nobody_has_changed_is_judged_as_the_attacks_records_judge_it(
    small: ModuleType, observations: pl.DataFrame, tmp_path: Path
) -> None:
    attack_images(small.evaluation_run(epsilons=(0.0,)), RecordStore(tmp_path), device=CPU, advance=lambda _: None)
    records = read_records(tmp_path).unique("sample_id").sort("sample_id")
    for measurement, condition in (("corruptions", "clean"), ("backgrounds", "original")):
        clean = observations.filter((pl.col("measurement") == measurement) & (pl.col("condition") == condition)).sort("sample_id")
        assert clean["prediction"].equals(records["clean_prediction"], check_names=False)
        np.testing.assert_allclose(clean["mask_iou"], records["clean_mask_iou"])


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "chunk_size"), [(1, 20), (20, 7)])
def test_neither_batch_nor_chunk_changes_an_observation(
    small: ModuleType, observations: pl.DataFrame, tmp_path: Path, batch_size: int, chunk_size: int
) -> None:
    suite = {name: SUITE[name] for name in ("nearest", "patches", "corruptions", "backgrounds")}
    other = measure(small.evaluation_run(measurements=suite, batch_size=batch_size, chunk_size=chunk_size), tmp_path)
    key = ["measurement", "condition", "level", "sample_id"]
    first = observations.filter(pl.col("measurement").is_in(list(suite))).sort(key)
    rounded = ("value", "mask_iou", "seconds")
    assert_frame_equal(first.drop(rounded), other.sort(key).drop(rounded))
    assert_frame_equal(first.select("value"), other.sort(key).select("value"), rel_tol=1e-2)


@pytest.mark.slow
def test_what_was_finished_is_not_made_again_and_the_rest_is_made_as_it_would_have_been(
    small: ModuleType, observations: pl.DataFrame, tmp_path: Path
) -> None:
    run = small.evaluation_run(measurements=SUITE)
    measure(run, tmp_path)
    parts = sorted((tmp_path / MEASUREMENTS).glob("*.parquet"))
    kept = {path: path.read_bytes() for path in parts[::3]}
    for path in set(parts) - set(kept):
        path.unlink()
    finished: list[int] = []
    missing = missing_observations(run, tmp_path)
    measure_images(run, tmp_path, device=CPU, advance=finished.append)
    assert sum(finished) == missing == len(observations) - sum(len(pl.read_parquet(content)) for content in kept.values())
    assert all(path.read_bytes() == content for path, content in kept.items())
    again = read_observations(tmp_path)
    assert again is not None
    key = ["measurement", "condition", "level", "sample_id"]
    assert_frame_equal(again.sort(key).drop("seconds"), observations.sort(key).drop("seconds"))
    assert missing_observations(run, tmp_path) == 0


def test_a_damaged_part_is_named_and_no_part_is_none(small: ModuleType, tmp_path: Path) -> None:
    assert read_observations(tmp_path) is None
    measure(small.evaluation_run(measurements={"nearest": MinimumNorm(num_steps=1)}), tmp_path)
    part = next((tmp_path / MEASUREMENTS).glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(RunError, match=rf"{part.name}: damaged"):
        read_observations(tmp_path)


def test_distances_give_robust_accuracy_that_agrees_with_the_attacks(
    small: ModuleType, observations: pl.DataFrame, tmp_path: Path
) -> None:
    epsilons = (0.0, 0.004, 0.01, 0.03)
    attack_images(small.evaluation_run(epsilons=epsilons), RecordStore(tmp_path), device=CPU, advance=lambda _: None)
    records = read_records(tmp_path)
    nearest = observations.filter(pl.col("measurement") == "nearest")
    assert robust_beyond(nearest, 0.0).value == clean_accuracy(records).value
    alone = [robust_beyond(nearest, epsilon).value for epsilon in epsilons]
    suite = [robust_accuracy(records, epsilon).value for epsilon in epsilons]
    assert alone == sorted(alone, reverse=True)
    assert alone[-1] < alone[0]
    # One search of 15 steps against three attacks with restarts: never far apart on so small a system.
    np.testing.assert_allclose(alone, suite, atol=2.1 / small.IMAGES)


def test_no_certificate_is_above_what_the_attack_on_the_smoothed_system_left(observations: pl.DataFrame) -> None:
    smoothed = observations.filter(pl.col("measurement") == "smoothing")
    certified = [certified_accuracy(smoothed, radius).value for radius in (0.0, 0.01, 0.02, 0.1)]
    assert certified == sorted(certified, reverse=True)
    assert certified[1] > 0
    for radius in (0.01, 0.1):
        assert certified_accuracy(smoothed, radius).value <= attacked_accuracy(smoothed, radius).value
    assert attacked_accuracy(smoothed, 0.1).value < attacked_accuracy(smoothed, 0.01).value


def test_a_larger_patch_never_counts_for_less_and_beside_an_oracle_with_a_constant_fill_for_nothing(
    small: ModuleType, observations: pl.DataFrame, tmp_path: Path
) -> None:
    patched = observations.filter(pl.col("measurement") == "patches")
    for region in ("everywhere", "foreground", "background"):
        small_patch, large_patch = (patched_accuracy(patched, region, size) for size in (2 / 144, 9 / 144))
        assert large_patch.value <= small_patch.value
        assert large_patch.n == small.IMAGES  # a square of 3 pixels fits on the object and beside it
    assert patched_accuracy(patched, "everywhere", 9 / 144).value < clean(observations)
    oracle = measure(
        small.evaluation_run(MaskSource.ORACLE, measurements={"patches": SUITE["patches"], "b": Backgrounds()}), tmp_path
    )
    assert patched_accuracy(oracle.filter(pl.col("measurement") == "patches"), "background", 9 / 144).value == clean(oracle)


def clean(observations: pl.DataFrame) -> float:
    return float(observations.filter(pl.col("condition") == "original")["correct"].mean())  # type: ignore[arg-type]


def test_an_image_without_room_for_the_patch_is_not_counted(small: ModuleType, tmp_path: Path) -> None:
    """The object is 6 x 8 pixels: no square of 7 lies on it, and none is beside it in an image of 12 pixels."""
    suite = {"patches": Patches(shares=(1 / 144, 49 / 144), attack=PatchAttack(num_promising=0, num_random=1, num_steps=1))}
    found = measure(small.evaluation_run(measurements=suite), tmp_path)
    counted = found.group_by("condition", "level").agg(pl.col("counted").sum()).sort("condition", "level")
    assert counted["counted"].to_list() == [20, 0, 20, 20, 20, 0]
    assert {figure.label for figure in figures(found, suite)} == {
        "patch anywhere, 0.694 % of the image",
        "patch anywhere, 34 % of the image",
        "patch on the object, 0.694 % of the image",
        "patch beside the object, 0.694 % of the image",
    }


def test_every_figure_says_what_it_claims(observations: pl.DataFrame) -> None:
    found = figures(observations, SUITE)
    claims = {(figure.measurement, figure.label.split(" at ")[0]): figure.claim for figure in found}
    assert claims["nearest", "median distance"] is Claim.UPPER_ESTIMATE
    assert claims["smoothing", "certified accuracy"] is Claim.LOWER_BOUND
    assert claims["smoothing", "accuracy under attack"] is Claim.UPPER_ESTIMATE
    assert claims["corruptions", "fog: accuracy"] is Claim.ACCURACY
    assert claims["backgrounds", "BG-gap"] is Claim.ACCURACY
    assert figures(observations, SUITE) == found


def test_a_part_that_two_machines_made_is_named_and_never_counted_twice(tmp_path: Path) -> None:
    """Their seconds differ, and with them the digests in the names of the files."""
    schema, unit = {"value": pl.Float64(), "seconds": pl.Float64()}, Unit(3, 1, 2)
    for number, seconds in enumerate((0.5, 0.75)):
        write_table(tmp_path / str(number), unit, pl.DataFrame({"value": [1.0], "seconds": [seconds]}))
        write_table(tmp_path / str(number), Unit(4, 1, 2), pl.DataFrame({"value": [2.0], "seconds": [0.5]}))
    (other,) = (tmp_path / "1").glob(f"{unit.name}.*.parquet")
    shutil.copy(other, tmp_path / "0")
    with pytest.raises(RunError, match=rf"0/{unit.name}\.\*\.parquet: are there twice; delete these files and .* resume=true"):
        read_tables(tmp_path / "0", schema)
    assert read_tables(tmp_path / "1", schema)["value"].to_list() == [1.0, 2.0]  # type: ignore[index]


@pytest.mark.parametrize(
    "source",
    [one if one in (MaskSource.ORACLE, MaskSource.LEARNED) else pytest.param(one, marks=pytest.mark.slow) for one in MaskSource],
)
def test_every_measurement_is_made_on_every_mask_source(small: ModuleType, tmp_path: Path, source: MaskSource) -> None:
    suite = {
        "nearest": MinimumNorm(num_steps=2, region=Region.FOREGROUND),
        "patches": Patches(shares=(9 / 144,), attack=PatchAttack(num_promising=1, num_random=0, num_steps=1)),
        "decisions": DecisionBased(num_steps=1, max_probes=2),
        "corruptions": Corruptions(corruptions=(Corruption.ELASTIC,), severities=(3,)),
        "backgrounds": Backgrounds(),
        "smoothing": Smoothing(num_selection=1, num_draws=2, radii=(0.1,), num_steps=1, attack_draws=1),
    }
    found = measure(small.evaluation_run(source, measurements=suite), tmp_path)
    assert set(found["mask_source"]) == {source.value}
    assert len(found) == small.IMAGES * (1 + 1 + 3 + 2 + 5 + 2)
    if source is MaskSource.ORACLE:  # whatever happens to the object, the oracle knows where it is
        assert (found["mask_iou"] == 1).all()


def test_an_oracle_sees_the_corrupted_object_through_its_own_warped_mask(small: ModuleType, tmp_path: Path) -> None:
    run = small.evaluation_run(
        MaskSource.ORACLE, measurements={"c": Corruptions(corruptions=(Corruption.ELASTIC,), severities=(5,))}
    )
    found = measure(run, tmp_path).filter(pl.col("level") == 5).sort("sample_id")
    images, context = small.pictures()
    from pipeline.data.loader import read_rows
    from pipeline.evaluation.measuring import _batch

    batch = _batch(run, "c", np.arange(small.IMAGES), CPU)
    assert torch.equal(batch.images, read_rows(run.dataset, np.arange(small.IMAGES)).images)
    warped: Tensor
    changed, warped = corrupt(Corruption.ELASTIC, 5, images, context.oracle_masks, batch.seeds)
    with torch.no_grad():
        expected = run.system(changed, context._replace(oracle_masks=warped)).argmax(dim=1)
    assert found["prediction"].to_list() == expected.tolist()


def test_in_front_of_the_object_alone_the_oracle_system_sees_the_same_whatever_the_background(
    small: ModuleType, tmp_path: Path
) -> None:
    """Through the true mask and a constant fill other backgrounds change nothing: the gap is exactly 0."""
    found = measure(small.evaluation_run(MaskSource.ORACLE, measurements={"b": Backgrounds()}), tmp_path)
    counted = found.filter(pl.col("counted"))
    answers = {
        condition: dict(counted.filter(pl.col("condition") == condition).select("sample_id", "prediction").iter_rows())
        for condition in ("original", "same-class", "other-class", "only-foreground")
    }
    assert answers["only-foreground"] == answers["original"]
    assert len(answers["other-class"]) == small.IMAGES
    for condition in ("same-class", "other-class"):
        assert answers[condition].items() <= answers["original"].items()
