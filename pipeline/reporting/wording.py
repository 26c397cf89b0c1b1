"""Figures in words, for people who have not read the source. A sentence never claims more than its interval and its test."""

from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting.comparisons import SIGNIFICANT, Answer, Comparison, Conclusion
from pipeline.reporting.data import Condition, Study

FLOOR = 0.05
"""Robust accuracy up to which nearly nothing stands, so that systems can hardly differ."""

TRAINED = {"natural": "Naturally trained classifier", "adversarial": "Adversarially trained classifier"}
NORMS = {"linf": "L-infinity", "l2": "L2"}


def classifier(objective: str) -> str:
    """``Adversarially trained classifier``"""
    return TRAINED.get(objective, f"Classifier trained with {objective}")


def percent(estimate: Estimate) -> str:
    """``61.5``; the heading says that it is percent."""
    return f"{100 * estimate.value:.1f}"


def percent_interval(estimate: Estimate) -> str:
    """``[54.6, 68.0]``"""
    return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def points(estimate: Estimate) -> str:
    """``+4.5``; the heading says that it is percentage points."""
    return f"{100 * estimate.value:+.1f}"


def points_interval(estimate: Estimate) -> str:
    """``[+1.2, +7.9]``"""
    return f"[{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


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


def threat_text(study: Study, epsilon: float) -> str:
    """``L-infinity perturbations up to 8/255``, with the region where it is not the whole image."""
    summary = study.arms[0].summary
    where = "" if summary["region"] == "everywhere" else f" on the {summary['region']}"
    return f"{NORMS.get(summary['norm'], summary['norm'])} perturbations{where} up to {epsilon_text(epsilon)}"


def sample_text(study: Study) -> str:
    """``245 test images from 67 photographs or tracks, 2 training seeds``"""
    (images, groups), seeds = study.sample, len({arm.seed for arm in study.arms})
    source = f" from {groups} {units(study)}" if groups < images else ""
    return f"{images} {study.arms[0].summary['split']} images{source}, {seeds} training seed{'s' if seeds != 1 else ''}"


def units(study: Study) -> str:
    """What is independent of each other: images, or that which several of them were cut from."""
    images, groups = study.sample
    return "photographs or tracks" if groups < images else "images"


def pooling_text(study: Study) -> str:
    """What the intervals cover, and what they do not."""
    seeds = len({arm.seed for arm in study.arms})
    if seeds == 1:
        grouped = "" if units(study) == "images" else f", for independent {units(study)}"
        return f"Wilson intervals{grouped}; one training each, so they say nothing about training again."
    part = f"; {seeds} trainings show only part of the variation between trainings" if seeds < 5 else ""
    return f"Resampled over {units(study)} and these {seeds} trainings{part}."


def learned_system(condition: Condition, details: str = " ({})") -> str:
    """``learned masks (classifier trained with oracle masks, natural segmenter)``; ``details`` says how they are attached."""
    with_masks = "them" if condition.train_masks == condition.test_masks else f"{condition.train_masks} masks"
    trained = f"classifier trained with {with_masks}, {condition.segmenter_objective} segmenter"
    return f"{condition.test_masks} masks{details.format(trained)}"


def strength_text(study: Study) -> str:
    """``8/255``, the strength that the answer is about."""
    return epsilon_text(study.headline)


def answer_sentences(answer: Answer) -> list[str]:
    """What perfect masks do, what is left of it when the masks are predicted and attacked as well, and whether that holds for all
    systems with predicted masks: at most three sentences."""
    sentences = []
    if answer.oracle_none is not None:
        sentences.append(_oracle_sentence(answer.oracle_none))
    against_none, behind = answer.learned_none, answer.oracle_learned
    parts = [] if against_none is None else [_learned_clause(against_none)]
    if behind is not None:
        parts.append(_behind_clause(behind, "they" if parts else learned_system(behind.second)))
    if parts:
        sentences.append("When the masks are predicted and attacked together with the classifier, " + ", and ".join(parts) + ".")
    if against_none is not None and len(answer.all_learned) > 1:
        sentences.append(_agreement_sentence(against_none, answer.all_learned))
    return sentences


def floor_note(answer: Answer) -> str | None:
    """A warning where hardly any image stands, so that no difference could show."""
    if not answer.comparisons or max(max(one.first_value, one.second_value) for one in answer.comparisons) > FLOOR:
        return None
    return (
        "At this strength hardly any image survives under any of these systems, so it cannot tell them apart. "
        "The smaller strengths in the tables below say more."
    )


