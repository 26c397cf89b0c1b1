"""Image and mask move together."""

import numpy as np
import pytest

from pipeline.data.config import AugmentConfig
from pipeline.data.transforms import Augmentation


def disc(side=64, center=(32, 32), radius=14):
    y, x = np.mgrid[:side, :side] + 0.5
    inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2
    mask = np.where(inside, 255, 0).astype(np.uint8)
    return np.repeat(mask[:, :, None], 3, axis=2), mask


@pytest.mark.parametrize("seed", range(8))
def test_an_image_that_is_its_own_mask_stays_so(seed):
    image, mask = disc(center=(28, 36))
    varied, varied_mask = Augmentation(AugmentConfig(shift=0.1, scale=0.2, rotation=30, horizontal_flip=True))(
        image, mask, seed=seed
    )
    assert np.array_equal(varied[:, :, 0], varied_mask)
    assert not np.array_equal(varied_mask, mask)


@pytest.mark.parametrize("config", [AugmentConfig(shift=0.3), AugmentConfig(scale=0.4), AugmentConfig(rotation=30)])
def test_what_moves_in_from_outside_repeats_the_border_of_image_and_mask(config):
    image, mask = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32), 255, np.uint8)
    for seed in range(8):
        varied, varied_mask = Augmentation(config)(image, mask, seed=seed)
        assert (varied == 100).all()
        assert (varied_mask == 255).all()


def test_width_and_height_change_each_by_itself():
    image, mask = disc()
    varied = (Augmentation(AugmentConfig(scale=0.3))(image, mask, seed=seed)[1] > 127 for seed in range(20))
    ratios = [one.any(axis=0).sum() / one.any(axis=1).sum() for one in varied]
    assert min(ratios) < 0.8
    assert max(ratios) > 1.25


def test_light_and_noise_do_not_touch_the_mask():
    image, mask = disc()
    varied, varied_mask = Augmentation(AugmentConfig(brightness=0.3, contrast=0.3, noise=0.2))(image, mask, seed=1)
    assert np.array_equal(varied_mask, mask)
    assert not np.array_equal(varied, image)


def test_scaling_changes_the_area_by_the_square():
    image, mask = disc()
    shares = [Augmentation(AugmentConfig(scale=0.2))(image, mask, seed=seed)[1].mean() / mask.mean() for seed in range(40)]
    assert min(shares) > 0.8**2 - 0.03
    assert max(shares) < 1.2**2 + 0.03
    assert max(shares) - min(shares) > 0.3


def test_the_seed_decides():
    image, mask = disc()
    augmentation = Augmentation(AugmentConfig(shift=0.1, noise=0.1))
    first = augmentation(image, mask, seed=3)
    augmentation(image, mask, seed=4)
    again = augmentation(image, mask, seed=3)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


def test_no_option_changes_nothing():
    image, mask = disc()
    varied, varied_mask = Augmentation(AugmentConfig())(image, mask, seed=0)
    assert np.array_equal(varied, image)
    assert np.array_equal(varied_mask, mask)
