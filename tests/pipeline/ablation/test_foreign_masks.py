"""Classifiers that are trained and tested with masks in place of the images' own."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.data.dataset import open_prepared
from pipeline.data.substitutes import MAKERS, with_substitutes
from pipeline.evaluation.records import read_records
from pipeline.masks.config import MaskSource

WORDS = [
    "classifier.width=4",
    "classifier_objectives=[natural]",
    "classifier_trainer={epochs: 1, num_workers: 0}",
    "augment.shift=0.1",
    "attack.threat.epsilons=[8/255]",
    "primary_epsilon=null",
    "attack.attacks={pgd: {kind: class, search: pgd, num_steps: 1}}",
    "evaluation.max_images=16",
    "evaluation.batch_size=5",
    "evaluation.sanity=null",
    "degradation=null",
    "decomposition=null",
    "silhouette=false",
]


def test_every_mask_in_place_of_the_oracle_is_a_source() -> None:
    assert {source.substitute for source in MaskSource} - {None} == set(MAKERS)


@pytest.mark.slow
def test_the_masks_of_a_system_are_the_substitutes_of_its_images(synthetic_set: Path, tmp_path: Path) -> None:
    """What the records say of the masks, against the data set's substitutes, image by image."""
    dataset = open_prepared(synthetic_set)
    data = ["data.num_train=96", "data.num_val=32", "data.num_test=32", "data.num_classes=10"]
    masks = ", ".join(f"{{train: {kind}, test: {kind}}}" for kind in MAKERS)
    assert main(["ablate", f"run={tmp_path}", f"prepared={synthetic_set}", *data, *WORDS, f"masks=[{masks}]"]) == 0
    arms = json.loads((tmp_path / "ablation.json").read_text())["arms"]
    assert {arm["test_masks"] for arm in arms} == {arm["train_masks"] for arm in arms} == set(MAKERS)
    row_of = {sample_id: row for row, sample_id in enumerate(dataset.samples["sample_id"])}
    for arm in arms:
        records = read_records(tmp_path / arm["evaluation"]).unique("sample_id")
        assert len(records) == 16
        rows = np.array([row_of[sample_id] for sample_id in records["sample_id"]])
        expected = with_substitutes(dataset, arm["test_masks"]).substitutes(rows) / 255
        assert records["clean_mask_mean"].to_numpy() == pytest.approx(expected.mean(axis=(1, 2)), abs=1e-5)
        own = dataset.masks[rows] / 255
        assert not np.isclose(records["clean_mask_mean"].to_numpy(), own.mean(axis=(1, 2)), atol=1e-5).all()
        assert (records["clean_mask_iou"] < 0.999).all()
