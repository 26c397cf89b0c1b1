"""What ``pipeline.evaluate`` returns."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from pipeline.attacks.diagnostics import Check
from pipeline.attacks.threat import ThreatModel
from pipeline.config import parse_number
from pipeline.evaluation.metrics import clean_accuracy, robust_accuracy
from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import check_lines, epsilon_text


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the attacks found. Printed, it says clean and robust accuracy with their intervals."""

    outcomes: pl.DataFrame
    """One row for every image, attack and epsilon, with the columns of ``evaluation.records.SCHEMA``."""
    threat: ThreatModel
    skipped: Mapping[str, str]
    """Attacks that say nothing about this system, and why."""
    checks: tuple[Check, ...] | None
    """What gives false robustness away; None where it was not asked for."""

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
        lines = [f"clean accuracy                  {self.clean_accuracy()}"]
        for epsilon in self.threat.epsilons:
            where = f"robust accuracy, {self.threat.norm} {epsilon_text(epsilon)}{self.threat.limits}"
            lines.append(f"{where:<31} {self.robust_accuracy(epsilon)}")
        lines += [f"not tried: {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([*lines, *(check_lines(self.checks) if self.checks else [])])
