"""A damaged prepared data set is refused with the reason, never read."""

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pipeline.data.dataset import FILES, MANIFEST, open_prepared
from pipeline.errors import DataError


@pytest.fixture
def copy(synthetic_set, tmp_path) -> Path:
    return shutil.copytree(synthetic_set, tmp_path / "copy")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("position", [0.1, 0.5, 0.95])
def test_a_flipped_bit_anywhere_is_found(copy, name, position):
    data = bytearray((copy / name).read_bytes())
    data[int(position * len(data))] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
        open_prepared(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(DataError, match=f"{name}: missing"):
        open_prepared(copy)


def test_a_truncated_file_is_found_even_without_reading_it(copy):
    with (copy / "images.npy").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(DataError, match="1000 bytes instead of"):
        open_prepared(copy, verify=False)


def test_a_half_written_directory_is_refused(copy):
    (copy / MANIFEST).unlink()
    with pytest.raises(DataError, match=f"{MANIFEST} is missing"):
        open_prepared(copy)


def test_a_path_that_does_not_exist_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="no such directory; make it with: foreguard prepare"):
        open_prepared(tmp_path / "nothing")


def test_a_file_where_a_directory_is_expected_is_named(copy):
    with pytest.raises(DataError, match=r"labels\.npy: is a file"):
        open_prepared(copy / "labels.npy")


def test_a_directory_may_have_any_name(synthetic_set, tmp_path):
    odd = tmp_path / "set [0, 1] * ? {a,b}"
    shutil.copytree(synthetic_set, odd)
    assert open_prepared(odd).samples.equals(open_prepared(synthetic_set).samples)


def test_images_stay_on_disk_until_they_are_indexed(synthetic_set):
    import numpy as np

    opened = open_prepared(synthetic_set)
    assert isinstance(opened.images, np.memmap)
    assert not opened.images.flags.writeable


def test_the_splits_part_the_rows(synthetic_set):
    opened = open_prepared(synthetic_set)
    rows = [row for split in ("train", "val", "test") for row in opened.indices(split)]
    assert sorted(rows) == list(range(len(opened)))


@pytest.mark.parametrize(
    ("groups", "said"), [(1, "it has 1 group, "), (2, "it has 2 groups, "), (3, "prepare it again with another split")]
)
def test_a_split_that_groups_left_empty_asks_for_groups_and_not_for_other_fractions(synthetic_set, groups, said):
    dataset = open_prepared(synthetic_set)
    of_train = pl.int_range(pl.len()).mod(groups).cast(pl.String)
    crowded = replace(dataset, samples=dataset.samples.with_columns(split=pl.lit("train"), group=of_train))
    with pytest.raises(DataError, match=f"no sample is in the val split; {said}"):
        crowded.indices("val")
