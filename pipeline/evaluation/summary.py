"""What an evaluation found, in a few figures: ``summary.json`` and ``sanity.json``, and the same for the terminal."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from pipeline.attacks import diagnostics
from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.attacks.threat import Budget, ThreatModel
from pipeline.config import parse_number
from pipeline.errors import RunError
from pipeline.evaluation.constant_predictor import ModalPrediction, modal_prediction
from pipeline.evaluation.metrics import CurvePoint, clean_accuracy, clean_mask_iou, curve, robust_accuracy
from pipeline.evaluation.records import RECORDS, read_records
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

    @staticmethod
    def figures_of(records: pl.DataFrame) -> dict[str, Any]:
        """The figures of finished records, by the fields that hold them. Intervals by bootstrap use a fixed seed, so the same
        records give the same summary."""
        rng = np.random.default_rng(0)
        return {
            "clean_accuracy": clean_accuracy(records),
            "clean_mask_iou": clean_mask_iou(records, rng),
            "modal_prediction": modal_prediction(records),
            "curve": tuple(curve(records, rng)),
        }

    def lines(self) -> list[str]:
        """The summary for people, intervals and n with every figure."""
        grouped = self.clean_accuracy.groups < self.clean_accuracy.n
        independent = "; groups are photographs or tracks, whose images are not independent" if grouped else ""
        labels = ["clean accuracy", "  robust accuracy", *(f"  after {name}" for point in self.curve for name in point.by_attack)]
        width = max(map(len, labels)) + 2
        text = [
            f"{self.data}, {self.split} images; {self._masks()}{independent}",
            f"{'clean accuracy':<{width}}{self.clean_accuracy.percent()}   mask IoU {_iou(self.clean_mask_iou)}",
        ]
        if self.modal_prediction.is_constant:
            text.append(f"BEWARE: {self.modal_prediction.text(self.classes[self.modal_prediction.label])}")
        for point in self.curve:
            where = "" if self.region == "everywhere" else f" on the {self.region}"
            patch = f"square patch of at most {100 * point.epsilon:.3g} % of the image"
            text.append((patch if self.norm == "patch" else f"{self.norm}, epsilon {epsilon_text(point.epsilon)}") + where)
            text += [f"{'  after ' + name:<{width}}{estimate.percent()}" for name, estimate in point.by_attack.items()]
            robust = f"{'  robust accuracy':<{width}}{point.robust_accuracy.percent()}"
            text.append(f"{robust}   mask IoU under attack {_iou(point.mask_iou)}   {point.seconds:.1f} s")
        text += [f"not tried: {name}: {reason}" for name, reason in self.skipped.items()]
        return text

    def _masks(self) -> str:
        masks, trained = self.masks, self.trained_masks
        if masks is None or trained is None:
            return f"{self.own}, masks {self.mask_source}"
        as_trained = "as trained" if masks == trained else f"trained with {trained.source.value}, {trained.fill.value}"
        return f"masks {masks.source.value}, fill {masks.fill.value} ({as_trained})"


def finished_records(run: Path) -> pl.DataFrame:
    """The records of an evaluation that has been summed up. Raises RunError where they are not those of its summary: over fewer
    attacks or images the worst case is a better one."""
    records, summary = read_records(run), Summary.read(run / SUMMARY)
    told = {(point.epsilon, name): summary.clean_accuracy.n for point in summary.curve for name in point.by_attack}
    found = {(epsilon, name): n for epsilon, name, n in records.group_by("epsilon", "attack").len().iter_rows()}
    for epsilon, name in sorted(told.keys() | found.keys()):
        n, of = found.get((epsilon, name), 0), told.get((epsilon, name), 0)
        if n != of:
            where = f"{name} at epsilon {epsilon_text(epsilon)}"
            remedy = f"delete {SUMMARY}, and the same command with resume=true makes what is missing"
            raise RunError(f"{run / RECORDS}: holds {n} images under {where}, and {SUMMARY} is of {of}; {remedy}")
    return records


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
    others = ("diagnostics.py", "against_records.py", "constant_predictor.py", "leakage.py")
    sources = [*sorted(package.glob("*.py")), *(here / name for name in others)]
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
    return f"{estimate.number('.3f', 1)} {estimate.interval('.3f', 1)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What ``pipeline.evaluate`` returns: what attacks found. Printed, it says clean and robust accuracy with their intervals."""

    outcomes: pl.DataFrame
    """One row for every image, attack and epsilon, with the columns of ``evaluation.records.SCHEMA``."""
    threat: ThreatModel
    skipped: Mapping[str, str]
    """Attacks that say nothing about this system, and why."""
    checks: tuple[Check, ...] | None
    """What gives false robustness away; None where it was not asked for."""
    classes: tuple[str, ...] | None = None
    """Their names, of a prepared data set."""

    def clean_accuracy(self) -> Estimate:
        """Share of images that are classified right as they are, with a 95 % Wilson interval."""
        return clean_accuracy(self.outcomes)

    def robust_accuracy(self, epsilon: float | str) -> Estimate:
        """Share of images that no attack turned at this epsilon or below, with a 95 % Wilson interval.

        Raises ValueError for an epsilon that was not attacked.
        """
        number = float(parse_number(epsilon))
        if number not in self.threat.epsilons:
            attacked = ", ".join(epsilon_text(one) for one in self.threat.epsilons)
            raise ValueError(f"epsilon {epsilon_text(number)} was not attacked; these were: {attacked}")
        return robust_accuracy(self.outcomes, number)

    def __str__(self) -> str:
        text = [f"clean accuracy                  {self.clean_accuracy()}"]
        modal = modal_prediction(self.outcomes)
        if modal.is_constant:
            text.append(f"BEWARE: {modal.text(self.classes[modal.label] if self.classes else None)}")
        for epsilon in self.threat.epsilons:
            where = f"robust accuracy, {self.threat.norm} {epsilon_text(epsilon)}{self.threat.limits}"
            text.append(f"{where:<31} {self.robust_accuracy(epsilon)}")
        text += [f"not tried: {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([*text, *(check_lines(self.checks) if self.checks else [])])