def _agreement_sentence(subject: Comparison, every: tuple[Comparison, ...]) -> str:
    alike = sum(one.conclusion is subject.conclusion for one in every)
    whole = "both" if len(every) == 2 else f"all {len(every)}"
    count = {1: f"this one alone of the {len(every)}", len(every): whole}.get(alike, f"{alike} of the {len(every)}")
    best, worst = (choose(every, key=lambda one: one.difference.value) for choose in (max, min))
    named = [f"{points(one.difference)} points, {learned_system(one.first, ', {}')}" for one in (best, worst)]
    spread = f"each {points(best.difference)} points" if best is worst else f"best: {named[0]}; worst: {named[1]}"
    return f"Against none that is the conclusion for {count} learned systems ({spread})."


def _figures(comparison: Comparison) -> str:
    difference = comparison.difference
    return f"{points(difference)} points, interval {points_interval(difference)}, {_tested(comparison)}"


def _tested(comparison: Comparison) -> str:
    alone = f" corrected, {p_text(comparison.p_value)} alone" if comparison.conclusion is Conclusion.UNCONFIRMED else ""
    return f"{equals_p(comparison.adjusted)}{alone}"


def _percents(comparison: Comparison) -> tuple[str, str]:
    """Robust accuracy of the first and of the second."""
    return f"{100 * comparison.first_value:.1f} %", f"{100 * comparison.second_value:.1f} %"


_NOT_CORRECTED = "a difference that does not hold when the test is corrected for the number of comparisons"


def _oracle_sentence(comparison: Comparison) -> str:
    removing = "Removing the background with the data set's own (oracle) masks"
    first, second = _percents(comparison)
    came_out = f"With the data set's own (oracle) masks robust accuracy came out at {first} against {second} without masks"
    match comparison.conclusion:
        case Conclusion.HIGHER:
            return f"{removing} raises robust accuracy from {second} to {first} ({_figures(comparison)})."
        case Conclusion.LOWER:
            return f"{removing} lowers robust accuracy from {second} to {first} ({_figures(comparison)})."
        case Conclusion.UNCONFIRMED:
            return f"{came_out}, {_NOT_CORRECTED} ({_figures(comparison)})."
        case Conclusion.OPEN:
            return f"{came_out}, which this sample cannot tell apart ({_figures(comparison)}{_blind(comparison)})."


def _learned_clause(comparison: Comparison) -> str:
    masks, (first, second) = learned_system(comparison.first), _percents(comparison)
    match comparison.conclusion:
        case Conclusion.HIGHER:
            return f"{masks} are still better than none ({_figures(comparison)})"
        case Conclusion.LOWER:
            return f"{masks} are worse than none ({_figures(comparison)})"
        case Conclusion.UNCONFIRMED:
            return f"{masks} came out at {first} against {second} with none, {_NOT_CORRECTED} ({_figures(comparison)})"
        case Conclusion.OPEN:
            figures = f"{_figures(comparison)}{_blind(comparison)}"
            return f"{masks} came out at {first} against {second} with none, which cannot be told apart ({figures})"


def _behind_clause(comparison: Comparison, they: str) -> str:
    difference, (first, second) = comparison.difference, _percents(comparison)
    minus = f"oracle minus {comparison.second.test_masks}"
    size = f"{abs(100 * difference.value):.1f} points"
    figures = f"{minus}: interval {points_interval(difference)}, {_tested(comparison)}"
    match comparison.conclusion:
        case Conclusion.HIGHER:
            return f"{they} lose {size} against the oracle's ({figures})"
        case Conclusion.LOWER:
            return f"{they} gain {size} over the oracle's ({figures})"
        case Conclusion.UNCONFIRMED:
            return (
                f"{they} came out at {second} against {first} with the oracle's, {_NOT_CORRECTED} ({minus}: {_figures(comparison)})"
            )
        case Conclusion.OPEN:
            figures = f"{minus}: {_figures(comparison)}{_blind(comparison)}"
            return f"{they} came out at {second} against {first} with the oracle's, which cannot be told apart ({figures})"


def _blind(comparison: Comparison) -> str:
    if comparison.detectable is not None:
        return f"; only about {100 * comparison.detectable:.2g} points or more would have shown"
    count = comparison.discordant
    if not count:
        return "; they differ on no image"
    return f"; they differ on {count} image{'s' if count != 1 else ''}, too few to say what would have shown"
