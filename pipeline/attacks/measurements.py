"""The measurements of a suite: figures that have no ball. What can be set of each, its conditions, and how it observes an image.

The suite of attacks asks whether an image falls within an epsilon. A distance, a corruption, another background or a certificate is
no such question, so it is a measurement: a list of conditions, each of which gives every image one observation. Observations are
recorded by ``evaluation.measuring``, chunk by chunk, like outcomes of attacks.

Nothing here imports torch; what observes is named by its place. To add a measurement, write a class like these and name it in
``MeasurementSpec``.
"""

import math
from dataclasses import field
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.attacks.measurement import Claim, Condition, Measurement
from pipeline.attacks.patch_attack import PatchAttack
from pipeline.attacks.specs import Passes
from pipeline.attacks.threat import Epsilon, Norm, Region, ThreatModel, check_epsilon
from pipeline.config import Count, Number, Whole, configuration


@configuration
class Distances(Measurement):
    """The distance of the nearest misclassified point of every image, by some search."""

    norm: Norm = "linf"
    """Norm of the distance: linf, l2 or l1."""
    epsilons: tuple[Epsilon, ...] = ()
    """Where robust accuracy is printed; the distances know it everywhere."""
    region: Region = Region.EVERYWHERE
    """Pixels that may change: everywhere, foreground, background, boundary or outside-box."""
    region_radius: Annotated[Whole, Field(ge=1, le=1024)] = 2
    """Reach of the boundary band in pixels, at least 1."""

    def __post_init__(self) -> None:
        for epsilon in self.epsilons:
            check_epsilon(self.norm, epsilon)

    @property
    def threat(self) -> str:
        return self.norm

    @property
    def within(self) -> ThreatModel:
        """Where the image may change."""
        return ThreatModel(region=self.region, region_radius=self.region_radius)

    def conditions(self) -> tuple[Condition, ...]:
        """One: the nearest point."""
        return (Condition(name="nearest", level=0.0, claim=Claim.UPPER_ESTIMATE),)


@configuration
class MinimumNorm(Distances):
    """The distance of the nearest misclassified point that a gradient search finds, end to end, of every image."""

    observed_by: ClassVar[str] = "pipeline.attacks.minimum_norm:observe_nearest"

    kind: Literal["minimum-norm"] = "minimum-norm"
    """Distances of the nearest misclassified points, by a gradient search."""
    search: Literal["fmn", "ddn"] = "fmn"
    """fmn (fast minimum norm) or ddn (decoupled direction and norm, l2 alone)."""
    num_steps: Count = 100
    """Gradient steps, at least 1."""

    def __post_init__(self) -> None:
        if self.search == "ddn" and self.norm != "l2":
            raise ValueError(f"ddn knows the norm l2 alone, not {self.norm}")
        super().__post_init__()

    def passes(self, num_classes: int) -> Passes:  # noqa: ARG002
        """One in each direction for every step, the score of the last point, and the answer to what was found."""
        return Passes(forward=self.num_steps + 2, backward=self.num_steps)


@configuration
class DecisionBased(Distances):
    """The distance of the nearest misclassified point that is found by asking for decisions alone, of every image."""

    observed_by: ClassVar[str] = "pipeline.attacks.hop_skip_jump:observe_decisions"

    kind: Literal["decision-based"] = "decision-based"
    """Distances of the nearest misclassified points, by HopSkipJump: it asks for the class and for nothing else."""
    norm: Norm = "l2"
    """Norm of the distance: linf, l2 or l1."""
    num_steps: Count = 20
    """Steps along the boundary, at least 1."""
    max_probes: Count = 500
    """Most neighbors that a step asks about, at least 1; step t asks about 100 * sqrt(t)."""

    def passes(self, num_classes: int) -> Passes:  # noqa: ARG002
        """The probes of all steps, and about 36 decisions a step to move and to come back to the boundary."""
        probes = sum(min(int(100 * math.sqrt(step)), self.max_probes) for step in range(1, self.num_steps + 1))
        return Passes(forward=probes + 36 * self.num_steps, backward=0)


