"""How the arms of an ablation are evaluated."""

import dataclasses

from pipeline.ablation.recipes import Labels
from pipeline.config import Count, configuration
from pipeline.evaluation.config import EvaluationBasics
from pipeline.masks.config import MaskSource


@configuration
class SanitySettings:
    """Which main arms are searched for what gives false robustness away."""

    objectives: Labels | None = None
    """Of their classifiers, out of classifier_objectives; null: of all."""
    sources: tuple[MaskSource, ...] = (
        MaskSource.NONE,
        MaskSource.ORACLE,
        MaskSource.LEARNED,
        MaskSource.LEARNED_HARD,
        MaskSource.JOINT,
    )
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
