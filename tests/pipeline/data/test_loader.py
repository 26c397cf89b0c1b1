"""What is drawn depends on (seed, epoch, sample id) and on nothing else."""

import numpy as np
import pytest
import torch

from pipeline.data.config import AugmentConfig
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import Loader
from pipeline.data.seeds import sample_seed

AUGMENT = AugmentConfig(shift=0.1, scale=0.1, rotation=10, brightness=0.2, contrast=0.2, noise=0.05, horizontal_flip=True)


def loader(path, *, batch_size=16, workers=0, augment=AUGMENT, drop_last=False, rank=0, world_size=1, shuffle=True, split="train"):
    return Loader(
        open_prepared(path),
        split,
        batch_size=batch_size,
        seed=7,
        augment=augment,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=workers,
        rank=rank,
        world_size=world_size,
    )


def by_row(batches):
    images, masks = {}, {}
    for batch in batches:
        for position, row in enumerate(batch.indices.tolist()):
            assert row not in images
            images[row], masks[row] = batch.images[position], batch.masks[position]
    return images, masks


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[row], other[row]) for row in one)


def test_the_batch_size_changes_no_image(synthetic_set):
    assert_same(by_row(loader(synthetic_set).epoch(3)), by_row(loader(synthetic_set, batch_size=7).epoch(3)))


@pytest.mark.slow
def test_worker_processes_change_no_image_and_no_order(synthetic_set):
    alone, helped = loader(synthetic_set), loader(synthetic_set, workers=2)
    for epoch in (0, 1):  # the second epoch reuses the processes of the first
        first, second = list(alone.epoch(epoch)), list(helped.epoch(epoch))
        assert [batch.indices.tolist() for batch in first] == [batch.indices.tolist() for batch in second]
        assert all(torch.equal(one.images, other.images) for one, other in zip(first, second, strict=True))


def test_a_restart_in_mid_epoch_goes_on_with_the_same_batches(synthetic_set):
    whole = list(loader(synthetic_set).epoch(2))
    rest = list(loader(synthetic_set).epoch(2, start_batch=4))
    assert len(rest) == len(whole) - 4
    for one, other in zip(whole[4:], rest, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_together_see_each_global_batch_once(synthetic_set, world_size):
    whole = list(loader(synthetic_set, batch_size=10).epoch(1))
    shares = [list(loader(synthetic_set, batch_size=10, rank=rank, world_size=world_size).epoch(1)) for rank in range(world_size)]
    for position, batch in enumerate(whole):
        together = [row for share in shares for row in share[position].indices.tolist()]
        assert sorted(together) == sorted(batch.indices.tolist())
    assert_same(by_row(whole), by_row([batch for share in shares for batch in share]))


def test_another_epoch_draws_other_images_in_another_order(synthetic_set):
    first, second = list(loader(synthetic_set).epoch(0)), list(loader(synthetic_set).epoch(1))
    assert [batch.indices.tolist() for batch in first] != [batch.indices.tolist() for batch in second]
    images, others = by_row(first)[0], by_row(second)[0]
    assert not any(torch.equal(images[row], others[row]) for row in images)


def test_without_augmentation_the_stored_pixels_come_back(synthetic_set):
    opened = open_prepared(synthetic_set)
    images, masks = by_row(loader(synthetic_set, augment=None).epoch(0))
    assert sorted(images) == opened.indices("train").tolist()
    for row, image in images.items():
        assert np.array_equal((image.permute(1, 2, 0).double() * 255).round().numpy(), opened.images[row])
        assert np.array_equal((masks[row][0].double() * 255).round().numpy(), opened.masks[row])


def test_the_last_batch_is_left_out_only_where_another_is_left(synthetic_set):
    assert [len(batch) for batch in loader(synthetic_set, batch_size=40, drop_last=True).epoch(0)] == [40, 40]
    assert [len(batch) for batch in loader(synthetic_set, batch_size=40).epoch(0)] == [40, 40, 16]
    assert [len(batch) for batch in loader(synthetic_set, batch_size=400, drop_last=True).epoch(0)] == [96]


def test_the_seed_of_a_sample_comes_from_its_id(synthetic_set):
    opened = open_prepared(synthetic_set)
    batch = next(loader(synthetic_set, shuffle=False).epoch(0))
    expected = [sample_seed(opened.samples["sample_id"][row]) for row in batch.indices.tolist()]
    assert batch.seeds.tolist() == expected
    assert len(set(expected)) == len(expected)
    assert min(expected) >= 0


def test_images_are_channels_last_without_a_copy(synthetic_set):
    batch = next(loader(synthetic_set, augment=None).epoch(0))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert float(batch.images.min()) >= 0
    assert float(batch.images.max()) <= 1


def test_more_processes_than_images_in_a_batch_are_refused(synthetic_set):
    with pytest.raises(ValueError, match="cannot be shared"):
        loader(synthetic_set, batch_size=2, world_size=3)
