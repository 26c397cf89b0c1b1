"""A report as a whole, before it becomes a page or files: what stands in it, in which order, and what is missing and why."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.evaluation.answers import commonest_answer
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import plots, tables, wording
from pipeline.reporting.comparisons import Answer
from pipeline.reporting.data import SanityCheck, Study
from pipeline.reporting.decomposition import decomposition_section, silhouette_section
from pipeline.reporting.findings import Findings, SystemFigures, find
from pipeline.reporting.gallery import Cards, gallery_cards, system_text
from pipeline.reporting.making import configuration_text, made
from pipeline.reporting.plots import Panel
from pipeline.reporting.section import Section
from pipeline.reporting.table import Table


@dataclass(frozen=True, kw_only=True)
class AnswerCard:
    """What is said of one classifier objective."""

    heading: str
    sentences: tuple[str, ...]
    note: str | None
    figures: tuple[tuple[str, str, str, str], ...]
    """Name, points, interval and p of each comparison, as text."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed sanity check of one system, to stand under the headline."""

    system: str
    name: str
    findings: tuple[str, ...]
    """Of each seed that failed."""
    advice: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """Everything that a page shows."""

    title: str
    subtitle: str
    how_to_read: tuple[str, ...]
    answers: tuple[AnswerCard, ...]
    unanswered: str | None
    """Why there is no answer, where there is none."""
    failures: tuple[Failure, ...]
    sections: tuple[Section, ...]
    gallery: Cards
    made: tuple[tuple[str, str], ...]
    """What the run was made of, as pairs of a name and text."""
    configuration: str
    missing: tuple[str, ...]

    def tables(self) -> Iterator[Table]:
        for section in self.sections:
            yield from (*section.tables, *section.folded)

    def panels(self) -> Iterator[Panel]:
        for section in self.sections:
            yield from section.panels


def compose(study: Study) -> Document:
    """Work out a report. Raises RunError for damaged files of the run."""
    findings = find(study)
    return Document(
        title=study.name,
        subtitle=_subtitle(study),
        how_to_read=_how_to_read(study, findings),
        answers=tuple(_answer_card(study, answer) for answer in findings.answers if answer.comparisons),
        unanswered=None if findings.comparisons else _unanswered(study),
        failures=_failures(study),
        sections=(
            _headline(study, findings),
            _robustness(study, findings),
            _masks(study, findings),
            _degradation(study, findings),
            decomposition_section(study),
            silhouette_section(study),
        ),
        gallery=gallery_cards(study),
        made=made(study),
        configuration=configuration_text(study),
        missing=study.missing,
    )


def _unvaried(study: Study) -> Iterator[Failure]:
    """Systems that answer nearly the same to everything: what they get right under attack says nothing about masks."""
    for condition, arms in study.by_condition("main").items():
        findings = []
        for arm in arms:
            answer, classes = commonest_answer(arm.records), arm.summary.get("classes")
            if answer.suspicious:
                findings.append(f"seed {arm.seed}: {answer.text(classes[answer.label] if classes else None)}")
        if findings:
            advice = "compare it with nothing; train longer, at a smaller epsilon, or on classes that are alike in size"
            yield Failure(system=system_text(condition), name="answers vary", findings=tuple(findings), advice=advice)


def _failures(study: Study) -> tuple[Failure, ...]:
    found: dict[tuple[str, str], list[tuple[int, SanityCheck]]] = {}
    for arm in study.arms:
        for check in arm.checks or ():
            if check.outcome == "FAIL":
                found.setdefault((system_text(arm.condition), check.name), []).append((arm.seed, check))
    return tuple(
        Failure(
            system=system,
            name=name,
            findings=tuple(f"seed {seed}: {check.finding}" for seed, check in failed),
            advice=failed[0][1].advice,
        )
        for (system, name), failed in found.items()
    ) + tuple(_unvaried(study))


def _subtitle(study: Study) -> str:
    summary = study.arms[0].summary
    strength = wording.threat_text(study, study.epsilons[-1])
    return f"{summary['data']} data, {wording.sample_text(study)}, {strength}"


def _how_to_read(study: Study, findings: Findings) -> tuple[str, ...]:
    threat = wording.threat_text(study, study.epsilons[-1])
    paragraphs: tuple[str, ...] = (
        "A system here is a mask that hides the background of an image, and a classifier that sees what is left. "
        f"An attacker who knows all of it changes each image by {threat}, so as to be misclassified.",
        "An image counts as robust only if it is classified right as it is and after every attack tried at that strength and at "
        "every smaller one. Robust accuracy is the share of such images: an upper bound, since a better attack may lower it.",
        "Oracle masks are the data set's own and stay fixed under attack. No real system has them: they show what a perfect mask "
        "would be worth. Learned masks are predicted from the attacked image, so the attack moves them as well.",
    )
    if any(len(answer.all_learned) > 1 for answer in findings.answers):
        paragraphs += (
            "Of several systems with learned masks the answer is about one, by a rule that knows no result: soft masks before hard "
            "ones, then a classifier trained with such masks, then a segmenter trained like the classifier, then a natural one.",
        )
    return (*paragraphs, _how_to_read_differences(study))


