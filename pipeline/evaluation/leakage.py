"""Test images that a system was trained on: it is right on them far more often, or far surer, than on the validation images of the
same set."""

import math

import numpy as np
import polars as pl
import torch

from pipeline.attacks.diagnostics.check import Check, judged, skipped
from pipeline.attacks.tracker import verdict
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.evaluator import EvaluationRun
from pipeline.evaluation.own import OwnImages
from pipeline.evaluation.statistics import Estimate, score_interval, share

VALIDATION = "test against validation"
"""Name of the check."""
_LOOKED_AT = 256
"""Validation images at most."""
_CONFIDENCE, _MOST = 0.999, 0.05
"""A share; 49 systems that were trained without the test images of signs or objects were right on -0.08 to +0.08 more of them."""
_SURER = 2 / 3
"""Share of the pairs of a test and a validation image, both right, in which the system is surer of the test image: 0.42 to 0.62 for
seven systems of the zoo."""


def against_validation(run: EvaluationRun | OwnImages, records: pl.DataFrame, device: torch.device) -> Check:
    """Clean accuracy and margins on the test images, which the records know, against those on images of the validation split.

    It fails where the difference of accuracy is surely above 5 points: Newcombe's hybrid score interval for independent shares
    (1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I) at 99.9 %, for independent groups. And
    where in surely more than two thirds of the pairs of a test and a validation image, both right, the test image has the larger
    margin: what raises margins alone makes nothing right that was wrong, and keeps an attack out.
    """
    if isinstance(run, OwnImages):
        return skipped(VALIDATION, "the images come without validation images to compare them with")
    splits = run.dataset.samples["split"]
    if not (splits == "val").any():
        return skipped(VALIDATION, "the data set has no validation images")
    if set(splits.gather(run.rows)) != {"test"}:
        return skipped(VALIDATION, "other images than test images were attacked")
    images = records.unique("sample_id", maintain_order=True)
    of_test = (
        images["group"].to_numpy(),
        (images["clean_prediction"] == images["label"]).to_numpy(),
        images["clean_margin"].to_numpy(),
    )
    rows = choose_rows(run.dataset, "val", _LOOKED_AT)
    right, margins = [], []
    for begin in range(0, len(rows), run.batch_size):
        batch = run.batch(rows[begin : begin + run.batch_size], device)
        found = verdict(batch.system, batch.images, batch.labels, batch.context)
        right.append(~found.misclassified.cpu().numpy())
        margins.append(found.margins.double().cpu().numpy())
    of_validation = run.dataset.samples["group"].gather(rows).to_numpy(), np.concatenate(right), np.concatenate(margins)
    tested, validated = (_share(correct, groups) for groups, correct, _ in (of_test, of_validation))
    least = tested.value - validated.value - math.hypot(tested.value - tested.low, validated.high - validated.value)
    finding = f"right on {tested.value:.1%} of {tested.n} test and {validated.value:.1%} of {validated.n} validation images"
    finding += f": at least {100 * least:.1f} points more (99.9 % interval)" if least > 0 else ""
    surer, least_surer = _surer(*((groups[correct], -margin[correct]) for groups, correct, margin in (of_test, of_validation)))
    finding += f"; surer of the test image in {surer:.1%} of the pairs (at least {least_surer:.1%})"
    advice = "what was seen in training says nothing of new images: were these, or others of their groups? If not, say what makes"
    advice += " the validation images harder"
    figures = {"test": tested.value, "validation": validated.value, "least": least, "surer": surer, "least_surer": least_surer}
    return judged(VALIDATION, least > _MOST or least_surer > _SURER, finding, advice, figures)


def _surer(test: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Of groups and margins of both: in which share of the pairs the test image has the larger margin, ties by half, and the least
    that is (99.9 %). The variance of such a share is at most that of a share of the smaller number of images (Birnbaum and Klose
    1957, Annals of Mathematical Statistics 28), here of groups of copies; so an honest system fails more rarely than it says."""
    if not len(test[1]) or not len(validation[1]):
        return 0.5, 0.0
    below, above = (np.searchsorted(np.sort(validation[1]), test[1], side) for side in ("left", "right"))
    surer = float((below + above).mean() / 2 / len(validation[1]))
    sizes = (np.unique(groups, return_counts=True)[1] for groups, _ in (test, validation))
    fewest = min(float(size.sum() ** 2 / (size**2).sum()) for size in sizes)
    return surer, score_interval(surer, fewest, confidence=_CONFIDENCE)[0]


def _share(right: np.ndarray, groups: np.ndarray) -> Estimate:
    return share(right, groups, confidence=_CONFIDENCE)
