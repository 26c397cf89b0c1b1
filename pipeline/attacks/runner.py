"""Run the attacks of a suite on a batch: what has fallen is left alone, and what is found is judged afresh.

An image keeps the first misclassified point that was found for it, and is not attacked again. Neither its batch nor the attacks
before have any part in what an attack finds for it, so its verdict is the same as if every attack had been run to its end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.attacks.attempt import Attempt, Victims, clean_logits
from pipeline.attacks.specs import (
    AttackSpec,
    AttackSuite,
    AutoAttack,
    ClassAttack,
    GuidedAttack,
    MaskAttack,
    SquareAttack,
    ThreatModel,
    inapplicable,
)
from pipeline.attacks.tracker import verdict
from pipeline.errors import ConfigError
from pipeline.system import System, attacked, traits_of


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an attack or a suite found, in the order of the images."""

    images: Float[Tensor, "batch 3 height width"]
    """The first misclassified point, else the point with the largest margin (perhaps the image itself)."""
    margins: Float[Tensor, " batch"]
    """Largest other logit minus the label's at that point, scored afresh."""
    fallen: Bool[Tensor, " batch"]
    """The system misclassifies that point."""

    def improved(self, indices: Int64[Tensor, " kept"], other: "Found") -> "Found":
        """With what ``other`` found for some of the images, where it has fallen or its margin is larger."""
        better = other.fallen | (other.margins > self.margins[indices])
        chosen = indices[better]
        return Found(
            images=self.images.index_copy(0, chosen, other.images[better]),
            margins=self.margins.index_copy(0, chosen, other.margins[better]),
            fallen=self.fallen.index_copy(0, chosen, other.fallen[better]),
        )


@dataclass(frozen=True, kw_only=True)
class SuiteFound:
    """The worst case per image over the attacks of a suite, at one epsilon."""

    epsilon: float
    found: Found
    fallen_to: tuple[str | None, ...]
    """Per image the name of the attack it fell to first, "clean" where it was misclassified as it is, None where it stands."""
    skipped: Mapping[str, str]
    """The attacks that say nothing about this system, and why."""


def run_suite(suite: AttackSuite, victims: Victims, *, run_seed: int) -> Iterator[SuiteFound]:
    """The worst case per image at each epsilon of the threat model, from the smallest to the largest.

    An image that has fallen is not attacked again, at this epsilon or a larger one: it keeps its first adversarial image. Raises
    ConfigError where no attack of the suite applies to the system, and what the attacks raise.
    """
    skipped = skipped_attacks(suite, victims)
    found = clean(victims)
    fallen_to: list[str | None] = ["clean" if fallen else None for fallen in found.fallen.tolist()]
    for epsilon in suite.threat.epsilons:
        for name, spec in suite.attacks.items():
            if name in skipped:
                continue
            standing = (~found.fallen).nonzero().flatten()
            if not len(standing):
                break
            more = run_attack(name, spec, victims.select(standing), threat=suite.threat, epsilon=epsilon, run_seed=run_seed)
            found = found.improved(standing, more)
            for row in standing[more.fallen].tolist():
                fallen_to[row] = name
        yield SuiteFound(epsilon=epsilon, found=found, fallen_to=tuple(fallen_to), skipped=skipped)


def skipped_attacks(suite: AttackSuite, victims: Victims) -> dict[str, str]:
    """The attacks of a suite that say nothing about a system, and why. Raises ConfigError where none is left."""
    context = victims.context
    reasons = {
        name: inapplicable(
            spec,
            traits_of(victims.system),
            suite.threat,
            image_shape=(victims.images.shape[2], victims.images.shape[3]),
            has_guides=victims.guides is not None,
            has_oracle=context is not None and context.oracle_masks is not None,
        )
        for name, spec in suite.attacks.items()
    }
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    if len(skipped) == len(reasons):
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise ConfigError(f"attack.attacks: none applies to this system, which would pass for robust ({why})")
    return skipped


def clean(victims: Victims) -> Found:
    """The images as they are: what an attack with epsilon 0 finds."""
    scored = verdict(victims.system, victims.images, victims.labels, victims.context)
    return Found(images=victims.images, margins=scored.margins, fallen=scored.fallen)


def run_attack(name: str, spec: AttackSpec, victims: Victims, *, threat: ThreatModel, epsilon: float, run_seed: int) -> Found:
    """The worst case per image over the starts of one attack; an image that has fallen at one start is left out of the next.

    Every success is counted by the stored image, scored afresh; a point outside the ball never is, because none is returned. Raises
    ValueError for an attack that ``inapplicable`` names, FloatingPointError where a score or a logit is no number.
    """
    found = clean(victims)
    if epsilon == 0:
        return found
    num_classes = clean_logits(victims.select(torch.zeros_like(victims.seeds[:1]))).shape[1]
    for start in range(num_starts(spec, num_classes)):
        standing = (~found.fallen).nonzero().flatten()
        if not len(standing):
            break
        attempt = Attempt(
            spec=spec,
            victims=victims.select(standing),
            threat=threat,
            epsilon=epsilon,
            start=start,
            num_classes=num_classes,
            run_seed=run_seed,
            name=name,
        )
        found = found.improved(standing, tried(attempt, victims.system))
    return found


def tried(attempt: Attempt, judge: System) -> Found:
    """What one start finds, scored afresh by ``judge``: the system itself, of which the attempt may attack a faster copy."""
    victims = attempt.victims
    with attacked(victims.system):
        points = attempt.search()
    scored = verdict(judge, points, victims.labels, victims.context)
    return Found(images=points, margins=scored.margins, fallen=scored.fallen)


def num_starts(spec: AttackSpec, num_classes: int) -> int:
    """How often an attack begins: restarts, for each target class where there are any."""
    match spec:
        case ClassAttack():
            return spec.restarts * max(1, min(spec.num_targets, num_classes - 1))
        case MaskAttack() | GuidedAttack() | SquareAttack():
            return spec.restarts
        case AutoAttack():
            return 1
