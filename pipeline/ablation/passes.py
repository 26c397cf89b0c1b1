"""How many passes through the stages a job costs. They are counted, not timed: what a pass takes, the first job of a kind tells."""

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.job import ImageCounts, Passes
from pipeline.attacks.specs import Conditions
from pipeline.attacks.suite import AttackSuite
from pipeline.masks.traits import MaskTraits
from pipeline.training.objectives import AdversarialConfig, NaturalConfig, TradesConfig


def training_passes(
    objective: NaturalConfig | AdversarialConfig | TradesConfig, counts: ImageCounts, *, epochs: int, behind_segmenter: bool
) -> Passes:
    """Of one training, exact but for a last batch that is not full and for those tried first. Behind a segmenter: of both."""
    train, val = counts.train, counts.val
    trained, scored, attacked = epochs * train, epochs * val + val + counts.test, 0
    if not isinstance(objective, NaturalConfig):
        robust, checked = objective.validation.attack or objective.attack, min(val, objective.validation.max_images)
        attacked = epochs * (train * objective.attack.num_steps + checked * robust.num_steps * robust.restarts)
        scored += epochs * (train + checked)  # the last points of the attacks
    if isinstance(objective, TradesConfig):
        trained, scored = 2 * trained, scored + epochs * train  # clean and attacked; the clean logits that are climbed away from
    own = Passes(forward=trained + scored + attacked, backward=trained + attacked)
    if not behind_segmenter:
        return own
    return Passes(forward=2 * own.forward, backward=own.backward + attacked)


def attack_passes(ablation: AblateConfig, suite: AttackSuite, traits: MaskTraits, counts: ImageCounts, *, stages: int) -> Passes:
    """Of a suite and its measurements on a system, if every image is robust: misclassified ones leave, so it takes fewer."""
    images, side = attacked_images(ablation, counts), ablation.data.image_size
    strengths = sum(epsilon > 0 for epsilon in suite.threat.epsilons)
    forward = backward = 0
    conditions = Conditions(traits=traits, threat=suite.threat, image_shape=(side, side), has_guides=True, has_oracle=True)
    for spec in suite.attacks.values():
        if not spec.why_skipped(conditions):
            passes = spec.passes(counts.classes)
            forward, backward = forward + strengths * passes.forward, backward + strengths * passes.backward
    for measurement in suite.measurements.values():
        passes = measurement.passes(counts.classes)
        forward, backward = forward + passes.forward, backward + passes.backward
    return Passes(forward=images * stages * forward, backward=images * stages * backward)


def attacked_images(ablation: AblateConfig, counts: ImageCounts) -> int:
    """How many images every arm is attacked on."""
    images: int = getattr(counts, ablation.evaluation.split)
    return min(images, ablation.evaluation.max_images or images)
