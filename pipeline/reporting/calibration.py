"""How far the confidence of a system can be relied on, without attack and under it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.evaluation.calibration import BINS, Bin, error_by_chance, expected_calibration_error, reliability
from pipeline.evaluation.metrics import on_shared_images
from pipeline.evaluation.statistics import Estimate
from pipeline.reporting import plots, wording
from pipeline.reporting.comparisons import generator
from pipeline.reporting.data import Arm, Condition, Study
from pipeline.reporting.figures import Figures, mean
from pipeline.reporting.metrics import of_worst_image
from pipeline.reporting.panel import Panel
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Row, Table, make_table, numbers, points_cell, share_cell
from pipeline.reporting.tables import MASK_COLUMNS

FEWEST = 5
"""Images that a bin has to hold to be drawn."""
_INTRO = (
    "The confidence of a system is the softmax of the class that it names. It can be relied on if of all images classified with "
    "80 % confidence 80 % are right. Under attack it is that on the image that came nearest to fooling the system, or fooled "
    "it: attacks stop at the first success and nobody asked them for confident mistakes, so an attacker who wants these can make "
    "the figures worse."
)
_CAPTION = (
    "Expected calibration error (ECE): the distance between mean confidence and share right, averaged over the images of "
    f"{BINS} bins of equal width, in percentage points, the mean over trainings. By chance: what a system whose confidence is "
    "exact stays below in 95 of 100 samples of so many independent images; only an ECE above it is evidence against a system. "
    "Too sure: mean confidence minus share right, with 95 % interval."
)


@dataclass(frozen=True, kw_only=True)
class _Calibration:
    """Of one system at one epsilon, 0 for clean images."""

    error: float
    by_chance: float
    too_sure: Estimate
    bins: list[Bin]
    """Images of all trainings together."""


def calibration_section(study: Study, found: Figures) -> Section:
    """ECE of every main system with its bins, and a reliability diagram of those that the answers compare."""
    calibrated = {
        condition: {epsilon: _calibration(arms, epsilon) for epsilon in study.clean_and_primary}
        for condition, arms in study.by_condition("main").items()
    }
    return Section(
        name="calibration",
        title="Can its confidence be relied on?",
        intro=_INTRO,
        panels=tuple(_panels(study, found, calibrated)),
        tables=(_errors(study, calibrated),),
        folded=(_bins(calibrated),),
    )


def _calibration(arms: list[Arm], epsilon: float) -> _Calibration:
    tables = [(of_worst_image(arm.records, epsilon, "confidence"), _right(arm, epsilon)) for arm in arms]
    confidences, groups = on_shared_images([one for one, _ in tables])
    right = on_shared_images([one for _, one in tables])[0].astype(bool)
    key = f"calibration {arms[0].condition.draws} {epsilon}"
    return _Calibration(
        error=float(np.mean([expected_calibration_error(*of_seed) for of_seed in zip(confidences, right, strict=True)])),
        by_chance=error_by_chance(list(confidences), generator(f"chance {key}")),
        too_sure=mean(confidences - right, groups, key),
        bins=reliability(confidences.ravel(), right.ravel(), np.tile(groups, len(arms))),
    )


def _right(arm: Arm, epsilon: float) -> pl.DataFrame:
    """Of the same image as its confidence."""
    right = {f"{kind}_right": pl.col("label") == pl.col(f"{kind}_prediction") for kind in ("clean", "adversarial")}
    return of_worst_image(arm.records.with_columns(**right), epsilon, "right")


def _panels(study: Study, found: Figures, calibrated: dict[Condition, dict[float, _Calibration]]) -> Iterator[Panel]:
    """One for each classifier objective, clean and attacked."""
    compared = {side for answer in found.answers for one in answer.comparisons for side in (one.first, one.second)}
    drawn = [condition for condition in calibrated if condition in compared] or list(calibrated)
    for heading in dict.fromkeys(map(wording.heading, drawn)):
        of_heading = [one for one in drawn if wording.heading(one) == heading]
        for epsilon in study.clean_and_primary:
            bins = [[one for one in calibrated[condition][epsilon].bins if one.right.n >= FEWEST] for condition in of_heading]
            yield plots.reliability(
                f"calibration-{wording.slug(of_heading[0].classifier_objective)}-{'attacked' if epsilon else 'clean'}",
                f"{heading}, {wording.epsilon_or_clean(epsilon)}",
                [(condition, some) for condition, some in zip(of_heading, bins, strict=True) if some],
            )


def _errors(study: Study, calibrated: dict[Condition, dict[float, _Calibration]]) -> Table:
    rows, tidy = [], list[dict[str, object]]()
    for condition, by_epsilon in calibrated.items():
        cells = [Cell(condition.tested), Cell(condition.trained)]
        for epsilon, one in by_epsilon.items():
            cells += [Cell(f"{100 * one.error:.1f}"), Cell(f"{100 * one.by_chance:.1f}"), points_cell(one.too_sure)]
            found = {"epsilon": epsilon, "ece": one.error, "ece_by_chance": one.by_chance, "too_sure": one.too_sure.value}
            sample = {"images": one.too_sure.n, "groups": one.too_sure.groups, "bins": BINS}
            tidy.append({**condition.columns, **found, "low": one.too_sure.low, "high": one.too_sure.high, **sample})
        rows.append((wording.heading(condition), tuple(cells)))
    columns = [
        numbers(label, wording.epsilon_or_clean(epsilon))
        for epsilon in study.clean_and_primary
        for label in ("ECE", "By chance", "Too sure")
    ]
    return make_table(
        "calibration",
        title="Calibration",
        caption=f"{_CAPTION} {wording.pooling_text(study, of_shares=False)}",
        columns=(*MASK_COLUMNS, *columns),
        rows=rows,
        tidy=tidy,
    )


def _bins(calibrated: dict[Condition, dict[float, _Calibration]]) -> Table:
    rows: list[tuple[str, Row]] = []
    tidy: list[dict[str, object]] = []
    for condition, by_epsilon in calibrated.items():
        for epsilon, one in by_epsilon.items():
            heading = f"{wording.system_text(condition)}, {wording.epsilon_or_clean(epsilon)}"
            for each in one.bins:
                span, confidence = Cell(f"{100 * each.low:.1f} to {100 * each.high:.1f}"), Cell(f"{100 * each.confidence:.1f}")
                rows.append((heading, (span, Cell(str(each.right.n)), confidence, share_cell(each.right))))
                figures = {"right": each.right.value, "right_low": each.right.low, "right_high": each.right.high}
                ends = {"above": each.low, "up_to": each.high, "n": each.right.n, "confidence": each.confidence}
                tidy.append({**condition.columns, "epsilon": epsilon, **ends, **figures})
    return make_table(
        "calibration-bins",
        title="Every bin of the reliability diagrams",
        caption="Confidence and share right in percent with 95 % interval, images of all trainings together; bins without an image "
        f"are left out here, and in the diagrams those with fewer than {FEWEST}.",
        columns=(Column("Confidence"), numbers("n", "images x seeds"), numbers("Mean confidence", "%"), numbers("Right", "%")),
        rows=rows,
        tidy=tidy,
    )
