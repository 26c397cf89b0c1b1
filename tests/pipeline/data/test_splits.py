"""Splits keep groups whole and share classes out."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.splits import assign_splits

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
SAMPLES = st.lists(st.tuples(st.integers(0, 30).map(str), st.integers(0, 4)), min_size=1, max_size=120)


@given(SAMPLES, st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_group_gets_one_split_whatever_the_order_of_the_samples(samples, seed, shuffler: random.Random):
    groups, labels = zip(*samples, strict=True)
    first = assign_splits(groups, labels, FRACTIONS, seed=seed)
    shuffled = list(samples)
    shuffler.shuffle(shuffled)
    again = assign_splits(*zip(*shuffled, strict=True), FRACTIONS, seed=seed)
    assert first == again
    assert set(first) == set(groups)
    assert set(first.values()) <= set(FRACTIONS)


@given(st.integers(3, 40), st.integers(0, 9))
def test_a_class_with_enough_groups_is_in_every_split(num_groups, seed):
    groups = [f"track{i}" for i in range(num_groups)]
    assert set(assign_splits(groups, [0] * num_groups, FRACTIONS, seed=seed).values()) == set(FRACTIONS)


def test_a_class_with_one_group_is_trained_on():
    assert assign_splits(["only"] * 5, [3] * 5, FRACTIONS, seed=0) == {"only": "train"}


def test_classes_are_shared_out_by_the_fractions():
    groups = [f"g{i}" for i in range(1000)]
    labels = [i % 4 for i in range(1000)]
    splits = assign_splits(groups, labels, FRACTIONS, seed=1)
    for label in range(4):
        found = Counter(splits[g] for g, la in zip(groups, labels, strict=True) if la == label)
        assert {split: round(count / 250, 2) for split, count in found.items()} == FRACTIONS


def test_another_seed_draws_another_split():
    groups = [f"g{i}" for i in range(50)]
    first, second = (assign_splits(groups, [0] * 50, FRACTIONS, seed=seed) for seed in (0, 1))
    assert first != second


def test_fractions_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="add up to 1"):
        assign_splits(["a"], [0], {"train": 0.5, "val": 0.2}, seed=0)
