"""What can be chosen of the live laboratory: of the command, and in its page. Nothing here imports torch."""

import dataclasses
import math
from functools import cache
from typing import Annotated, Literal

from pydantic import Field

from pipeline.attacks.shipped import suites
from pipeline.attacks.specs import AttackSpec, ClassAttack, GuidedAttack, MaskAttack, MaskGoal
from pipeline.attacks.threat import Epsilon, Norm, Region, ThreatModel, check_epsilon
from pipeline.config import AnyPath, Seed, Whole, configuration
from pipeline.errors import ConfigError

MOST_STEPS = 200
MOST_ARMS = 4
"""Side by side."""


@configuration
class LabConfig:
    """Watch attacks on a trained system live, in a page of this machine."""

    run: AnyPath
    """Where the systems are: an ablation (its finished systems, side by side), an evaluation, a directory of foreguard export, or a
    run of train-classifier or train-joint, also one that is not finished. It is only read."""
    prepared: AnyPath | None = None
    """The prepared data set whose test images are attacked; null: the one that the system was trained on. Photos need none."""
    segmenter_run: AnyPath | None = None
    """Another segmenter, by its run or the JSON of a checkpoint; null: the one of the system. Not of an ablation."""
    host: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:-]+$")] = "127.0.0.1"
    """Address that the page is served at. Anything but the loopback address lets others on the network use it, and upload to it."""
    port: Annotated[Whole, Field(ge=0, le=65_535)] = 7860
    """Its port; 0: any that is free."""
    browser: bool = True
    """Open the page in the browser of the desktop, where there is one."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device; auto takes a GPU where there is one."""


@cache
def lab_attacks() -> dict[str, AttackSpec]:
    """The attacks of the suite ``standard`` that can be watched: one search along a gradient, or two, from one start.

    Left out are those towards chosen classes (one search for each), what needs a pool of other masks, and those without a gradient.

    >>> list(lab_attacks())[:3]
    ['pgd-margin', 'apgd-ce', 'apgd-margin']
    """
    return {name: spec for name, spec in suites()["standard"].attacks.items() if _can_be_watched(spec)}


def _can_be_watched(spec: AttackSpec) -> bool:
    if isinstance(spec, ClassAttack):
        return not spec.num_targets
    return isinstance(spec, MaskAttack | GuidedAttack) and spec.goal != MaskGoal.STEAL


@configuration
class Settings:
    """What is moved in the page: one attack."""

    attack: str = "apgd-margin"
    """By its name among ``lab_attacks``."""
    norm: Norm = "linf"
    """Of the perturbation."""
    epsilon: Epsilon = 8 / 255
    """Largest norm of the perturbation."""
    steps: Annotated[Whole, Field(ge=1, le=MOST_STEPS)] = 20
    """Gradient steps, of both phases together where there are two."""
    region: Region = Region.EVERYWHERE
    """Pixels that may change."""
    seed: Seed = 0
    """Decides the random start."""

    def __post_init__(self) -> None:
        check_epsilon(self.norm, self.epsilon)
        if self.attack not in lab_attacks():
            raise ConfigError(f"attack: {self.attack!r} is none of {', '.join(lab_attacks())}")

    @property
    def spec(self) -> AttackSpec:
        """The attack of that name with one start and so many steps."""
        spec = lab_attacks()[self.attack]
        if isinstance(spec, GuidedAttack):
            first = math.ceil(self.steps / 2)
            return dataclasses.replace(spec, mask_steps=first, class_steps=max(1, self.steps - first), restarts=1)
        assert isinstance(spec, ClassAttack | MaskAttack)
        return dataclasses.replace(spec, num_steps=self.steps, restarts=1)

    @property
    def threat(self) -> ThreatModel:
        """What the attacker may change."""
        return ThreatModel(norm=self.norm, epsilons=(self.epsilon,), region=self.region)
