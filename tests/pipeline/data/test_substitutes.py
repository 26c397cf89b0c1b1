"""Masks in place of the samples' own: whose they may be, how near they are, and that they do not depend on the batch."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.data.config import AugmentConfig
from pipeline.data.dataset import PreparedDataset, open_prepared
from pipeline.data.loader import Loader, read_rows
from pipeline.data.substitutes import (
    ALIKE_AREA,
    ALIKE_PERIMETER,
    AREA_TOLERANCE,
    MAKERS,
    foreign_rows,
    random_alike,
    with_substitutes,
)
from pipeline.errors import DataError


@pytest.fixture
def dataset(synthetic_set: Path) -> PreparedDataset:
    """In groups of three across classes, as objects of one photograph are."""
    opened = open_prepared(synthetic_set)
    rows = np.arange(len(opened))
    return replace(opened, samples=opened.samples.with_columns(group=pl.Series([f"photo{row // 3}" for row in rows])))


@pytest.mark.parametrize("same", [True, False])
def test_a_foreign_mask_is_of_a_training_image_of_another_photograph_and_of_the_right_class(dataset: PreparedDataset, same: bool):
    chosen = foreign_rows(dataset, same=same)
    groups = dataset.samples["group"].to_numpy()
    assert len(chosen) == len(dataset) > 100
    assert set(dataset.samples["split"].gather(chosen)) == {"train"}
    assert not (chosen == np.arange(len(dataset))).any()
    assert not (groups[chosen] == groups).any()
    assert ((dataset.labels[chosen] == dataset.labels) == same).all()


@pytest.mark.parametrize("same", [True, False])
def test_its_area_is_within_the_tolerance_or_nothing_is_nearer(dataset: PreparedDataset, same: bool):
    """By brute force, from the masks themselves."""
    areas = np.asarray(dataset.masks).mean(axis=(1, 2), dtype=np.float64) / 255
    groups, labels = dataset.samples["group"].to_list(), dataset.labels
    train = [row for row, split in enumerate(dataset.samples["split"]) if split == "train"]
    near = 0
    for row, other in enumerate(foreign_rows(dataset, same=same)):
        difference = abs(areas[other] - areas[row])
        rivals = [abs(areas[r] - areas[row]) for r in train if groups[r] != groups[row] and (labels[r] == labels[row]) == same]
        assert difference <= max(AREA_TOLERANCE * areas[row], min(rivals)) + 1e-9
        near += difference <= AREA_TOLERANCE * areas[row] + 1e-9
    assert near > len(dataset) / 2


def test_masks_are_drawn_from_many_images_and_not_always_from_the_nearest(dataset: PreparedDataset):
    assert len(set(foreign_rows(dataset, same=False))) > len(dataset) / 4


@pytest.mark.parametrize("kind", MAKERS)
def test_a_substitute_does_not_depend_on_the_batch_or_on_what_was_asked_before(dataset: PreparedDataset, kind: str):
    rows = np.arange(0, 40)
    together = read_rows(with_substitutes(dataset, kind), rows)
    again = with_substitutes(dataset, kind)
    for row in reversed(rows):
        alone = read_rows(again, np.array([row]))
        assert (alone.substitutes == together.substitutes[row]).all()
    assert together.substitutes.shape == together.masks.shape
    assert not (together.substitutes == together.masks).all(dim=(1, 2, 3)).any()


@pytest.mark.slow
def test_substitutes_are_varied_as_the_masks_they_stand_for_also_in_worker_processes(synthetic_set: Path):
    """The loader moves the whole sample by the same numbers, so a substitute that is the own mask stays it."""
    dataset = open_prepared(synthetic_set)
    own = replace(dataset, substitutes=lambda rows: dataset.masks[rows], substitute_kind="random-alike")
    arguments = {"batch_size": 48, "seed": 3, "augment": AugmentConfig(shift=0.2, scale=0.3), "shuffle": True, "drop_last": False}
    (batch, *_) = Loader(own, "train", num_workers=0, **arguments).epoch(0)
    assert (batch.substitutes == batch.masks).all()
    foreign = with_substitutes(dataset, "foreign-other")
    here, there = (next(iter(Loader(foreign, "train", num_workers=n, **arguments).epoch(0))) for n in (0, 1))
    assert (here.substitutes == there.substitutes).all()
    assert not (here.substitutes == here.masks).all()


def test_without_another_class_there_is_no_mask_of_one(dataset: PreparedDataset):
    alone = replace(dataset, labels=np.zeros_like(dataset.labels))
    with pytest.raises(DataError, match="no training image of another class"):
        foreign_rows(alone, same=False)


def measured(mask: np.ndarray) -> tuple[int, int, int]:
    """Area, components and perimeter, the last two in another way."""
    padded = np.pad(mask, 1, mode="edge").astype(int)
    neighbors = [np.roll(padded, step, axis)[1:-1, 1:-1] for axis in (0, 1) for step in (1, -1)]
    return int(mask.sum()), ndimage.label(mask)[1], sum(int(((near == 0) & mask).sum()) for near in neighbors)


def test_a_random_mask_alike_has_the_area_the_components_and_the_perimeter_of_the_own(dataset: PreparedDataset):
    drawn = with_substitutes(dataset, "random-alike")
    rows = np.arange(60)
    overlaps, parts = [], Counter()
    for own, other in zip(dataset.masks[rows] > 127, drawn.substitutes(rows) > 127, strict=True):
        area, components, edges = measured(own)
        found = measured(other)
        assert abs(found[0] / area - 1) <= ALIKE_AREA
        assert found[1] == components
        assert abs(found[2] / edges - 1) <= ALIKE_PERIMETER
        parts[components] += 1
        overlaps.append((own & other).sum() / area)
    # It lies anywhere: on average it covers of the object what it covers of the image.
    share = (dataset.masks[rows] > 127).mean()
    assert abs(np.mean(overlaps) - share) < 0.12


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0]))
def test_an_empty_or_full_mask_has_no_other_like_it(seed: int, value: float):
    mask = np.full((8, 8), bool(value))
    assert (random_alike(mask, np.random.default_rng(seed)) == mask).all()
