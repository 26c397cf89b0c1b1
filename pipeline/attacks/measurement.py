"""What a measurement is: what is observed of every image beside attacks, under which conditions, and what a figure of it claims."""

from enum import StrEnum
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pipeline.attacks.specs import Passes

if TYPE_CHECKING:
    from pipeline.attacks.measuring import MeasuredBatch, Observation


class Claim(StrEnum):
    """What kind of statement a figure is."""

    ACCURACY = "accuracy"
    """Of images that nobody has chosen to fool the system: no bound on anything."""
    UPPER_ESTIMATE = "upper estimate"
    """What an attack left standing: a better attack can only lower it."""
    LOWER_BOUND = "lower bound"
    """Proven, up to the error rate of its votes: no attack can get below it."""


class Condition(NamedTuple):
    """Under what an image is observed."""

    name: str
    level: float
    """Severity, radius or noise; 0 where there is only one."""
    claim: Claim


class Measurement:
    """A measurement of a suite. A subclass is a ``configuration`` with a ``kind`` of its own."""

    kind: str
    observed_by: ClassVar[str]
    """What ``observe`` calls with the measurement first, by its place: ``package.module:function``. Its module may import torch."""

    def __post_init__(self) -> None:
        """An image that is observed twice under one condition would count as two."""
        conditions = self.conditions()
        if twice := [one for number, one in enumerate(conditions) if one in conditions[:number]]:
            raise ValueError(f"names the same condition twice: {twice[0].name}{f' {twice[0].level:g}' if twice[0].level else ''}")

    @property
    def threat(self) -> str:
        """In records: the norm, or what happens to the images."""
        raise NotImplementedError

    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, in the order in which they are recorded."""
        raise NotImplementedError

    def passes(self, num_classes: int) -> Passes:  # noqa: ARG002
        """What all conditions cost for one image, at most."""
        return Passes(forward=len(self.conditions()), backward=0)

    def observe(self, batch: "MeasuredBatch", condition: Condition) -> "Observation":
        """Every image under one condition. An image's observation does not depend on the rest of its batch."""
        found: Observation = resolve_name(self.observed_by)(self, batch, condition)
        return found
