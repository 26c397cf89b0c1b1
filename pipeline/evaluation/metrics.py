"""Robust accuracy from records. No model and no GPU: what was recorded is all that counts.

An image counts as robust at an epsilon only if its clean copy and every attacked copy at that epsilon and at every smaller one is
classified right: the worst case of each image, then the share of images. So a curve over epsilon never rises. Images of one group
(a photograph, a track) are not independent, and every interval is one for independent groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Shaped

from pipeline.evaluation.statistics import Estimate, mean_estimate, share

_MISCLASSIFIED = pl.col("adversarial_prediction") != pl.col("label")


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A system at one epsilon. The unit of every figure is the image."""

    epsilon: float
    robust_accuracy: Estimate
    """Share of images that no attack of the suite makes misclassified."""
    by_attack: dict[str, Estimate]
    """For each attack in the order of the suite, the share of images that stand after it and all before it."""
    mask_iou: Estimate
    """Mean IoU with the oracle of the mask on each image's worst adversarial image (its own where it is wrong clean). An attack
    that stops at the first misclassified point drives the mask no further than it needs."""
    seconds: float
    """Time that the attacks took at this epsilon."""


def clean_accuracy(records: pl.DataFrame) -> Estimate:
    """Share of images whose clean copy is classified right."""
    return share_of(records.unique("sample_id"), pl.col("clean_prediction") == pl.col("label"))


def clean_mask_iou(records: pl.DataFrame, rng: np.random.Generator) -> Estimate:
    """Mean over images of the IoU of the clean image's mask with the oracle."""
    images = records.unique("sample_id").sort("sample_id")
    return mean_estimate(images["clean_mask_iou"].to_numpy(), images["group"].to_numpy(), rng)


def robust_images(records: pl.DataFrame, epsilon: float) -> pl.DataFrame:
    """Which images no attack up to this epsilon makes misclassified: ``sample_id``, ``group`` and ``robust``, sorted by id.

    What two systems are compared by, image by image. Raises ValueError where an image lacks a record of an attack at that
    epsilon: the evaluation is not finished, and what was not attacked must not count as robust.
    """
    wrong = _MISCLASSIFIED | (pl.col("clean_prediction") != pl.col("label"))
    images = (
        records.lazy()  # one query: a report asks this some hundred times
        .group_by("sample_id")
        .agg(
            pl.col("group").first(),
            robust=~wrong.filter(pl.col("epsilon") <= epsilon).any(),
            attacks=pl.col("attack").filter(pl.col("epsilon") == epsilon).n_unique(),
        )
        .sort("sample_id")
        .collect()
    )
    if (images["attacks"] != records["attack"].n_unique()).any():
        raise ValueError(f"at epsilon {epsilon:g} some images lack the record of an attack: the evaluation is not finished")
    return images.drop("attacks")


def on_shared_images(tables: Sequence[pl.DataFrame]) -> tuple[Shaped[np.ndarray, "tables images"], Shaped[np.ndarray, " images"]]:
    """The column ``value`` of the images that all tables have, in the order of their ids, and the group of each image.

    A table has one row an image, with ``sample_id`` and ``group``.
    """
    ids = set.intersection(*(set(table["sample_id"]) for table in tables))
    kept = [table.lazy().filter(pl.col("sample_id").is_in(ids)).sort("sample_id").collect() for table in tables]
    return np.stack([table["value"].to_numpy() for table in kept]), kept[0]["group"].to_numpy()


def strongest(records: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Of the records with the same keys the one with the largest adversarial margin; of equal ones the first."""
    worst = records.lazy().sort("adversarial_margin", descending=True, maintain_order=True)
    return worst.unique(list(keys), keep="first", maintain_order=True).collect()


def robust_accuracy(records: pl.DataFrame, epsilon: float) -> Estimate:
    """Share of images that stand at this epsilon. Raises ValueError as ``robust`` does."""
    return share_of(robust_images(records, epsilon), pl.col("robust"))


def curve(records: pl.DataFrame, rng: np.random.Generator) -> list[CurvePoint]:
    """The system at every epsilon of the records, ascending. Raises ValueError where the evaluation is not finished."""
    return [_point(records, float(epsilon), rng) for epsilon in records["epsilon"].unique().sort()]


def _point(records: pl.DataFrame, epsilon: float, rng: np.random.Generator) -> CurvePoint:
    at = records.filter(pl.col("epsilon") == epsilon)
    names = at["attack"].unique(maintain_order=True).to_list()
    misclassified_below = set(records.filter((pl.col("epsilon") < epsilon) & _MISCLASSIFIED)["sample_id"])
    images, by_attack = at.unique("sample_id"), {}
    for number, name in enumerate(names, start=1):
        so_far = at.filter(pl.col("attack").is_in(names[:number]) & _MISCLASSIFIED)
        misclassified = misclassified_below | set(so_far["sample_id"])
        by_attack[name] = share_of(images, ~pl.col("sample_id").is_in(misclassified))
    worst = strongest(at, "sample_id").sort("sample_id")
    return CurvePoint(
        epsilon=epsilon,
        robust_accuracy=robust_accuracy(records, epsilon),
        by_attack=by_attack,
        mask_iou=mean_estimate(worst["adversarial_mask_iou"].to_numpy(), worst["group"].to_numpy(), rng),
        seconds=float(at["seconds"].sum()),
    )


def share_of(images: pl.DataFrame, claim: pl.Expr) -> Estimate:
    """The share of images that a claim holds of; they have the columns ``sample_id`` and ``group``, one row each."""
    claimed = images.select("sample_id", "group", claim=claim).sort("sample_id")
    return share(claimed["claim"].to_numpy(), claimed["group"].to_numpy())
