"""Galleries show what the records say, and hold it without model or data."""

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.errors import RunError
from pipeline.evaluation.evaluator import attack_images
from pipeline.evaluation.gallery import GALLERY, read_gallery, write_gallery
from pipeline.evaluation.records import RecordStore, read_records

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def evaluated(small, tmp_path_factory):
    run = tmp_path_factory.mktemp("evaluation")
    evaluation = small.evaluation_run()
    attack_images(evaluation, RecordStore(run), device=CPU, advance=lambda _: None)
    write_gallery(run, evaluation, read_records(run), per_outcome=4, device=CPU)
    return run, evaluation, read_records(run)


def test_a_gallery_holds_the_first_images_of_each_outcome_as_the_records_tell_them(evaluated):
    run, evaluation, records = evaluated
    gallery = read_gallery(run)
    last = records.filter(pl.col("epsilon") == max(evaluation.suite.threat.epsilons))
    for outcome in ("misclassified", "robust", "wrong-clean"):
        shown = gallery.sample_id[gallery.outcome == outcome].tolist()
        by_image = last.group_by("sample_id").agg(
            wrong=(pl.col("clean_prediction") != pl.col("label")).any(),
            fell=(pl.col("adversarial_prediction") != pl.col("label")).any(),
        )
        expected = {
            "wrong-clean": by_image.filter("wrong"),
            "misclassified": by_image.filter(pl.col("fell") & ~pl.col("wrong")),
            "robust": by_image.filter(~pl.col("fell")),
        }[outcome]["sample_id"].sort()
        assert shown == expected.to_list()[:4]  # ids of the small set are in the order of the evaluation


def test_what_is_shown_is_what_was_recorded(evaluated):
    """The recorded image itself, but where descent went on from a point of a smaller ball: then one of the same outcome."""
    run, evaluation, records = evaluated
    gallery = read_gallery(run)
    index = {sample_id: row for row, sample_id in enumerate(evaluation.dataset.samples["sample_id"])}
    last = records.filter(pl.col("epsilon") == max(evaluation.suite.threat.epsilons))
    for row in range(len(gallery)):
        stored = index[gallery.sample_id[row]]
        assert np.array_equal(gallery.image[row], evaluation.dataset.images[stored])
        assert np.array_equal(gallery.oracle_mask[row], evaluation.dataset.masks[stored])
        worst = last.filter(sample_id=gallery.sample_id[row]).sort("adversarial_margin").row(-1, named=True)
        assert gallery.clean_prediction[row] == worst["clean_prediction"]
        is_right = gallery.adversarial_prediction[row] == gallery.label[row]
        assert is_right == (worst["adversarial_prediction"] == worst["label"])
        assert gallery.perturbation_scale[row] <= (worst["found_epsilon"] or 0) * (1 + 1e-6)
        change = gallery.perturbation[row] / 127 * gallery.perturbation_scale[row]
        restored = 255 * (gallery.image[row] / 255 + change)
        assert np.abs(restored - gallery.adversarial[row]).max() <= 0.5 + 255 * gallery.perturbation_scale[row] / 254 + 1e-3
        if worst["found_by"] == "apgd":
            assert gallery.perturbation_scale[row] == pytest.approx(worst["linf"], rel=1e-5)
            assert gallery.adversarial_mask[row].mean() / 255 == pytest.approx(worst["adversarial_mask_mean"], abs=0.005)


def test_the_same_records_give_the_same_file(evaluated, tmp_path):
    run, evaluation, records = evaluated
    write_gallery(tmp_path, evaluation, records, per_outcome=4, device=CPU)
    assert (tmp_path / GALLERY).read_bytes() == (run / GALLERY).read_bytes()


def test_a_damaged_gallery_is_named(evaluated, tmp_path):
    run, _, _ = evaluated
    assert read_gallery(tmp_path) is None
    (tmp_path / GALLERY).write_bytes((run / GALLERY).read_bytes()[:500])
    with pytest.raises(RunError, match=r"gallery\.npz: damaged"):
        read_gallery(tmp_path)
