"""What an evaluation found, in a few figures: ``summary.json`` and ``sanity.json``, and the same for the terminal."""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from pipeline.attacks import diagnostics
from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.attacks.threat import Budget
from pipeline.errors import RunError
from pipeline.evaluation.constant_predictor import ModalPrediction, modal_prediction
from pipeline.evaluation.evaluator import EvaluationRun
from pipeline.evaluation.metrics import CurvePoint, clean_accuracy, clean_mask_iou, curve
from pipeline.evaluation.statistics import Estimate
from pipeline.masks.config import MaskConfig
from pipeline.runs.files import JsonFile, canonical_sha256, file_sha256
from pipeline.terminal import Style, colored

SUMMARY, SANITY = "summary.json", "sanity.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(JsonFile):
    """``summary.json``: the figures of one evaluation. The unit is the image."""

    REMEDY: ClassVar[str] = "delete it, and the same command with resume=true makes it again"

    system: str
    """Digest of weights and mask settings, as in the records."""
    data: str
    split: str
    own: str | None = None
    """The import path of a system of the user's own; None for one that was trained here."""
    mask_source: str
    """Where its masks come from, in its own words."""
    masks: MaskConfig | None
    trained_masks: MaskConfig | None
    """Both None for a system of the user's own."""
    norm: Budget
    region: str
    clean_accuracy: Estimate
    clean_mask_iou: Estimate
    modal_prediction: ModalPrediction
    classes: tuple[str, ...]
    curve: tuple[CurvePoint, ...]
    skipped: dict[str, str]
    """Attacks of the suite that say nothing about the system, and why."""

    def __post_init__(self) -> None:
        for name in ("masks", "trained_masks"):
            if (getattr(self, name) is None) != (self.own is not None):
                raise ValueError(f"{name}: is null for a system of the user's own, and for no other")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SanityReport(JsonFile):
    """``sanity.json``: the diagnostics of one evaluation."""

    FORMAT: ClassVar[int] = 2
    REMEDY: ClassVar[str] = Summary.REMEDY

    images: int
    """How many were looked at."""
    epsilon: float | None
    """That the checks were to be made at; None: the largest at which an image was robust."""
    version: str
    """Of the checks that were made: ``version_of_checks``."""
    checks: tuple[Check, ...]


@functools.cache
def version_of_checks() -> str:
    """SHA-256 over the source of all sanity checks, which nobody has to remember to raise."""
    package, here = Path(str(diagnostics.__file__)).parent, Path(__file__).parent
    sources = [*sorted(package.glob("*.py")), here / "diagnostics.py", here / "against_records.py"]
    return canonical_sha256([[source.name, file_sha256(source)] for source in sources])


def is_checked(path: Path, *, images: int, epsilon: float | None) -> bool:
    """Whether the checks of today were made of an evaluation, on so many images and at this epsilon.

    A report that is damaged, or of a version that did not say what it had checked, vouches for nothing.
    """
    try:
        report = SanityReport.read(path / SANITY)
    except RunError:
        return False
    return report.images >= images and report.epsilon == epsilon and report.version == version_of_checks()


def summarise(
    records: pl.DataFrame,
    run: EvaluationRun,
    *,
    own: str | None,
    masks: MaskConfig | None,
    trained_masks: MaskConfig | None,
    split: str,
    skipped: dict[str, str],
) -> Summary:
    """The figures of finished records. Intervals by bootstrap use a fixed seed, so the same records give the same summary."""
    rng = np.random.default_rng(0)
    return Summary(
        system=run.system_id,
        data=run.dataset.name,
        split=split,
        own=own,
        mask_source=run.system.mask_traits.source,
        masks=masks,
        trained_masks=trained_masks,
        norm=run.suite.threat.norm,
        region=run.suite.threat.region.value,
        clean_accuracy=clean_accuracy(records),
        clean_mask_iou=clean_mask_iou(records, rng),
        modal_prediction=modal_prediction(records),
        classes=run.dataset.classes,
        curve=tuple(curve(records, rng)),
        skipped=skipped,
    )


def lines(summary: Summary) -> list[str]:
    """The summary for people, intervals and n with every figure."""
    grouped = summary.clean_accuracy.groups < summary.clean_accuracy.n
    independent = "; groups are photographs or tracks, whose images are not independent" if grouped else ""
    labels = ["clean accuracy", "  robust accuracy", *(f"  after {name}" for point in summary.curve for name in point.by_attack)]
    width = max(map(len, labels)) + 2
    text = [
        f"{summary.data}, {summary.split} images; {_masks(summary)}{independent}",
        f"{'clean accuracy':<{width}}{summary.clean_accuracy.percent()}   mask IoU {_iou(summary.clean_mask_iou)}",
    ]
    if summary.modal_prediction.is_constant:
        text.append(f"BEWARE: {summary.modal_prediction.text(summary.classes[summary.modal_prediction.label])}")
    for point in summary.curve:
        where = "" if summary.region == "everywhere" else f" on the {summary.region}"
        patch = f"square patch of at most {100 * point.epsilon:.3g} % of the image"
        text.append((patch if summary.norm == "patch" else f"{summary.norm}, epsilon {epsilon_text(point.epsilon)}") + where)
        text += [f"{'  after ' + name:<{width}}{estimate.percent()}" for name, estimate in point.by_attack.items()]
        robust = f"{'  robust accuracy':<{width}}{point.robust_accuracy.percent()}"
        text.append(f"{robust}   mask IoU under attack {_iou(point.mask_iou)}   {point.seconds:.1f} s")
    text += [f"not tried: {name}: {reason}" for name, reason in summary.skipped.items()]
    return text


def _masks(summary: Summary) -> str:
    masks, trained = summary.masks, summary.trained_masks
    if masks is None or trained is None:
        return f"{summary.own}, masks {summary.mask_source}"
    as_trained = "as trained" if masks == trained else f"trained with {trained.source.value}, {trained.fill.value}"
    return f"masks {masks.source.value}, fill {masks.fill.value} ({as_trained})"


_STYLES: dict[Outcome, Style] = {Outcome.PASS: "good", Outcome.FAIL: "bad", Outcome.SKIP: "note"}


def check_lines(checks: Sequence[Check]) -> list[str]:
    """The sanity report for people: a failed check says what to do."""
    width = max(len(check.name) for check in checks)
    text = ["sanity (a failed check means that robust accuracy may be overestimated)"]
    for check in checks:
        text.append(f"  {colored(check.outcome.value, _STYLES[check.outcome])}  {check.name:<{width}}  {check.finding}")
        if check.outcome == Outcome.FAIL:
            text.append(f"        what to do: {check.advice}")
    return text


def epsilon_text(epsilon: float) -> str:
    """``8/255`` where it is below 1, a multiple of 1/255 or half of one, and not short as it is (0.5), else the number."""
    doubled = Fraction(epsilon * 510).limit_denominator(10**6)
    if doubled.denominator != 1 or epsilon > 1 or float(f"{epsilon:.2g}") == epsilon:
        return f"{epsilon:.4g}"
    return f"{doubled.numerator / 2:g}/255"


def _iou(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
