"""What is attacked with: a threat model and a list of attacks, whose worst case per image is the verdict."""

from dataclasses import field
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from pipeline.attacks.autoattack import STANDARD, Member, square_fits
from pipeline.attacks.measurements import MeasurementSpec
from pipeline.attacks.objectives import ClassLoss
from pipeline.attacks.regions import Region
from pipeline.attacks.threat import Epsilon, Norm, check_epsilon
from pipeline.attacks.two_stage import GradientPath, MaskGoal
from pipeline.config import Number, configuration
from pipeline.system import MaskTraits

Count = Annotated[int, Field(ge=1)]
Search = Literal["pgd", "apgd"]


class Knowledge(StrEnum):
    """What the attacker knows of the system."""

    WHITE_BOX = "white-box"
    """Everything: weights, masks, and the seeds of random masks and fills."""
    HIDDEN_SEED = "hidden-seed"
    """Everything but those seeds: gradients are averaged over seeds that the attacker makes up."""


@configuration
class ThreatModel:
    """What an attacker may change, and what it knows."""

    norm: Norm = "linf"
    """Norm of the perturbation: linf (largest change of a channel value) or l2 (Euclidean, over the whole image)."""
    epsilons: Annotated[tuple[Epsilon, ...], Field(min_length=1)] = (8 / 255,)
    """Largest norms of the perturbation of an image in [0,1], rising: [2/255, 4/255, 8/255]. What falls at one has
    fallen at all after it."""
    region: Region = Region.EVERYWHERE
    """Pixels that may change: everywhere, foreground, background, boundary or outside-box."""
    region_radius: Count = 2
    """Reach of the boundary band in pixels, at least 1."""
    knowledge: Knowledge = Knowledge.WHITE_BOX
    """white-box: everything, also the seeds of random masks and noise fills. hidden-seed: everything but those."""
    num_draws: Count = 8
    """Seeds that an attacker with hidden-seed averages over at every step, at least 1."""

    def __post_init__(self) -> None:
        for epsilon in self.epsilons:
            check_epsilon(self.norm, epsilon)
        if any(later <= earlier for earlier, later in zip(self.epsilons, self.epsilons[1:], strict=False)):
            raise ValueError(f"epsilons have to rise: {', '.join(f'{epsilon:.4g}' for epsilon in self.epsilons)}")


@configuration
class ClassAttack:
    """Climb a score of the class logits, end to end or through one path, untargeted or towards other classes."""

    kind: Literal["class"] = "class"
    """class"""
    search: Search = "apgd"
    """apgd (chooses its own step) or pgd (steps of 2.5 * epsilon / num_steps)."""
    loss: ClassLoss = ClassLoss.CROSS_ENTROPY
    """cross-entropy, margin or dlr (below 4 classes the margin, with a warning)."""
    path: GradientPath = GradientPath.BOTH
    """Gradient: both paths as they are, pixels alone, mask alone, or balanced (each of length 1)."""
    gate: Literal["own", "soft"] = "own"
    """The system's own gate, or soft: search with a soft gate in place of the hard one and judge by the hard one."""
    num_targets: Annotated[int, Field(ge=0)] = 0
    """0: away from the label. Else towards each of that many wrong classes, the likeliest first, all others at most."""
    num_steps: Count = 100
    """Gradient steps of each start, at least 1."""
    restarts: Count = 1
    """Random starts (for each target), at least 1."""


@configuration
class MaskAttack:
    """Drive the mask to a goal, alone or together with a class score."""

    kind: Literal["mask"] = "mask"
    """mask"""
    goal: MaskGoal
    """collapse (empty), flood (full), steal (another class's), invert-oracle or invert-clean (wrong at every pixel)."""
    loss: ClassLoss | None = None
    """Class score climbed together with the mask's: cross-entropy, margin or dlr; null is the mask alone."""
    weight: Annotated[Number, Field(gt=0)] = 1.0
    """Weight of the mask score, above 0; of no effect alone."""
    search: Search = "apgd"
    """apgd (chooses its own step) or pgd (steps of 2.5 * epsilon / num_steps)."""
    num_steps: Count = 100
    """Gradient steps of each start, at least 1."""
    restarts: Count = 1
    """Random starts, at least 1."""


