"""What finished pieces of an ablation found: a line for each, and a table of the main arms."""

from typing import Any

import polars as pl

from pipeline.evaluation.commands import EvaluateConfig
from pipeline.evaluation.counterfactual import Fate
from pipeline.evaluation.decomposition import ROWS
from pipeline.evaluation.experiment import AblateConfig
from pipeline.evaluation.grid import arms
from pipeline.evaluation.summary import epsilon_text
from pipeline.evaluation.work import Store, Work
from pipeline.training.run import read_json


def line_of(work: Work) -> str:
    """The finding of a finished piece in one line. Raises RunError where its result cannot be read."""
    if work.command is None:
        return _lost(pl.read_parquet(work.path / ROWS, glob=False))
    if isinstance(work.command, EvaluateConfig):
        summary = read_json(work.path / "summary.json")
        robust = [f"{_percent(point['robust_accuracy'])} at {epsilon_text(point['epsilon'])}" for point in summary["curve"]]
        return f"clean {_percent(summary['clean_accuracy'])}, robust {', '.join(robust)}"
    result = read_json(work.path / "result.json")
    score = "iou" if "iou" in result["val"] else "accuracy"
    measured = ", ".join(f"{split} {score} {result[split][score]:.3f}" for split in ("val", "test") if split in result)
    return f"{measured}, {result['seconds']:.0f} s"


def table(config: AblateConfig, store: Store) -> list[str]:
    """Robust accuracy of the main arms by epsilon, with n and the interval at the largest one."""
    rows = [["classifier", "segmenter", "masks in training", "in testing", "seed", "clean", "mask IoU"]]
    rows[0] += [epsilon_text(epsilon) for epsilon in config.attack.threat.epsilons]
    counted = "no images"
    for arm in arms(config):
        work = store.look(arm)
        if arm.role != "main" or work is None or not work.finished:
            continue
        summary = read_json(work.path / "summary.json")
        n, groups = int(summary["clean_accuracy"]["n"]), int(summary["clean_accuracy"].get("groups", 0))
        counted = f"n={n} images an arm" + (f" in {groups} photographs or tracks" if 0 < groups < n else "")
        segmenter = arm.segmenter or arm.classifier.segmenter
        row = [arm.classifier.objective, segmenter.objective if segmenter else "-"]
        row += [arm.classifier.masks.source.value, arm.masks.source.value, str(arm.seed)]
        row += [_percent(summary["clean_accuracy"]), f"{summary['clean_mask_iou']['value']:.2f}"]
        rows.append(row + [_percent(point["robust_accuracy"]) for point in summary["curve"]])
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


def _percent(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['value']:.1f} %"
