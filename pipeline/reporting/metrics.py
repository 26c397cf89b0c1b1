"""The metrics of a report. One entry here is all that a metric needs: figures with intervals, a table with its CSV and LaTeX,
curves and a section of the page are made from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import polars as pl

from pipeline.evaluation.metrics import robust_images, strongest
from pipeline.reporting.data import Condition


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of a system at every epsilon: one value an image, averaged over images."""

    name: str
    """Of its section and files, with hyphens."""
    measure: str
    """In the column of this name of the CSV files."""
    title: str
    intro: str
    """How to read its curves."""
    caption: str
    """Of its table."""
    table: str
    """Name of its table, which is that of its files."""
    unit: str
    """Below each heading of its columns: ``robust %``."""
    clean_unit: str
    """The same without attack: ``%``."""
    axis: str
    """Of its curves."""
    spoken: str
    """In descriptions for who does not see the curves: ``robust accuracy``."""
    values: Callable[[pl.DataFrame, float], pl.DataFrame]
    """Records of an evaluation and an epsilon (0: not attacked) to ``sample_id``, ``group`` and ``value``, one row an image. Truth
    values make a share with Wilson's interval, numbers a mean with a bootstrap interval."""
    draws: tuple[str, str]
    """What the random draws of its intervals are named after, clean and attacked. Another name means other draws."""
    scale: float = 100
    """What a figure is multiplied with for people: 100 for percent."""
    digits: int = 1
    suffix: str = ""
    """Behind a figure in running text."""
    limits: tuple[float, float] | None = (0, 100)
    """Of the axis, after scaling; None: as the figures need."""
    applies: Callable[[Condition], bool] = lambda _: True
    """Systems that it says something about under attack."""
    missing: str = ""
    """What to say where it applies to no system of a run."""


def of_worst_image(records: pl.DataFrame, epsilon: float, what: str) -> pl.DataFrame:
    """``adversarial_WHAT`` of each image's adversarial image with the largest margin at an epsilon; at 0 ``clean_WHAT``."""
    records = records.filter(pl.col("epsilon") == epsilon) if epsilon else records
    return strongest(records, "sample_id").select("sample_id", "group", value=f"{'adversarial' if epsilon else 'clean'}_{what}")


def _right(records: pl.DataFrame, epsilon: float) -> pl.DataFrame:
    if epsilon:
        return robust_images(records, epsilon).rename({"robust": "value"})
    right = pl.col("clean_prediction") == pl.col("label")
    return records.unique("sample_id").select("sample_id", "group", value=right)


ACCURACY = Metric(
    name="robustness",
    measure="accuracy",
    title="Accuracy as the attack grows stronger",
    intro="From left to right the attacker may change more. The leftmost point is the accuracy without attack. A line that "
    "stays high is a system that is hard to fool. Bars are 95 % intervals; lines are shifted sideways a little.",
    caption="Accuracy in percent with 95 % interval.",
    table="headline",
    unit="robust %",
    clean_unit="%",
    axis="right under attack (%)",
    spoken="robust accuracy",
    values=_right,
    draws=("clean", "robust"),
    suffix=" %",
)

MASK_IOU = Metric(
    name="mask-iou",
    measure="mask_iou",
    title="What the attack does to the mask",
    intro="How well predicted masks match the oracle, without attack and on the image that came nearest to fooling the system. "
    "An attack stops at the first success, so it moves a mask no further than it needs to.",
    caption="Overlap of the predicted mask with the oracle (mean IoU over images, 1 is perfect), with 95 % interval.",
    table="mask-iou",
    unit="mean IoU",
    clean_unit="mean IoU",
    axis="mask IoU with the oracle",
    spoken="mean mask IoU",
    values=partial(of_worst_image, what="mask_iou"),
    draws=("clean iou", "iou"),
    scale=1,
    digits=3,
    limits=(0, 1),
    applies=lambda condition: condition.uses_segmenter,
    missing="No arm was tested with predicted masks; add one with test: learned to the experiment's masks.",
)

MASK_AREA = Metric(
    name="mask-area",
    measure="mask_area",
    title="How much of the image the mask lets through",
    intro="A mask that grows under attack lets the background back in (flooding); one that shrinks hides the object (collapse). "
    "Area and overlap together say which of the two an attack does.",
    caption="Mean of the predicted mask over the image (percent of its area), with 95 % interval.",
    table="mask-area",
    unit="% of the image",
    clean_unit="% of the image",
    axis="mask area (% of the image)",
    spoken="mean mask area",
    values=partial(of_worst_image, what="mask_mean"),
    draws=("clean area", "area"),
    suffix=" %",
    applies=lambda condition: condition.uses_segmenter,
    missing="No arm was tested with predicted masks; add one with test: learned to the experiment's masks.",
)

METRICS = (ACCURACY, MASK_IOU, MASK_AREA)
"""Those of a page, in its order."""
