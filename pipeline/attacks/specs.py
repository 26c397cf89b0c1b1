"""The attacks of a suite: what can be set of each, how it runs, how often it starts, what it costs, and what it applies to.

Nothing here imports torch, so that help pages and typos do not wait for it; a method that runs an attack imports what it needs. To
add an attack, write a class like these in a file of its own and name it in ``registry``.
"""

from dataclasses import dataclass
from enum import StrEnum
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from pipeline.attacks.threat import Budget, Knowledge, ThreatModel
from pipeline.config import Count, Number, Whole, configuration
from pipeline.masks.traits import MaskTraits

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.attacks.start import AttackBatch, AttackStart

Search = Literal["pgd", "apgd"]


class ClassLoss(StrEnum):
    """Scores of class logits, by the name that configurations use."""

    CROSS_ENTROPY = "cross-entropy"
    """-log probability of the label. Its gradient vanishes in float32 where the classifier is sure (a margin above about 100)."""
    MARGIN = "margin"
    """Largest other logit minus the label's."""
    DLR = "dlr"
    """Difference-of-logits ratio: the margin in units of the logits' own spread."""


class GradientPath(StrEnum):
    """Through which of the two ways the class score's gradient reaches the image."""

    BOTH = "both"
    """The gradient as it is: through the pixels the classifier sees and through the mask."""
    PIXELS = "pixels"
    """Through the pixels alone; the mask is followed but not differentiated. A diagnostic."""
    MASK = "mask"
    """Through the mask alone; the pixels are followed but not differentiated. A diagnostic."""
    BALANCED = "balanced"
    """Both, each scaled to Euclidean length 1 per image before they are added: neither drowns the other."""


class MaskGoal(StrEnum):
    """What the attacker wants the mask to be."""

    COLLAPSE = "collapse"
    """Empty: the classifier sees the fill alone."""
    FLOOD = "flood"
    """Full: the background is let through."""
    STEAL = "steal"
    """The mask of another class's image: see ``two_stage.stolen_masks``."""
    INVERT_ORACLE = "invert-oracle"
    """Wrong at every pixel, by the data set's mask."""
    INVERT_CLEAN = "invert-clean"
    """The opposite of what the segmenter says of the clean image."""


class Passes(NamedTuple):
    """How often an image goes through a system, or through its stages."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Forwards and backwards, which cost about the same where no gradient of a weight is asked for."""
        return self.forward + self.backward


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What decides whether an attack says anything about a system."""

    traits: MaskTraits
    threat: ThreatModel
    image_shape: tuple[int, int]
    """Height and width."""
    has_guides: bool
    """There is a pool of masks to steal."""
    has_oracle: bool
    """The data set's own masks are at hand."""

    @property
    def hides_seeds(self) -> bool:
        """The attacker lacks a seed that the system uses."""
        return self.threat.knowledge == Knowledge.HIDDEN_SEED and self.traits.uses_seeds


class AttackSpec:
    """An attack of a suite. A subclass is a ``configuration`` with a ``kind`` of its own."""

    kind: str
    restarts: int = 1
    """Random starts, where an attack has some."""
    num_steps: int
    """Gradient steps of each start, where it makes some."""
    one_start: ClassVar[str]
    """What ``run`` calls with the attack and the start, by its place: ``package.module:function``. Its module may import torch."""
    budgets: ClassVar[tuple[Budget, ...]] = ("linf", "l2", "l1")
    """What the epsilons may limit that it keeps to."""
    needs_exact_logits: ClassVar[bool] = False
    """It counts on the system's own logits: it is never run on a faster copy."""

    def num_starts(self, num_classes: int) -> int:  # noqa: ARG002  for attacks with targets
        """How often the attack begins on an image for which it finds no adversarial example."""
        return self.restarts

    def passes(self, num_classes: int) -> Passes:
        """What all its starts cost for an image for which it finds no adversarial example: one in each direction for every step."""
        return _steps(self.num_starts(num_classes) * self.num_steps)

    def why_skipped(self, conditions: Conditions) -> str | None:
        """Why the attack is not run on a system under a threat model, in a few words; None where it is."""
        norm = conditions.threat.norm
        if norm not in self.budgets:
            *others, last = self.budgets
            return f"it keeps to {', '.join(others)}{' and ' * bool(others)}{last}, and the threat is {norm}"
        return self.inapplicable(conditions)

    def inapplicable(self, conditions: Conditions) -> str | None:
        """Why the attack says nothing about a system, in a few words; None where it does."""
        del conditions
        return None

    def run(self, start: "AttackStart") -> "Tensor":
        """One start: for each image of its batch a point in the ball, with the largest margin that was visited."""
        found: Tensor = resolve_name(self.one_start)(self, start)
        return found

    def run_over_a_queue(
        self, start: "AttackStart", judge: "AttackBatch", *, batch_size: int, warm_start: "Tensor | None"
    ) -> "Tensor | None":
        """All starts of any number of images, each of which leaves at its first success; None where the attack runs start by start.

        ``judge`` is the batch with the system that decides on success, ``warm_start`` a further point to begin at for each image.
        """
        del start, judge, batch_size, warm_start
        return None


