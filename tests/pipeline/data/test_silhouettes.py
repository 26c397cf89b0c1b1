"""A set of silhouettes is the same set with every image replaced by its own mask."""

from pathlib import Path

import numpy as np
from polars.testing import assert_frame_equal

from pipeline.data.builder import write_prepared
from pipeline.data.dataset import open_prepared
from pipeline.data.silhouettes import plan


def test_silhouettes_keep_samples_splits_labels_and_masks_and_show_the_mask_alone(synthetic_set: Path, tmp_path: Path) -> None:
    dataset = open_prepared(synthetic_set)
    target = tmp_path / "silhouettes"
    write_prepared(plan(dataset), target, name="silhouettes", image_size=dataset.image_size, root=None, workers=0)
    made = open_prepared(target)
    for channel in range(3):
        assert np.array_equal(made.images[..., channel], dataset.masks)
    assert np.array_equal(made.masks, dataset.masks)
    assert np.array_equal(made.labels, dataset.labels)
    assert_frame_equal(made.samples, dataset.samples)
    assert made.classes == dataset.classes
    assert made.fingerprint != dataset.fingerprint
