"""How many passes through the stages a job costs. They are counted, not timed: what a pass takes, the first job of a kind tells."""

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.job import ImageCounts, Passes
from pipeline.attacks.runner import num_starts
from pipeline.attacks.specs import (
    AttackSpec,
    AttackSuite,
    AutoAttack,
    ClassAttack,
    GuidedAttack,
    MaskAttack,
    SquareAttack,
    inapplicable,
)
from pipeline.masks.config import MaskConfig
from pipeline.system import MaskTraits
from pipeline.training.objectives import AdversarialConfig, NaturalConfig, TradesConfig

_GRADIENT_PASSES_OF_AUTOATTACK = {"apgd-ce": 100, "apgd-dlr": 100, "apgd-t": 900, "fab": 100, "fab-t": 900}


def training_passes(
    objective: NaturalConfig | AdversarialConfig | TradesConfig, counts: ImageCounts, *, epochs: int, behind_segmenter: bool
) -> Passes:
    """Of one training, exact but for a last batch that is not full. Behind a segmenter every image passes that too."""
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


def attack_passes(ablation: AblateConfig, suite: AttackSuite, masks: MaskConfig, counts: ImageCounts) -> Passes:
    """Of a suite on a system, if no image falls before the end: fallen ones leave, so it takes fewer."""
    images, side = attacked_images(ablation, counts), ablation.data.image_size
    strengths = sum(epsilon > 0 for epsilon in suite.threat.epsilons)
    stages = 2 if masks.source.is_learned else 1
    forward = backward = 0
    for spec in suite.attacks.values():
        if not inapplicable(spec, MaskTraits.of(masks), suite.threat, image_shape=(side, side), has_guides=True, has_oracle=True):
            passes = _passes_of(spec, counts.classes)
            forward, backward = forward + passes.forward, backward + passes.backward
    return Passes(forward=images * strengths * stages * forward, backward=images * strengths * stages * backward)


def attacked_images(ablation: AblateConfig, counts: ImageCounts) -> int:
    """How many images every arm is attacked on."""
    images: int = getattr(counts, ablation.evaluation.split)
    return min(images, ablation.evaluation.max_images or images)


def _passes_of(spec: AttackSpec, num_classes: int) -> Passes:
    """Of an attack on an image that it never fells."""
    starts = num_starts(spec, num_classes)
    match spec:
        case ClassAttack() | MaskAttack():
            return Passes(forward=starts * spec.num_steps, backward=starts * spec.num_steps)
        case GuidedAttack():
            steps = starts * (spec.mask_steps + spec.class_steps)
            return Passes(forward=steps, backward=steps)
        case SquareAttack():
            return Passes(forward=starts * spec.num_queries, backward=0)
        case AutoAttack():
            gradients = sum(_GRADIENT_PASSES_OF_AUTOATTACK.get(member, 0) for member in spec.attacks)
            queries = sum(spec.num_queries for member in spec.attacks if member not in _GRADIENT_PASSES_OF_AUTOATTACK)
            return Passes(forward=gradients + queries, backward=gradients)
