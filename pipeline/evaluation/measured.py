"""Figures from observations: distances, corruptions, backgrounds, certificates. The unit is the image, of every figure.

No model and no GPU. Images of one group are not independent, and every interval is one for independent groups.
"""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import polars as pl

from pipeline.attacks.measurement import Claim
from pipeline.attacks.measurements import Backdrop, Backgrounds, Corruptions, Distances, MeasurementSpec, Patches, Smoothing
from pipeline.attacks.threat import Region
from pipeline.evaluation.metrics import share_of
from pipeline.evaluation.statistics import Estimate, mean_estimate, paired_difference, share
from pipeline.evaluation.summary import Summary
from pipeline.runs.files import JsonFile

MEASURED = "measurements.json"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of one measurement."""

    measurement: str
    """Its name in the configuration."""
    kind: str
    """What is measured."""
    threat: str
    """The norm, or what happens to the images."""
    label: str
    """What it is a figure of."""
    claim: Claim
    """Whether it is an accuracy, an upper estimate or a lower bound."""
    unit: str
    """share, difference (of shares), distance or iou."""
    estimate: Estimate

    def text(self) -> str:
        """For people, with interval and n."""
        if self.unit in ("share", "difference"):
            return self.estimate.percent() if self.unit == "share" else self.estimate.points()
        return f"{self.estimate.number('.4g', 1)} {self.estimate.interval('.4g', 1)} n={self.estimate.n}"


_Said = tuple[str, Estimate, Claim, str]
"""Of a figure its label, the estimate, its claim and unit."""


@dataclass(frozen=True, kw_only=True)
class MeasurementReport(JsonFile):
    """``measurements.json``: the figures of what was measured beside the attacks."""

    REMEDY: ClassVar[str] = Summary.REMEDY

    figures: tuple[Figure, ...]


def figures(observations: pl.DataFrame, measurements: Mapping[str, MeasurementSpec]) -> list[Figure]:
    """The figures of finished observations, in the order of the suite. The same observations give the same figures."""
    rng = np.random.default_rng(0)
    found = []
    for name, spec in measurements.items():
        own = observations.filter((pl.col("measurement") == name) & pl.col("counted")).sort("sample_id", maintain_order=True)
        match spec:
            case Distances():
                said = _of_distances(own, spec)
            case Patches():
                said = _of_patches(own)
            case Corruptions():
                said = _of_corruptions(own, rng)
            case Backgrounds():
                said = _of_backgrounds(own, rng)
            case Smoothing():
                said = _of_certificates(own)
        about = {"measurement": name, "kind": spec.kind, "threat": spec.threat}
        found += [Figure(**about, label=label, estimate=one, claim=claim, unit=unit) for label, one, claim, unit in said]
    return found


def robust_beyond(observations: pl.DataFrame, epsilon: float) -> Estimate:
    """Share of images of one measurement of distances whose nearest misclassified point is farther away than ``epsilon``.

    An upper estimate of robust accuracy at that epsilon. Over epsilon it never rises.
    """
    return share_of(observations, pl.col("value") > epsilon)


def median_distance(observations: pl.DataFrame) -> Estimate:
    """The median over images of the distance of the nearest misclassified point; infinite where most of them were never fooled.

    The interval holds every distance that half of the images may be robust to: those whose share of farther images has a half in
    its Wilson interval (an inverted test, as in Brookmeyer and Crowley 1982, https://doi.org/10.2307/2530286). So infinite
    distances are no trouble, and an end may itself be infinite.
    """
    distances = np.sort(observations["value"].to_numpy())
    steps = np.unique([0.0, *distances[np.isfinite(distances)]]).tolist()  # what share is farther changes here alone
    first = bisect.bisect_left(steps, True, key=lambda step: robust_beyond(observations, step).low <= 0.5)
    behind = bisect.bisect_left(steps, True, key=lambda step: robust_beyond(observations, step).high < 0.5)
    return Estimate(
        value=float(distances[(len(distances) - 1) // 2]),
        low=steps[first] if first < len(steps) else math.inf,
        high=steps[behind] if behind < len(steps) else math.inf,
        n=len(distances),
        groups=observations["group"].n_unique(),
    )


def background_gap(observations: pl.DataFrame) -> Estimate | None:
    """Accuracy in front of backgrounds of the own class minus accuracy in front of other classes', on the images that have both.

    None where no image has both.
    """
    counted = observations.filter("counted").select("condition", "sample_id", "group", "correct")
    backdrops = (Backdrop.SAME_CLASS, Backdrop.OTHER_CLASS)
    same, other = (counted.filter(pl.col("condition") == backdrop.value) for backdrop in backdrops)
    both = same.join(other, on="sample_id", suffix="_other").sort("sample_id")
    if both.is_empty():
        return None
    return paired_difference(both["correct"].to_numpy(), both["correct_other"].to_numpy(), both["group"].to_numpy())


def mean_corruption_error(observations: pl.DataFrame, baseline: pl.DataFrame) -> float:
    """Mean over corruptions of the errors at all severities over the baseline's: 1 is as good as the baseline, less is better.

    Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, with another system (the arm without masks) in the place of
    their AlexNet. Raises ValueError where the two were not observed on the same images under the same conditions, or the baseline
    makes no error under a corruption.
    """
    key = ["sample_id", "condition", "level"]
    corrupted = pl.col("level") > 0
    own, other = (table.filter(corrupted).sort(key) for table in (observations, baseline))
    if not own.select(key).equals(other.select(key)):
        raise ValueError("the two systems were not observed on the same images under the same corruptions")
    errors = own.select("condition", own=~pl.col("correct"), other=~other["correct"]).group_by("condition").sum()
    if (errors["other"] == 0).any():
        raise ValueError("the baseline makes no error under a corruption: there is nothing to divide by")
    return float((errors["own"] / errors["other"]).mean())  # type: ignore[arg-type]


def certified_accuracy(observations: pl.DataFrame, radius: float) -> Estimate:
    """Share of images whose answer is right and certified beyond ``radius``: of the smoothed system's accuracy a lower bound."""
    return share_of(observations.filter(pl.col("condition") == "certified"), pl.col("correct") & (pl.col("value") > radius))


def patched_accuracy(observations: pl.DataFrame, region: str, size: float) -> Estimate:
    """Of the images that have room in the region for a patch of that share of the image, those robust to every patch up to it."""
    here = observations.filter((pl.col("condition") == region) & (pl.col("level") <= size) & pl.col("counted"))
    room = here.filter(pl.col("level") == size).select("sample_id")
    worst = here.join(room, on="sample_id", how="semi").group_by("sample_id").agg(pl.col("group").first(), pl.col("correct").all())
    return share_of(worst, pl.col("correct"))


def attacked_accuracy(observations: pl.DataFrame, radius: float) -> Estimate:
    """Share of images that the attack on the smoothed system left standing at every radius up to this: an upper estimate."""
    attacked = observations.filter((pl.col("condition") == "attacked") & (pl.col("level") <= radius))
    worst = attacked.group_by("sample_id").agg(pl.col("group").first(), pl.col("correct").all()).sort("sample_id")
    return share_of(worst, pl.col("correct"))


def _of_distances(own: pl.DataFrame, spec: Distances) -> Iterator[_Said]:
    where = "" if spec.region == Region.EVERYWHERE else f", attacker on the {spec.region}"
    yield f"median distance{where}", median_distance(own), Claim.UPPER_ESTIMATE, "distance"
    for epsilon in spec.epsilons:
        yield f"robust accuracy at {epsilon:.4g}{where}", robust_beyond(own, epsilon), Claim.UPPER_ESTIMATE, "share"


def _of_patches(own: pl.DataFrame) -> Iterator[_Said]:
    for name, level in own.select("condition", "level").unique(maintain_order=True).rows():
        label = f"{_PLACES[name]}, {100 * level:.3g} % of the image"
        yield label, patched_accuracy(own, name, level), Claim.UPPER_ESTIMATE, "share"


def _of_corruptions(own: pl.DataFrame, rng: np.random.Generator) -> Iterator[_Said]:
    corrupted = own.filter(pl.col("level") > 0)
    tables = {"clean": own.filter(pl.col("level") == 0), "all corruptions": corrupted}
    return _answers_and_masks(tables | _by_condition(corrupted), rng)


def _of_backgrounds(own: pl.DataFrame, rng: np.random.Generator) -> Iterator[_Said]:
    yield from _answers_and_masks(_by_condition(own), rng)
    if (gap := background_gap(own)) is not None:
        yield "BG-gap", gap, Claim.ACCURACY, "difference"


def _by_condition(own: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {name: own.filter(pl.col("condition") == name) for name in own["condition"].unique(maintain_order=True)}


def _answers_and_masks(tables: Mapping[str, pl.DataFrame], rng: np.random.Generator) -> Iterator[_Said]:
    for label, table in tables.items():
        yield f"{label}: accuracy", _accuracy(table), Claim.ACCURACY, "share"
        yield f"{label}: mask IoU", _mean(table, "mask_iou", rng), Claim.ACCURACY, "iou"


def _of_certificates(own: pl.DataFrame) -> Iterator[_Said]:
    radii = own.filter(pl.col("condition") == "attacked")["level"].unique().sort().to_list()
    for radius in [0.0, *radii]:
        yield f"certified accuracy at {radius:.4g}", certified_accuracy(own, radius), Claim.LOWER_BOUND, "share"
    for radius in radii:
        yield f"accuracy under attack at {radius:.4g}", attacked_accuracy(own, radius), Claim.UPPER_ESTIMATE, "share"


def _accuracy(table: pl.DataFrame) -> Estimate:
    """The share of right answers over images and conditions, of which every image has as many; those of an image are a group."""
    answers = table.sort("sample_id")
    return replace(share(answers["correct"].to_numpy(), answers["group"].to_numpy()), n=answers["sample_id"].n_unique())


def _mean(table: pl.DataFrame, column: str, rng: np.random.Generator) -> Estimate:
    """The mean over images of each image's mean over the conditions of the table."""
    images = table.group_by("sample_id").agg(pl.col("group").first(), pl.col(column).mean()).sort("sample_id")
    return mean_estimate(images[column].to_numpy(), images["group"].to_numpy(), rng)


def measured_lines(found: Sequence[Figure]) -> list[str]:
    """The figures for people, each measurement with what its figures claim."""
    width = max((len(figure.label) for figure in found), default=0) + 4
    text = []
    for name in dict.fromkeys(figure.measurement for figure in found):
        own = [figure for figure in found if figure.measurement == name]
        text.append(f"{name} ({own[0].threat})")
        text += [f"{'  ' + figure.label:<{width}}{figure.text()}   {_MEANING[figure.claim]}".rstrip() for figure in own]
    return text


_PLACES = {
    "everywhere": "patch anywhere",
    "foreground": "patch on the object",
    "background": "patch beside the object",
    "boundary": "patch on the outline",
    "outside-box": "patch outside the box",
}
_MEANING = {
    Claim.ACCURACY: "",
    Claim.UPPER_ESTIMATE: "(a better attack can only lower it)",
    Claim.LOWER_BOUND: "(no attack on the smoothed system gets below it)",
}
