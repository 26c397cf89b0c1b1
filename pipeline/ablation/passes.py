"""How many passes through the stages a job costs. They are counted, not timed: what a pass takes, the first job of a kind tells."""

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.job import ImageCounts, Passes
from pipeline.attacks.specs import Conditions
from pipeline.attacks.suite import AttackSuite
from pipeline.masks.traits import MaskTraits
from pipeline.training.objectives import Objective


def training_passes(objective: Objective, counts: ImageCounts, *, epochs: int, behind_segmenter: bool) -> Passes:
    """Of one training, exact but for a last batch that is not full and for those tried first. Behind a segmenter: of both."""
    step, train, val = objective.step_passes, epochs * counts.train, counts.val
    trained, attacked = train * step.trained, train * step.attacked
    scored = train * step.scored + epochs * val + val + counts.test
    if (validation := objective.validation_attack()) is not None:
        robust, most = validation
        checked = epochs * min(val, most)
        attacked += checked * robust.num_steps * robust.restarts
        scored += checked * (robust.restarts + robust.random_start)  # the points that no step begins at
        scored += 2 * checked  # the answers to the clean and to the worst image
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
