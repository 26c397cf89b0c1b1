"""What finished pieces of an ablation found: a line for each, and a table of the main arms."""

from dataclasses import dataclass

import polars as pl

from pipeline.ablation.cache import Store, Work
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.counterfactual import Fate
from pipeline.ablation.decomposition import ROWS, read_table
from pipeline.ablation.grid import arms
from pipeline.evaluation.evaluate import EvaluateConfig
from pipeline.evaluation.summary import epsilon_text
from pipeline.runs.files import parse_json, read_json

AGAIN = "delete it, and the same foreguard ablate command makes it again"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a stage reaches on a split, 0 to 1: a segmenter an IoU, a classifier an accuracy."""

    iou: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        if (self.iou is None) == (self.accuracy is None):
            raise ValueError("expected iou, or accuracy")

    @property
    def text(self) -> str:
        """``accuracy 0.812``"""
        return f"accuracy {self.accuracy:.3f}" if self.iou is None else f"iou {self.iou:.3f}"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What is read of a training's ``result.json``."""

    val: Scores
    test: Scores | None = None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Figure:
    value: float
    n: int
    groups: int = 0

    @property
    def percent(self) -> str:
        return f"{100 * self.value:.1f} %"


@dataclass(frozen=True, kw_only=True)
class _Point:
    epsilon: float
    robust_accuracy: _Figure


@dataclass(frozen=True, kw_only=True)
class _Summary:
    """What is read of an evaluation's ``summary.json``."""

    clean_accuracy: _Figure
    clean_mask_iou: _Figure
    curve: tuple[_Point, ...]


def line_of(work: Work) -> str:
    """The finding of a finished piece in one line. Raises RunError where its result cannot be read."""
    if work.command is None:
        return _lost(read_table(work.path / ROWS, remedy=AGAIN))
    if isinstance(work.command, EvaluateConfig):
        summary = _read_summary(work)
        robust = [f"{point.robust_accuracy.percent} at {epsilon_text(point.epsilon)}" for point in summary.curve]
        return f"clean {summary.clean_accuracy.percent}, robust {', '.join(robust)}"
    result = read_result(work)
    tested = f", test {result.test.text}" if result.test else ""
    return f"val {result.val.text}{tested}, {result.seconds:.0f} s"


def read_result(work: Work) -> TrainingResult:
    """What a finished training reached. Raises RunError where that cannot be read."""
    path = work.path / "result.json"
    return parse_json(path, read_json(path), TrainingResult, remedy=AGAIN)


def table(config: AblateConfig, store: Store) -> list[str]:
    """Robust accuracy of the main arms by epsilon, with n. Intervals are in the report."""
    rows = [["classifier", "segmenter", "masks in training", "in testing", "seed", "clean", "mask IoU"]]
    rows[0] += [epsilon_text(epsilon) for epsilon in config.attack.threat.epsilons]
    counted = "no images"
    for arm in arms(config):
        work = store.look(arm)
        if arm.role != "main" or work is None or not work.finished:
            continue
        summary = _read_summary(work)
        n, groups = summary.clean_accuracy.n, summary.clean_accuracy.groups
        counted = f"n={n} images an arm" + (f" in {groups} photographs or tracks" if 0 < groups < n else "")
        segmenter = arm.segmenter or arm.classifier.segmenter
        row = [arm.classifier.objective, segmenter.objective if segmenter else "-"]
        row += [arm.classifier.masks.source.value, arm.masks.source.value, str(arm.seed)]
        row += [summary.clean_accuracy.percent, f"{summary.clean_mask_iou.value:.2f}"]
        rows.append(row + [point.robust_accuracy.percent for point in summary.curve])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    norm = config.attack.threat.norm
    title = f"robust accuracy by {norm} epsilon, worst case of all attacks; {counted}; intervals are in the report"
    return [title, *lines]


def _lost(rows: pl.DataFrame) -> str:
    epsilon = float(rows["epsilon"].to_numpy().max())
    last = rows.filter(pl.col("epsilon") == epsilon)
    lost = last.filter(pl.col("fate").str.starts_with("lost-"))
    counts = [
        f"{(lost['fate'] == fate).sum()} {fate.value.removeprefix('lost-')}" for fate in Fate if fate.value.startswith("lost-")
    ]
    text = f"of {len(last)} images {len(lost)} lost at {epsilon_text(epsilon)} ({', '.join(counts)})"
    return f"{text}, {(last['fate'] == Fate.GAINED).sum()} gained"


def _read_summary(work: Work) -> _Summary:
    path = work.path / "summary.json"
    return parse_json(path, read_json(path), _Summary, remedy=AGAIN)