def _how_to_read_differences(study: Study) -> str:
    seeds = len({arm.seed for arm in study.arms})
    least = ", taken from the training that shows the difference least" if seeds > 1 else ""
    grouped = ""
    if wording.units(study) != "images":
        grouped = f"Images from one photograph or track are alike, so intervals and p values count {wording.units(study)}. "
    return (
        f"{grouped}Differences are between systems on the same images; p is the exact sign-flip test's{least}, corrected for the "
        "number of comparisons. It speaks of these trained models, not of others that the same recipe would give. Intervals are "
        "not corrected; where an interval and p disagree, nothing is claimed."
    )


def _answer_card(study: Study, answer: Answer) -> AnswerCard:
    return AnswerCard(
        heading=f"{wording.classifier(answer.classifier_objective)}, attacked at {wording.strength_text(study)}",
        sentences=tuple(wording.answer_sentences(answer)),
        note=wording.floor_note(answer),
        figures=tuple(
            (one.name, wording.points(one.difference), wording.points_interval(one.difference), wording.equals_p(one.adjusted))
            for one in answer.comparisons
        ),
    )


def _unanswered(study: Study) -> str:
    if not study.is_ablation:
        return (
            "This is a single evaluation: there is nothing to compare it with. foreguard ablate evaluates the systems without "
            "mask, with oracle masks and with learned masks on the same images, and its report answers the question."
        )
    return (
        "The run lacks the arms that are compared: for one classifier objective, masks none to none, oracle to oracle and any to "
        "learned. Add them to the experiment's masks and run foreguard ablate with resume=true."
    )


def _headline(study: Study, findings: Findings) -> Section:
    folded = [tables.comparisons(findings)] if findings.comparisons else []
    if any(len(figures.seeds) > 1 for figures in findings.of_role("main")):
        folded.append(tables.seeds(study, findings))
    missing = None
    if any(arm.checks is not None for arm in study.arms):
        folded.append(tables.sanity(study))
    else:
        missing = "No sanity checks were made, so nothing guards against an attack that is too weak; evaluate with sanity=true."
    if findings.of_role("diagnostic"):
        folded.append(tables.diagnostic(study, findings))
    return Section(
        name="systems",
        title="All systems",
        intro="Each row is one system: which masks its classifier was trained with, and which ones it is tested and attacked with. "
        "Compare systems of one classifier; differences with their own intervals are in the list of comparisons.",
        tables=(tables.headline(study, findings),),
        folded=tuple(folded),
        missing=missing,
    )


def _robustness(study: Study, findings: Findings) -> Section:
    norm = str(study.arms[0].summary["norm"])
    return Section(
        name="robustness",
        title="Accuracy as the attack grows stronger",
        intro="From left to right the attacker may change more. The leftmost point is the accuracy without attack. A line that "
        "stays high is a system that is hard to fool. Bars are 95 % intervals; lines are shifted sideways a little.",
        panels=tuple(
            plots.robustness(f"robustness-{slug(one)}", wording.classifier(one), findings.of_role("main", one), norm=norm)
            for one in study.classifier_objectives
        ),
    )


def _masks(study: Study, findings: Findings) -> Section:
    learned = [figures for figures in findings.of_role("main") if figures.condition.uses_segmenter]
    norm = str(study.arms[0].summary["norm"])
    groups: dict[str, list[SystemFigures]] = {}
    for figures in learned:
        groups.setdefault(figures.condition.classifier_objective, []).append(figures)
    return Section(
        name="masks",
        title="What the attack does to the mask",
        intro="How well predicted masks match the oracle, without attack and on the image that came nearest to fooling the system. "
        "An attack stops at the first success, so it moves a mask no further than it needs to.",
        tables=(tables.mask_iou(study, learned),) if learned else (),
        panels=tuple(
            plots.mask_iou(f"mask-iou-{slug(name)}", wording.classifier(name), systems, norm=norm)
            for name, systems in groups.items()
        ),
        missing=None
        if learned
        else "No arm was tested with predicted masks; add one with test: learned to the experiment's masks.",
    )


def _degradation(study: Study, findings: Findings) -> Section:
    worse = findings.of_role("degradation")
    trained = {(figures.condition.classifier_objective, figures.condition.train_masks) for figures in worse}
    placed = [
        figures
        for figures in findings.of_role("main")
        if (figures.condition.classifier_objective, figures.condition.train_masks) in trained
        and (figures.condition.test_masks == "oracle" or figures.condition.uses_segmenter)
    ]
    panels, epsilon = [], study.headline
    for name in dict.fromkeys(figures.condition.classifier_objective for figures in worse):
        chosen = [figures for figures in (*placed, *worse) if figures.condition.classifier_objective == name]
        panels.append(plots.degradation(f"degradation-{slug(name)}", wording.classifier(name), chosen, epsilon=epsilon))
    return Section(
        name="degradation",
        title="How good must the mask be?",
        intro=f"Oracle masks made worse on purpose and held fixed, at strength {epsilon_text(epsilon)}. The larger symbol is the "
        "learned mask, placed by its quality without attack; the arrow leads to the quality that is left of it under attack. "
        "Where the arrow ends far below the curve, learned masks lose more than their imperfection explains.",
        tables=(tables.degradation(study, [*placed, *worse]),) if worse else (),
        panels=tuple(panels),
        missing=None if worse else "Degraded masks were not evaluated; an ablation with degradation in its experiment does.",
    )


def slug(text: str) -> str:
    """A part of a file name, whatever the text."""
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in text.lower())[:40]
