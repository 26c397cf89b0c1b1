"""Figures in words, for people who have not read the source. A sentence never claims more than its interval and its test."""

from collections.abc import Callable

from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting.comparisons import SIGNIFICANT, Answer
from pipeline.reporting.data import Condition, Study
from pipeline.reporting.templating import sentences

FLOOR = 0.05
"""Robust accuracy up to which nearly nothing stands, so that systems can hardly differ."""

TRAINED = {
    "natural": "Naturally trained classifier",
    "adversarial": "Adversarially trained classifier",
    "not recorded": "Classifier whose training is not recorded",
}
NORMS = {"linf": "L-infinity", "l2": "L2", "l1": "L1", "patch": "square-patch"}


def classifier(objective: str) -> str:
    """``Adversarially trained classifier``"""
    return TRAINED.get(objective, f"Classifier trained with {objective}")


def heading(condition: Condition) -> str:
    """What a system stands under in a table: ``Adversarially trained classifier``, ``System of your own: our-model``"""
    name = condition.classifier_objective
    return f"System of your own: {name}" if condition.is_own else classifier(name)


def system_text(condition: Condition) -> str:
    """``Naturally trained classifier; masks in training: oracle; in testing: random``"""
    if condition.is_own:
        return f"{heading(condition)}; masks: {condition.tested}"
    return f"{classifier(condition.classifier_objective)}; masks in training: {condition.trained}; in testing: {condition.tested}"


def points(estimate: Estimate) -> str:
    """``+4.5``; the heading says that it is percentage points."""
    return estimate.number("+.1f")


def points_interval(estimate: Estimate) -> str:
    """``[+1.2, +7.9]``"""
    return estimate.interval("+.1f")


def p_text(p_value: float) -> str:
    """``0.031``; never 0, and never rounded up to the level that it stays below."""
    if p_value < 0.001:
        return "< 0.001"
    digits = 3
    while p_value < SIGNIFICANT <= float(f"{p_value:.{digits}g}"):
        digits += 1
    return f"{p_value:.{digits}g}" if p_value < 0.1 else f"{p_value:.2f}"


def equals_p(p_value: float) -> str:
    """``p = 0.031`` or ``p < 0.001``"""
    text = p_text(p_value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def epsilon_or_clean(epsilon: float) -> str:
    """``8/255``; ``clean`` where nothing is attacked."""
    return epsilon_text(epsilon) if epsilon else "clean"


def threat_text(study: Study) -> str | None:
    """``L-infinity perturbations up to 8/255``, with the region where it is not the whole image; None: at no epsilon above 0."""
    return f"{perturbations(study)} up to {epsilon_text(study.epsilons[-1])}" if study.attacked else None


def perturbations(study: Study) -> str:
    """The same of any size."""
    summary = study.arms[0].summary
    where = "" if summary.region == "everywhere" else f" on the {summary.region}"
    return f"{NORMS.get(summary.norm, summary.norm)} perturbations{where}"


def hides_seeds(study: Study) -> bool:
    """The attacker lacks the seeds of random masks and noise fills: figures are higher than under one who knows all."""
    threat = study.arms[0].about["config"]["attack"].get("threat") or {}
    return bool(threat.get("knowledge") == "hidden-seed")


def sample_text(study: Study) -> str:
    """``245 test images from 67 photographs or tracks, 2 training seeds``"""
    (images, groups), seeds = study.sample, len({arm.seed for arm in study.arms})
    source = f" from {groups} {units(study)}" if groups < images else ""
    return f"{images} {study.arms[0].summary.split} images{source}, {seeds} training seed{'s' if seeds != 1 else ''}"


def units(study: Study) -> str:
    """What is independent of each other: images, or that which several of them were cut from."""
    images, groups = study.sample
    return "photographs or tracks" if groups < images else "images"


def pooling_text(study: Study, *, of_shares: bool = True) -> str:
    """What the intervals of shares, or of means, cover, and what they do not."""
    seeds = len({arm.seed for arm in study.arms})
    if seeds == 1:
        grouped = "" if units(study) == "images" else f", for independent {units(study)}"
        kind = "Wilson" if of_shares else "Bootstrap (BCa)"
        return f"{kind} intervals{grouped}; one training each, so they say nothing about training again."
    part = f"; {seeds} trainings show only part of the variation between trainings" if seeds < 5 else ""
    return f"Resampled over {units(study)} and these {seeds} trainings{part}."


def learned_system(condition: Condition, details: str = " ({})") -> str:
    """``learned masks (classifier trained with oracle masks, natural segmenter)``; ``details`` says how they are attached."""
    with_masks = "them" if condition.train_masks == condition.test_masks else f"{condition.train_masks} masks"
    trained = f"classifier trained with {with_masks}, {condition.segmenter_objective} segmenter"
    return f"{condition.test_masks} masks{details.format(trained)}"


def answer_sentences(answer: Answer) -> list[str]:
    """What perfect masks do, what is left of it when the masks are predicted and attacked as well, and whether that holds for all
    systems with predicted masks: at most three sentences."""
    return sentences("answer.txt", _FILTERS, answer=answer, learned_system=learned_system)


def floor_note(answer: Answer) -> str | None:
    """A warning where hardly any image stands, so that no difference could show."""
    if not answer.comparisons or max(max(one.first_value, one.second_value) for one in answer.comparisons) > FLOOR:
        return None
    return (
        "At this epsilon hardly any image survives under any of these systems, so it cannot tell them apart. "
        "The smaller ones in the tables below say more."
    )


def slug(text: str) -> str:
    """A part of a file name, whatever the text."""
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in text.lower())[:40]


_FILTERS: dict[str, Callable[..., str]] = {
    "points": points,
    "points_interval": points_interval,
    "p_text": p_text,
    "equals_p": equals_p,
    "share_text": lambda value: f"{100 * value:.1f} %",
    "size": lambda difference: f"{abs(100 * difference.value):.1f}",
    "round_points": lambda value: f"{100 * value:.2g}",
}
