"""What a report is about: the arms of an ablation, or a single evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Shaped

from pipeline.ablation.manifest import ConfinedEntry, GainEntry, TransferEntry
from pipeline.attacks.diagnostics import Check
from pipeline.evaluation.metrics import on_shared_images, robust_images
from pipeline.evaluation.summary import Summary
from pipeline.masks.config import MaskSource

Role = Literal["main", "degradation", "diagnostic"]


class Condition(NamedTuple):
    """What two arms share that differ by their seed alone."""

    classifier_objective: str
    """Of a system of the user's own, its name."""
    segmenter_objective: str | None
    """Of the segmenter in testing, else of that in training; None where no segmenter takes part."""
    train_masks: str
    test_masks: str
    setting: str = ""
    """How far masks made worse on purpose are changed: ``2 px``; empty for the others."""
    is_own: bool = False
    """A system of the user's own, which was not trained here."""

    @property
    def columns(self) -> dict[str, str | None]:
        """As columns of a table for programs."""
        return {name: value for name, value in self._asdict().items() if name != "is_own"}

    @property
    def draws(self) -> str:
        """What the random draws of its intervals are named after. Another name means other draws."""
        return f"Condition({', '.join(f'{name}={value!r}' for name, value in self.columns.items())})"

    @property
    def masks(self) -> str:
        """Both masks, for people: ``oracle to learned (natural segmenter)``; of a system of the user's own those in testing."""
        return self.tested if self.is_own else f"{self.trained} to {self.tested}"

    @property
    def tested(self) -> str:
        """The masks in testing, for people: ``learned (adversarial segmenter)`` or ``eroded 2 px``."""
        segmenter = f" ({self.segmenter_objective} segmenter)" if self.uses_segmenter and self.segmenter_objective else ""
        return f"{self.test_masks} {self.setting}".rstrip() + segmenter

    @property
    def trained(self) -> str:
        """The masks in training, for people; their segmenter where that of testing does not say it."""
        other = self.segmenter_objective and not self.uses_segmenter
        return f"{self.train_masks} ({self.segmenter_objective} segmenter)" if other else self.train_masks

    @property
    def uses_segmenter(self) -> bool:
        """The mask in testing is a segmenter's."""
        return self.test_masks in [source for source in MaskSource if source.needs_segmenter]

    @property
    def is_maskless(self) -> bool:
        """No mask hides anything, neither in training nor in testing."""
        return (self.train_masks, self.test_masks) == ("none", "none")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One evaluated system."""

    name: str
    condition: Condition
    seed: int
    role: Role
    path: Path
    """Its evaluation run."""
    records: pl.DataFrame = field(repr=False)
    summary: Summary = field(repr=False)
    about: dict[str, Any] = field(repr=False)
    """``run.json``: command, configuration, inputs, provenance."""
    checks: tuple[Check, ...] | None
    """None where the evaluation was made without ``sanity=true``."""

    @property
    def seconds(self) -> float:
        """What the attacks took."""
        return float(self.records["seconds"].sum())


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that a report draws on."""

    name: str
    path: Path
    arms: tuple[Arm, ...]
    """At least one, all on the same data, split and threat model."""
    about: dict[str, Any] = field(repr=False)
    """``ablation.json``, or ``run.json`` of a single evaluation."""
    silhouette: tuple[dict[str, Any], ...] | None = None
    """Per seed: ``seed``, ``accuracy``, ``n`` of a classifier that sees the mask alone."""
    decomposition: pl.DataFrame | None = field(default=None, repr=False)
    gain: tuple[GainEntry, ...] | None = field(default=None, repr=False)
    """What the oracle's masks add, and what it is made of."""
    confined: tuple[ConfinedEntry, ...] = ()
    """Arms under attackers who may change a part of the image."""
    transfers: tuple[TransferEntry, ...] = ()
    """What arms make of each other's adversarial images."""
    missing: tuple[str, ...] = ()
    """What the run promises and does not hold, in sentences."""

    @property
    def is_ablation(self) -> bool:
        return "arms" in self.about

    @property
    def epsilons(self) -> list[float]:
        """Ascending."""
        return [float(epsilon) for epsilon in self.arms[0].records["epsilon"].unique().sort()]

    @property
    def attacked(self) -> list[float]:
        """The epsilons above 0, ascending."""
        return [epsilon for epsilon in self.epsilons if epsilon > 0]

    @property
    def primary_epsilon(self) -> float:
        """The epsilon that the answer is about: the one that the experiment names, else the largest."""
        named = self.about.get("config", {}).get("primary_epsilon")
        return min(self.epsilons, key=lambda epsilon: abs(epsilon - named)) if named else self.epsilons[-1]

    @property
    def clean_and_primary(self) -> tuple[float, ...]:
        """0 for images as they are, and the epsilon that the answer is about; 0 alone where none above it was attacked."""
        return tuple(dict.fromkeys((0.0, self.primary_epsilon)))

    @property
    def sample(self) -> tuple[int, int]:
        """The most images that an arm has met, and the groups (photographs, tracks) that they fall into."""
        largest = max((arm.records for arm in self.arms), key=lambda records: records["sample_id"].n_unique())
        return largest["sample_id"].n_unique(), largest["group"].n_unique()

    def by_condition(self, *roles: Role) -> dict[Condition, list[Arm]]:
        """Arms of these roles by condition, in the order of the run; each list is ascending in the seed."""
        grouped: dict[Condition, list[Arm]] = {}
        for arm in self.arms:
            if arm.role in roles:
                grouped.setdefault(arm.condition, []).append(arm)
        return {condition: sorted(arms, key=lambda arm: arm.seed) for condition, arms in grouped.items()}

    @property
    def classifier_objectives(self) -> list[str]:
        """Of the main arms that were trained here, in the order of the run."""
        trained = (arm.condition for arm in self.arms if arm.role == "main" and not arm.condition.is_own)
        return list(dict.fromkeys(condition.classifier_objective for condition in trained))

    @property
    def own(self) -> list[Condition]:
        """The systems of the user's own, in the order of the run."""
        return list(dict.fromkeys(arm.condition for arm in self.arms if arm.condition.is_own))


def verdicts(arms: Sequence[Arm], epsilon: float) -> tuple[Bool[np.ndarray, "seeds images"], Shaped[np.ndarray, " images"]]:
    """Whether each image stands at an epsilon under each seed, and the group of each. Only images that all seeds have met."""
    values, groups = on_shared_images([robust_images(arm.records, epsilon).rename({"robust": "value"}) for arm in arms])
    return values.astype(bool), groups
