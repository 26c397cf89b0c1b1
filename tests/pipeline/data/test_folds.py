"""Folds: no group on two sides, every group tested once, and a directory that opens like any prepared data set."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.dataset import open_prepared
from pipeline.data.folds import fold_splits, write_fold
from pipeline.data.splits import assign_folds
from pipeline.errors import DataError

SAMPLES = st.lists(st.tuples(st.integers(0, 30).map(str), st.integers(0, 4)), min_size=1, max_size=120)


def samples(groups: list[str], labels: list[int], *, validating: int = 5) -> pl.DataFrame:
    """Every so many-th sample validates."""
    splits = ["val" if i % validating == 0 else "train" for i in range(len(groups))]
    return pl.DataFrame({"group": groups, "label": labels, "split": splits})


@given(SAMPLES, st.integers(2, 6))
def test_no_group_is_in_two_splits_of_a_fold_and_every_group_is_tested_in_exactly_one(found, folds: int):
    table = samples(*map(list, zip(*found, strict=True)))
    tested: Counter[str] = Counter()
    for number in range(folds):
        split = table.with_columns(fold_splits(table, number=number, folds=folds))
        by_group = split.group_by("group").agg(pl.col("split").n_unique().alias("splits"), pl.col("split").first())
        assert by_group["splits"].to_list() == [1] * len(by_group)
        tested.update(by_group.filter(pl.col("split") == "test")["group"])
    assert tested == Counter(set(table["group"]))


@given(SAMPLES, st.integers(2, 6), st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_the_samples(found, folds: int, shuffler):
    shuffled = list(found)
    shuffler.shuffle(shuffled)
    assert assign_folds(*zip(*found, strict=True), folds, seed=0) == assign_folds(*zip(*shuffled, strict=True), folds, seed=0)


def test_classes_are_shared_out_evenly_and_a_fifth_of_what_is_left_validates():
    table = samples([f"g{i}" for i in range(1000)], [i % 4 for i in range(1000)])
    for number in range(5):
        counts = Counter(zip(table["label"], fold_splits(table, number=number, folds=5), strict=True))
        for label in range(4):
            assert [counts[label, split] for split in ("test", "val", "train")] == [50, 40, 160]


@pytest.mark.parametrize(("number", "folds"), [(-1, 5), (5, 5), (0, 1)])
def test_a_fold_that_there_is_not_is_refused(number: int, folds: int):
    with pytest.raises(ValueError, match=r"folds: at least 2|counted from 0"):
        fold_splits(samples(["a", "b"], [0, 0]), number=number, folds=folds)


def test_a_fold_opens_like_any_prepared_set_with_the_pixels_of_its_own_and_other_splits(synthetic_set: Path, tmp_path: Path):
    base = open_prepared(synthetic_set)
    fingerprints = {base.fingerprint}
    for number in range(3):
        path = tmp_path / "folds" / str(number)
        write_fold(base, path, number=number, folds=3)
        fold = open_prepared(path)
        assert (path / "images.npy").is_symlink()
        np.testing.assert_array_equal(fold.images, base.images)
        np.testing.assert_array_equal(fold.labels, base.labels)
        assert fold.samples.drop("split").equals(base.samples.drop("split"))
        assert fold.samples["split"].to_list() == fold_splits(base.samples, number=number, folds=3).to_list()
        assert fold.mean == pytest.approx(base.images[fold.indices("train")].mean(axis=(0, 1, 2)) / 255, abs=1e-6)
        fingerprints.add(fold.fingerprint)
    assert len(fingerprints) == 4


def test_a_fold_that_leaves_a_class_nothing_to_train_on_is_refused_by_the_class(synthetic_set: Path, tmp_path: Path):
    base = open_prepared(synthetic_set)
    together = base.samples.with_columns(group=pl.when(pl.col("label") == 3).then(pl.lit("one")).otherwise("group"))
    lonely = type(base)(**{**vars(base), "samples": together})
    number = assign_folds(together["group"].to_list(), together["label"].to_list(), 3, seed=0)["one"]
    with pytest.raises(DataError, match=repr(base.classes[3])):
        write_fold(lonely, tmp_path / "fold", number=number, folds=3)
    assert not (tmp_path / "fold").exists()


@pytest.mark.parametrize("known", [False, True])
def test_signs_whose_tracks_nobody_knows_are_in_no_fold(synthetic_set: Path, tmp_path: Path, known: bool):
    """GTSRB's official test images are frames of tracks that are not published: one that is tested would be trained on."""
    base = open_prepared(synthetic_set)
    groups = pl.when(pl.col("split") == "test").then("sample_id" if not known else pl.col("label").cast(str)).otherwise("group")
    signs = type(base)(**{**vars(base), "name": "gtsrb", "samples": base.samples.with_columns(group=groups)})
    if known:
        write_fold(signs, tmp_path / "fold", number=0, folds=3)
        return
    with pytest.raises(DataError, match=r"the tracks of \d+ test images, .* column Group"):
        write_fold(signs, tmp_path / "fold", number=0, folds=3)
    assert not (tmp_path / "fold").exists()