@configuration
class ClassAttack(AttackSpec):
    """Climb a score of the class logits, end to end or through one path, untargeted or towards other classes."""

    one_start: ClassVar[str] = "pipeline.attacks.climbing:climb_class_score"

    kind: Literal["class"] = "class"
    """Climbs a score of the class logits, away from the label or towards other classes."""
    search: Search = "apgd"
    """apgd (chooses its own step) or pgd (steps of 2.5 * epsilon / num_steps)."""
    loss: ClassLoss = ClassLoss.CROSS_ENTROPY
    """cross-entropy, margin or dlr (below 4 classes the margin, with a warning)."""
    path: GradientPath = GradientPath.BOTH
    """Gradient: both paths as they are, pixels alone, mask alone, or balanced (each of length 1)."""
    gate: Literal["own", "soft"] = "own"
    """The system's own gate, or soft: search with a soft gate in place of the hard one and judge by the hard one."""
    num_targets: Annotated[Whole, Field(ge=0, le=10_000)] = 0
    """0: away from the label. Else towards each of that many wrong classes, the likeliest first, all others at most."""
    num_steps: Count = 100
    """Gradient steps of each start, at least 1."""
    restarts: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """Random starts (for each target), at least 1."""

    def num_starts(self, num_classes: int) -> int:
        """Restarts, for each target where there are any."""
        return self.restarts * max(1, min(self.num_targets, num_classes - 1))

    def inapplicable(self, conditions: Conditions) -> str | None:
        """A soft gate needs a hard one to stand for, a single path a second one."""
        traits = conditions.traits
        if self.gate == "soft" and not (traits.is_attackable and traits.hard_threshold is not None):
            return f"the mask source {traits.source} has no hard gate to transfer to"
        if self.path != GradientPath.BOTH and not traits.is_attackable:
            return f"{traits.why_fixed}: there is one path only"
        return None

    def run_over_a_queue(
        self, start: "AttackStart", judge: "AttackBatch", *, batch_size: int, warm_start: "Tensor | None"
    ) -> "Tensor | None":
        """Descent with a fixed step away from the label, by an attacker who knows the seeds."""
        from pipeline.attacks.climbing import climb_over_a_queue

        if self.search != "pgd" or self.num_targets or start.hides_seeds:
            return None
        return climb_over_a_queue(self, start, judge, batch_size=batch_size, warm_start=warm_start)


class _TowardsGoal(AttackSpec):
    """An attack that drives the mask to a goal."""

    goal: MaskGoal

    def inapplicable(self, conditions: Conditions) -> str | None:
        """The mask has to move, and the goal to be known."""
        if not conditions.traits.is_attackable:
            return conditions.traits.why_fixed
        if self.goal == MaskGoal.STEAL and not conditions.has_guides:
            return "there are no guide masks to steal"
        if self.goal == MaskGoal.INVERT_ORACLE and not conditions.has_oracle:
            return "there are no oracle masks to invert"
        return None


@configuration
class MaskAttack(_TowardsGoal):
    """Drive the mask to a goal, alone or together with a class score."""

    one_start: ClassVar[str] = "pipeline.attacks.climbing:climb_mask_score"

    kind: Literal["mask"] = "mask"
    """Drives the mask to a goal, alone or together with a class score."""
    goal: MaskGoal
    """collapse (empty), flood (full), steal (another class's), invert-oracle or invert-clean (wrong at every pixel)."""
    loss: ClassLoss | None = None
    """Class score climbed together with the mask's: cross-entropy, margin or dlr; null is the mask alone."""
    weight: Annotated[Number, Field(gt=0, le=1e6)] = 1.0
    """Weight of the mask score, above 0; of no effect alone."""
    search: Search = "apgd"
    """apgd (chooses its own step) or pgd (steps of 2.5 * epsilon / num_steps)."""
    num_steps: Count = 100
    """Gradient steps of each start, at least 1."""
    restarts: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """Random starts, at least 1."""


@configuration
class GuidedAttack(_TowardsGoal):
    """First drive the mask to a goal, then climb the class score from there; both by projected gradient descent."""

    one_start: ClassVar[str] = "pipeline.attacks.climbing:climb_guided"

    kind: Literal["guided"] = "guided"
    """Drives the mask to a goal first, then climbs the class score from there."""
    goal: MaskGoal
    """Of the first phase: collapse, flood, steal, invert-oracle or invert-clean."""
    loss: ClassLoss = ClassLoss.MARGIN
    """Of the second phase: cross-entropy, margin or dlr."""
    mask_steps: Count = 50
    """Gradient steps of the first phase, at least 1."""
    class_steps: Count = 50
    """Gradient steps of the second phase, at least 1."""
    restarts: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """Random starts, at least 1."""

    def passes(self, num_classes: int) -> Passes:
        """One in each direction for every step of both phases."""
        return _steps(self.num_starts(num_classes) * (self.mask_steps + self.class_steps))


def _steps(number: int) -> Passes:
    return Passes(forward=number, backward=number)
