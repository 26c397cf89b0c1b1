"""One line of the sanity report, and how it is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor


class Outcome(StrEnum):
    """Of a check."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"
    """It says nothing about this system."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the sanity report."""

    name: str
    outcome: Outcome
    finding: str
    """What was seen, with its figures; for SKIP the reason."""
    advice: str = ""
    """What to do where it failed."""
    figures: dict[str, float] = field(default_factory=dict)


def skipped(name: str, reason: str) -> Check:
    """A check that says nothing about the system."""
    return Check(name=name, outcome=Outcome.SKIP, finding=reason)


def judged(name: str, failed: bool, finding: str, advice: str, figures: Mapping[str, float]) -> Check:
    """A check with its verdict; advice is given where it failed."""
    outcome = Outcome.FAIL if failed else Outcome.PASS
    return Check(name=name, outcome=outcome, finding=finding, advice=advice if failed else "", figures=dict(figures))


def share(claims: Tensor) -> float:
    """Share of claims that are true; 0 of none."""
    return float(claims.double().mean()) if claims.numel() else 0.0
