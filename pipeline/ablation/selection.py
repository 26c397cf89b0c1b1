"""How the arms of an ablation are evaluated, and what more can be asked of main ones: whether their robustness is false, attackers
who may change a part of the image, and images that were made on another arm."""

import dataclasses
from typing import Annotated

from pydantic import Field

from pipeline.ablation.recipes import Labels
from pipeline.config import Count, Whole, configuration
from pipeline.evaluation.config import EvaluationBasics
from pipeline.masks.config import MaskSource

_SOURCES = (MaskSource.NONE, MaskSource.ORACLE, MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.JOINT)


@configuration
class SanitySettings:
    """Which main arms are searched for what gives false robustness away."""

    objectives: Labels | None = None
    """Of their classifiers, out of classifier_objectives; null: of all."""
    sources: tuple[MaskSource, ...] = _SOURCES
    """Of their masks in testing. An answer that compares an arm which was not checked is not trusted."""
    images: Count = 64
    """Images that the checks use, and as many again of those that the records leave standing."""


@configuration
class EvaluationSettings(EvaluationBasics):
    """How every arm is evaluated; the gallery is that of main arms."""

    save_images: bool = True
    """Keep the adversarial images of arms with learned masks, float32: the decomposition scores them again."""
    sanity: SanitySettings | None = dataclasses.field(default_factory=SanitySettings)
    """Also look for what gives false robustness away; null: no."""


@configuration
class SurfaceConfig:
    """The same attacks by attackers confined to the foreground, to the background, and to an L2 length in the foreground."""

    objectives: Labels | None = None
    """Of the classifiers of the arms that are attacked so, out of classifier_objectives; null: all of these."""
    sources: tuple[MaskSource, ...] = _SOURCES
    """Of their masks in testing. Without none among them there is nothing to compare with."""


@configuration
class TransferConfig:
    """Adversarial images of each arm, made by an attack that runs to its end, are shown to all the others, under every seed."""

    objectives: Labels | None = None
    """Of the classifiers of the arms that take part, out of classifier_objectives; null: all of these."""
    sources: tuple[MaskSource, ...] = _SOURCES
    """Of their masks in testing."""
    num_steps: Count = 50
    """Gradient steps of the attack (Auto-PGD on the margin), at least 1."""
    restarts: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """Its random starts, at least 1."""
