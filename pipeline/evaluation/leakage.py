"""Test images that a system was trained on: it is right on them far more often than on the validation images of the same set."""

import math

import numpy as np
import polars as pl
import torch

from pipeline.attacks.diagnostics.check import Check, judged, skipped
from pipeline.attacks.tracker import verdict
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.evaluator import EvaluationRun
from pipeline.evaluation.own import OwnImages
from pipeline.evaluation.statistics import Estimate, share

VALIDATION = "test against validation"
"""Name of the check."""
_LOOKED_AT = 256
"""Validation images at most."""
_CONFIDENCE, _MOST = 0.999, 0.05
"""A share; 49 systems that were trained without the test images of signs or objects were right on -0.08 to +0.08 more of them."""


def against_validation(run: EvaluationRun | OwnImages, records: pl.DataFrame, device: torch.device) -> Check:
    """Clean accuracy on the test images, which the records know, against that on images of the validation split.

    It fails where the difference is surely above 5 points: Newcombe's hybrid score interval for independent shares (1998,
    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I) at 99.9 %, for independent groups.
    """
    if isinstance(run, OwnImages):
        return skipped(VALIDATION, "the images come without validation images to compare them with")
    splits = run.dataset.samples["split"]
    if not (splits == "val").any():
        return skipped(VALIDATION, "the data set has no validation images")
    if set(splits.gather(run.rows)) != {"test"}:
        return skipped(VALIDATION, "other images than test images were attacked")
    images = records.unique("sample_id", maintain_order=True)
    tested = _share((images["clean_prediction"] == images["label"]).to_numpy(), images["group"].to_numpy())
    rows = choose_rows(run.dataset, "val", _LOOKED_AT)
    right = []
    for begin in range(0, len(rows), run.batch_size):
        batch = run.batch(rows[begin : begin + run.batch_size], device)
        right.append(~verdict(batch.system, batch.images, batch.labels, batch.context).misclassified.cpu().numpy())
    validated = _share(np.concatenate(right), run.dataset.samples["group"].gather(rows).to_numpy())
    least = tested.value - validated.value - math.hypot(tested.value - tested.low, validated.high - validated.value)
    finding = f"right on {tested.value:.1%} of {tested.n} test and {validated.value:.1%} of {validated.n} validation images"
    finding += f": at least {100 * least:.1f} points more (99.9 % interval)" if least > 0 else ""
    advice = "what was seen in training says nothing of new images: were these, or others of their groups? If not, say what makes"
    advice += " the validation images harder"
    figures = {"test": tested.value, "validation": validated.value, "least": least}
    return judged(VALIDATION, least > _MOST, finding, advice, figures)


def _share(right: np.ndarray, groups: np.ndarray) -> Estimate:
    return share(right, groups, confidence=_CONFIDENCE)