@configuration
class Patches(Measurement):
    """What a square patch of some sizes does anywhere, on the object alone and beside it, end to end through the segmenter."""

    threat: ClassVar[str] = "patch"
    observed_by: ClassVar[str] = "pipeline.attacks.patches:observe_patches"

    kind: Literal["patches"] = "patches"
    """Accuracy under a square patch of several sizes: anywhere, on the object alone, beside the object."""
    shares: Annotated[tuple[Annotated[Number, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.02, 0.05)
    """Largest shares of the image that the square may cover."""
    regions: Annotated[tuple[Region, ...], Field(min_length=1)] = (Region.EVERYWHERE, Region.FOREGROUND, Region.BACKGROUND)
    """Where all of the square has to lie: everywhere, foreground, background, outside-box. An image without room for it is not
    counted there."""
    attack: PatchAttack = field(default_factory=PatchAttack)
    """How places and content are searched."""

    def conditions(self) -> tuple[Condition, ...]:
        """Every region with every share, the small ones first."""
        grid = [(region.value, share) for region in self.regions for share in sorted(self.shares)]
        return tuple(Condition(name=name, level=share, claim=Claim.UPPER_ESTIMATE) for name, share in grid)

    def passes(self, num_classes: int) -> Passes:
        """Those of the attack, under every condition."""
        forward, backward = self.attack.passes(num_classes)
        return Passes(forward=len(self.conditions()) * (forward + 1), backward=len(self.conditions()) * backward)


class Corruption(StrEnum):
    """The fifteen of Hendrycks and Dietterich 2019, in their order: noise, blur, weather, digital."""

    GAUSSIAN_NOISE = "gaussian-noise"
    SHOT_NOISE = "shot-noise"
    IMPULSE_NOISE = "impulse-noise"
    DEFOCUS_BLUR = "defocus-blur"
    GLASS_BLUR = "glass-blur"
    MOTION_BLUR = "motion-blur"
    ZOOM_BLUR = "zoom-blur"
    SNOW = "snow"
    FROST = "frost"
    FOG = "fog"
    BRIGHTNESS = "brightness"
    CONTRAST = "contrast"
    ELASTIC = "elastic"
    PIXELATE = "pixelate"
    JPEG = "jpeg"


@configuration
class Corruptions(Measurement):
    """Accuracy and mask IoU under common corruptions, and on the clean images."""

    threat: ClassVar[str] = "corruption"
    observed_by: ClassVar[str] = "pipeline.attacks.corruptions:observe_corrupted"

    kind: Literal["corruptions"] = "corruptions"
    """Accuracy under noise, blur, weather and digital artefacts that nobody has chosen."""
    corruptions: Annotated[tuple[Corruption, ...], Field(min_length=1)] = tuple(Corruption)
    """Which of the fifteen: gaussian-noise, shot-noise, impulse-noise, defocus-blur, glass-blur, motion-blur, zoom-blur, snow,
    frost, fog, brightness, contrast, elastic, pixelate, jpeg."""
    severities: Annotated[tuple[Annotated[Whole, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    """How severe, 1 to 5."""

    def conditions(self) -> tuple[Condition, ...]:
        """Clean first, then every corruption at every severity."""
        grid = [(name.value, float(severity)) for name in self.corruptions for severity in self.severities]
        return tuple(Condition(name=name, level=level, claim=Claim.ACCURACY) for name, level in [("clean", 0.0), *grid])


class Backdrop(StrEnum):
    """What stands behind the object."""

    SAME_CLASS = "same-class"
    OTHER_CLASS = "other-class"
    ONLY_FOREGROUND = "only-foreground"
    ONLY_BACKGROUND = "only-background"

    @property
    def needs_donor(self) -> bool:
        """It takes the background of another image."""
        return self in (Backdrop.SAME_CLASS, Backdrop.OTHER_CLASS)


@configuration
class Backgrounds(Measurement):
    """Accuracy and mask IoU in front of other backgrounds, and in front of the own one."""

    threat: ClassVar[str] = "background"
    observed_by: ClassVar[str] = "pipeline.attacks.backgrounds:observe_backdrop"

    kind: Literal["backgrounds"] = "backgrounds"
    """Accuracy of the same objects in front of other backgrounds, and of objects and backgrounds alone."""
    backdrops: Annotated[tuple[Backdrop, ...], Field(min_length=1)] = tuple(Backdrop)
    """same-class and other-class (their difference is the BG-gap), only-foreground, only-background."""

    def conditions(self) -> tuple[Condition, ...]:
        """The images as they are first, then every backdrop."""
        names = ["original", *(backdrop.value for backdrop in self.backdrops)]
        return tuple(Condition(name=name, level=0.0, claim=Claim.ACCURACY) for name in names)


@configuration
class Smoothing(Measurement):
    """Certified radii of the smoothed system, and what an attack on the smoothed system leaves standing."""

    threat: ClassVar[str] = "l2"
    observed_by: ClassVar[str] = "pipeline.attacks.smoothing:observe_smoothed"

    kind: Literal["smoothing"] = "smoothing"
    """Certified l2 radii of the system under randomized smoothing, beside an attack on the same smoothed system."""
    sigma: Annotated[Number, Field(gt=0, le=1000)] = 0.25
    """Standard deviation of the noise on an image in [0,1], above 0."""
    num_selection: Count = 100
    """Forward passes that choose the class, at least 1."""
    num_draws: Count = 1000
    """Forward passes that certify it, and that judge an attacked image, at least 1."""
    error_rate: Annotated[Number, Field(gt=0, lt=0.5)] = 0.001
    """Probability with which a certificate may be wrong, per image."""
    radii: tuple[Annotated[Number, Field(gt=0, le=10_000)], ...] = (0.25, 0.5, 1.0)
    """Euclidean radii at which the smoothed system is attacked as well; none is allowed."""
    num_steps: Count = 20
    """Gradient steps of that attack, at least 1."""
    attack_draws: Count = 8
    """Draws of the noise that each of its steps averages over, at least 1."""

    def conditions(self) -> tuple[Condition, ...]:
        """The certificates, then an attack at every radius."""
        attacks = [Condition(name="attacked", level=radius, claim=Claim.UPPER_ESTIMATE) for radius in self.radii]
        return (Condition(name="certified", level=self.sigma, claim=Claim.LOWER_BOUND), *attacks)

    def passes(self, num_classes: int) -> Passes:  # noqa: ARG002
        """The votes of the certificate and of every attacked image, and the draws of every step."""
        steps = len(self.radii) * self.num_steps * self.attack_draws
        return Passes(forward=self.num_selection + (1 + len(self.radii)) * self.num_draws + steps, backward=steps)


MeasurementSpec = Annotated[
    MinimumNorm | DecisionBased | Patches | Corruptions | Backgrounds | Smoothing, Field(discriminator="kind")
]