@configuration
class GuidedAttack:
    """First drive the mask to a goal, then climb the class score from there; both by projected gradient descent."""

    kind: Literal["guided"] = "guided"
    """guided"""
    goal: MaskGoal
    """Of the first phase: collapse, flood, steal, invert-oracle or invert-clean."""
    loss: ClassLoss = ClassLoss.MARGIN
    """Of the second phase: cross-entropy, margin or dlr."""
    mask_steps: Count = 50
    """Gradient steps of the first phase, at least 1."""
    class_steps: Count = 50
    """Gradient steps of the second phase, at least 1."""
    restarts: Count = 1
    """Random starts, at least 1."""


@configuration
class SquareAttack:
    """Random search that asks for logits and no gradient (Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049)."""

    kind: Literal["square"] = "square"
    """square"""
    num_queries: Count = 5000
    """Forward passes of each start, at least 1."""
    restarts: Count = 1
    """Random starts, at least 1."""


@configuration
class AutoAttack:
    """The standard version of AutoAttack, by pyautoattack (Croce and Hein 2020, https://arxiv.org/abs/2003.01690)."""

    kind: Literal["autoattack"] = "autoattack"
    """autoattack"""
    attacks: Annotated[tuple[Member, ...], Field(min_length=1)] = STANDARD
    """Which of its attacks, in order: apgd-ce, apgd-t, fab-t and square are the standard version."""
    num_queries: Count = 5000
    """Forward passes of its Square, at least 1."""


AttackSpec = Annotated[ClassAttack | MaskAttack | GuidedAttack | SquareAttack | AutoAttack, Field(discriminator="kind")]


@configuration
class AttackSuite:
    """A threat model and the attacks that are tried under it, in order: cheap ones first save time, the verdict is the same."""

    threat: ThreatModel = field(default_factory=ThreatModel)
    """What an attacker may change, and what it knows."""
    attacks: Annotated[dict[str, AttackSpec], Field(min_length=1)]
    """The attacks by name. The name is part of the seed: another name draws other starts."""
    measurements: dict[str, MeasurementSpec] = field(default_factory=dict)
    """What is measured besides, by name: distances, corruptions, other backgrounds, certificates. They have conditions of their own
    and know nothing of the threat model above."""


def inapplicable(
    spec: AttackSpec, traits: MaskTraits, threat: ThreatModel, *, image_shape: tuple[int, int], has_guides: bool, has_oracle: bool
) -> str | None:
    """Why an attack says nothing about a system under this threat model, in a few words; None where it does."""
    fixed = fixed_mask(traits)
    match spec:
        case ClassAttack(gate="soft") if not traits.is_attackable or traits.hard_threshold is None:
            return f"the mask source {traits.source} has no hard gate to transfer to"
        case ClassAttack(path=path) if path is not GradientPath.BOTH and not traits.is_attackable:
            return f"{fixed}: there is one path only"
        case MaskAttack() | GuidedAttack() if not traits.is_attackable:
            return fixed
        case MaskAttack(goal=MaskGoal.STEAL) | GuidedAttack(goal=MaskGoal.STEAL) if not has_guides:
            return "there are no guide masks to steal"
        case MaskAttack(goal=MaskGoal.INVERT_ORACLE) | GuidedAttack(goal=MaskGoal.INVERT_ORACLE) if not has_oracle:
            return "there are no oracle masks to invert"
        case SquareAttack() | AutoAttack() if hides_seeds(threat, traits):
            return "it would ask the system itself, with the seeds that this attacker does not know"
        case SquareAttack() if not square_fits(threat.norm, *image_shape):
            return "the tiles of its Euclidean version do not fit the image"
        case AutoAttack(attacks=members) if "square" in members and not square_fits(threat.norm, *image_shape):
            return "the tiles of Square's Euclidean version do not fit the image: leave square out of its attacks"
    return None


def fixed_mask(traits: MaskTraits) -> str:
    """Why no attack climbs the mask."""
    if traits.follows_image:
        return f"the system does not give the logits of its mask {traits.source} (StagedSystem)"
    return f"the attacker cannot move the mask of the source {traits.source}"


def hides_seeds(threat: ThreatModel, traits: MaskTraits) -> bool:
    """The attacker lacks a seed that the system uses."""
    return threat.knowledge is Knowledge.HIDDEN_SEED and traits.uses_seeds
