"""Figures in words, for people who have not read the source. A sentence never claims more than its interval and its test."""

from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting.findings import Answer, Comparison, Conclusion
from pipeline.reporting.study import Study

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
    """``0.031``; never 0."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


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
    """``200 test images, 2 training seeds``"""
    images, seeds = num_images(study), len({arm.seed for arm in study.arms})
    return f"{images} {study.arms[0].summary['split']} images, {seeds} training seed{'s' if seeds != 1 else ''}"


def num_images(study: Study) -> int:
    """The most images that an arm has met."""
    return max(arm.records["sample_id"].n_unique() for arm in study.arms)


def strength_text(study: Study) -> str:
    """``8/255``, the strength that the answer is about."""
    return epsilon_text(study.headline)


def answer_sentences(answer: Answer) -> list[str]:
    """At most two sentences: what perfect masks do, and what is left of it when the masks are predicted and attacked as well."""
    sentences = []
    if answer.oracle_none is not None:
        sentences.append(_oracle_sentence(answer.oracle_none))
    against_none, behind = answer.learned_none, answer.oracle_learned
    parts = []
    if against_none is not None:
        parts.append(_learned_clause(against_none))
    if behind is not None:
        parts.append(_behind_clause(behind))
    if parts:
        sentences.append("When the masks are predicted and attacked together with the classifier, " + ", and ".join(parts) + ".")
    return sentences


def floor_note(answer: Answer) -> str | None:
    """A warning where hardly any image stands, so that no difference could show."""
    if not answer.comparisons or max(max(one.first_value, one.second_value) for one in answer.comparisons) > FLOOR:
        return None
    return (
        "At this strength hardly any image survives under any of these systems, so it cannot tell them apart. "
        "The smaller strengths in the tables below say more."
    )


def _figures(comparison: Comparison) -> str:
    difference = comparison.difference
    return f"{points(difference)} points, interval {points_interval(difference)}, {equals_p(comparison.adjusted)}"


def _levels(comparison: Comparison) -> str:
    return f"from {100 * comparison.second_value:.1f} % to {100 * comparison.first_value:.1f} %"


def _oracle_sentence(comparison: Comparison) -> str:
    masks = "Removing the background with the data set's own (oracle) masks"
    match comparison.conclusion:
        case Conclusion.HIGHER:
            return f"{masks} raises robust accuracy {_levels(comparison)} ({_figures(comparison)})."
        case Conclusion.LOWER:
            return f"{masks} lowers robust accuracy {_levels(comparison)} ({_figures(comparison)})."
        case Conclusion.UNCONFIRMED:
            return (
                f"{masks} changes robust accuracy {_levels(comparison)}, which the test, corrected for the number of comparisons, "
                f"does not confirm ({_figures(comparison)})."
            )
        case Conclusion.OPEN:
            figures = f"{_figures(comparison)}{_blind(comparison)}"
            return f"{masks} makes no difference to robust accuracy that this sample could show ({figures})."


def _learned_clause(comparison: Comparison) -> str:
    masks = f"{comparison.first.test_masks} masks"
    match comparison.conclusion:
        case Conclusion.HIGHER:
            return f"{masks} are still better than none ({_figures(comparison)})"
        case Conclusion.LOWER:
            return f"{masks} are worse than none ({_figures(comparison)})"
        case Conclusion.UNCONFIRMED:
            side = "better" if comparison.difference.value > 0 else "worse"
            return f"{masks} look {side} than none, which the corrected test does not confirm ({_figures(comparison)})"
        case Conclusion.OPEN:
            return f"{masks} cannot be told from none ({_figures(comparison)}{_blind(comparison)})"


def _behind_clause(comparison: Comparison) -> str:
    difference = comparison.difference
    figures = f"interval {points_interval(difference)}, {equals_p(comparison.adjusted)}"
    size = f"{abs(100 * difference.value):.1f} points"
    match comparison.conclusion:
        case Conclusion.HIGHER:
            return f"they lose {size} against the oracle's (oracle minus {comparison.second.test_masks}: {figures})"
        case Conclusion.LOWER:
            return f"they gain {size} over the oracle's (oracle minus {comparison.second.test_masks}: {figures})"
        case Conclusion.UNCONFIRMED:
            side = "below" if difference.value > 0 else "above"
            return f"they come out {size} {side} the oracle's, which the corrected test does not confirm ({figures})"
        case Conclusion.OPEN:
            return f"they cannot be told from the oracle's ({_figures(comparison)}{_blind(comparison)})"


def _blind(comparison: Comparison) -> str:
    if comparison.detectable is None:
        return ""
    return f"; only about {100 * comparison.detectable:.0f} points or more would have shown"
