"""Systems that know as many test and validation images as they are told to, against scipy's intervals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import binomtest, mannwhitneyu, norm
from torch import Tensor, nn

from pipeline.attacks.diagnostics import Outcome
from pipeline.attacks.shipped import suites
from pipeline.data.dataset import PreparedDataset, open_prepared
from pipeline.data.loader import read_rows
from pipeline.data.splits import Split
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.evaluator import EvaluationRun
from pipeline.evaluation.leakage import against_validation
from pipeline.system import as_system

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(synthetic_set: Path) -> PreparedDataset:
    return open_prepared(synthetic_set)


class Knows(nn.Module):
    """Right about the images that it was given, and about no other."""

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int) -> None:
        super().__init__()
        self.known, self.answers = images.flatten(1), nn.functional.one_hot(labels, num_classes).float()

    def forward(self, images: Tensor) -> Tensor:
        near = torch.cdist(images.flatten(1), self.known, compute_mode="donot_use_mm_for_euclid_dist") < 1e-3
        logits = near.float() @ self.answers
        logits[:, 0] += 0.5  # of no class that is asked for
        return logits


def fitted(prepared: PreparedDataset, *, test: int, val: int, split: Split = "test") -> tuple[EvaluationRun, pl.DataFrame]:
    """A run whose system is right on so many images of each split, where class 0 has none, and the records of it."""
    rows = {one: _of_others(prepared, one) for one in ("test", "val")}
    known = read_rows(prepared, np.concatenate([rows["test"][:test], rows["val"][:val]]))
    system = as_system(Knows(known.images, known.labels, prepared.num_classes))
    given = rows[split]  # type: ignore[index]
    run = EvaluationRun(
        system=system, system_id="", suite=suites()["fast"], seed=0, batch_size=7, dataset=prepared, rows=given, chunk_size=64
    )
    labels = prepared.labels[given]
    records = pl.DataFrame(
        {
            "sample_id": run.sample_ids(given),
            "group": prepared.samples["group"].gather(given),
            "label": labels,
            "clean_prediction": np.where(np.arange(len(given)) < test, labels, 0),
            "clean_margin": np.where(np.arange(len(given)) < test, -0.5, 0.5),
        }
    )
    return run, pl.concat([records, records])


def _of_others(prepared: PreparedDataset, split: Split) -> np.ndarray:
    rows = choose_rows(prepared, split, None)
    return rows[prepared.labels[rows] > 0]


@pytest.mark.parametrize(("test", "val", "fails"), [(99, 3, True), (22, 0, True), (24, 24, False), (20, 8, False), (3, 24, False)])
def test_it_fails_where_test_images_are_surely_known_better(prepared: PreparedDataset, test: int, val: int, fails: bool) -> None:
    run, records = fitted(prepared, test=test, val=val)
    check = against_validation(run, records, CPU)
    rows = choose_rows(prepared, "val", None)
    test, val, sizes = min(test, len(run.rows)), val + int((prepared.labels[rows] == 0).sum()), (len(run.rows), len(rows))
    ends = [binomtest(right, n).proportion_ci(0.999, method="wilson") for right, n in zip((test, val), sizes, strict=True)]
    difference = test / sizes[0] - val / sizes[1]
    least = difference - math.hypot(test / sizes[0] - ends[0].low, ends[1].high - val / sizes[1])
    of_accuracy = {name: check.figures[name] for name in ("test", "validation", "least")}
    assert of_accuracy == pytest.approx({"test": test / sizes[0], "validation": val / sizes[1], "least": least})
    assert (check.outcome is Outcome.FAIL) == fails == (least > 0.05)
    assert ("harder" in check.advice) == fails


def test_images_of_one_group_are_one_piece_of_evidence(prepared: PreparedDataset) -> None:
    run, records = fitted(prepared, test=99, val=0)
    one_track = replace(prepared, samples=prepared.samples.with_columns(group=pl.lit("one")))
    assert against_validation(run, records, CPU).outcome is Outcome.FAIL
    assert (
        against_validation(replace(run, dataset=one_track), records.with_columns(group=pl.lit("one")), CPU).outcome is Outcome.PASS
    )


def test_without_test_or_validation_images_it_says_nothing(prepared: PreparedDataset) -> None:
    run, records = fitted(prepared, test=3, val=3, split="val")
    assert "other images" in against_validation(run, records, CPU).finding
    run, records = fitted(prepared, test=3, val=3)
    alone = replace(
        run,
        dataset=replace(
            prepared,
            samples=prepared.samples.with_columns(
                split=pl.when(pl.col("split") == "val")
                .then(pl.lit("train"))
                .otherwise(pl.col("split"))
                .cast(prepared.samples["split"].dtype)
            ),
        ),
    )
    check = against_validation(alone, records, CPU)
    assert (check.outcome, check.finding) == (Outcome.SKIP, "the data set has no validation images")


class Sure(nn.Module):
    """Right about the images that it was given, and as sure as it was told to be."""

    def __init__(self, images: Tensor, labels: Tensor, margins: np.ndarray, num_classes: int) -> None:
        super().__init__()
        self.known = images.flatten(1)
        self.answers = nn.functional.one_hot(labels, num_classes).double() * torch.from_numpy(margins)[:, None]

    def forward(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(images.flatten(1), self.known, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
        return self.answers[nearest]


@pytest.mark.parametrize(
    ("raised", "of_groups", "fails"),
    [(0.0, None, False), (0.1, None, False), (3.0, None, True), (3.0, 6, False)],  # one standard deviation is 1
)
def test_it_fails_where_the_system_is_surely_surer_of_test_images(
    prepared: PreparedDataset, raised: float, of_groups: int | None, fails: bool
) -> None:
    run, records = fitted(prepared, test=99, val=99)
    rows = np.concatenate([run.rows, choose_rows(prepared, "val", None)])
    margins = np.random.default_rng(0).normal(6, 1, len(rows))
    margins[: len(run.rows)] += raised
    known = read_rows(prepared, rows)
    system = as_system(Sure(known.images, known.labels, margins, prepared.num_classes))
    clean = dict(zip(run.sample_ids(run.rows), -margins, strict=False))
    records = records.with_columns(
        clean_margin=pl.col("sample_id").replace_strict(clean, return_dtype=pl.Float64), clean_prediction=pl.col("label")
    )
    dataset = prepared
    if of_groups is not None:
        number = pl.int_range(pl.len()) % of_groups
        dataset = replace(prepared, samples=prepared.samples.with_columns(group=number.cast(pl.String)))
    check = against_validation(replace(run, system=system, dataset=dataset), records, CPU)
    own, others = margins[: len(run.rows)], margins[len(run.rows) :]
    assert check.figures["surer"] == pytest.approx(mannwhitneyu(own, others).statistic / len(own) / len(others))
    few, z, surer = of_groups or min(len(own), len(others)), norm.ppf(0.9995), check.figures["surer"]  # groups are the number there
    center, reach = 2 * few * surer + z**2, z * math.sqrt(4 * few * surer * (1 - surer) + z**2)
    assert check.figures["least_surer"] == pytest.approx((center - reach) / (2 * (few + z**2)), rel=0.02)
    assert (check.outcome is Outcome.FAIL) == fails
    assert check.figures["test"] == check.figures["validation"] == 1
