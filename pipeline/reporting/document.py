"""A report as a whole, before it becomes a page or files: what stands in it, in which order, and what is missing and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import plots, tables, wording
from pipeline.reporting.calibration import calibration_section
from pipeline.reporting.citation import citation, configuration_text, methods, provenance_rows
from pipeline.reporting.classes import classes_section
from pipeline.reporting.comparisons import Answer, Comparison, compared_with_own
from pipeline.reporting.data import Study
from pipeline.reporting.decomposition import decomposition_section, silhouette_section
from pipeline.reporting.figures import Figures, compute_figures, panels_of
from pipeline.reporting.gain import gain_section
from pipeline.reporting.gallery import Cards, gallery_cards
from pipeline.reporting.measured import measured_sections
from pipeline.reporting.metrics import ACCURACY, METRICS, Metric
from pipeline.reporting.panel import Panel
from pipeline.reporting.section import Section
from pipeline.reporting.surface import surface_sections
from pipeline.reporting.table import Cell, Column, Table, make_table
from pipeline.reporting.templating import sentences
from pipeline.reporting.transfer import transfer_sections
from pipeline.reporting.trust import Failure, Trust, Verdict, failures, judge, warning, without_doubtful

_OF_YOUR_OWN = (
    "Models that were not trained here, attacked with the same attacks on the same images. A positive difference: the system named "
    "first is harder to fool. What they were trained on nobody has recorded: where test images were among it, they look better "
    "than they are. Under several seeds their weights stay the same, and only the random starts of the attacks differ."
)


@dataclass(frozen=True, kw_only=True)
class AnswerCard:
    """What is said of one classifier objective."""

    heading: str
    trust: Trust
    sentences: tuple[str, ...]
    """Of an answer that is not trusted there are none."""
    note: str | None
    figures: tuple[tuple[str, str, str, str], ...]
    """Name, points, interval and p of each comparison, as text."""


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
    gallery: Cards | None
    """None: a page on several runs leaves single images to theirs."""
    methods: tuple[str, ...]
    """A paragraph for a paper, in parts."""
    citation: tuple[tuple[str, str], ...]
    """How to cite the run, as pairs of a form and its text."""
    provenance: tuple[tuple[str, str], ...]
    """What the run was made of, as pairs of a name and text."""
    configuration: str
    missing: tuple[str, ...]

    def tables(self) -> Iterator[Table]:
        for section in self.sections:
            yield from (*section.tables, *section.folded)

    def panels(self) -> Iterator[Panel]:
        for section in self.sections:
            yield from section.panels


def compose(study: Study, metrics: Sequence[Metric] = METRICS) -> Document:
    """Work out a report. Raises RunError for damaged files of the run."""
    found, failed = compute_figures(study, metrics), failures(study)
    return Document(
        title=study.name,
        subtitle=_subtitle(study),
        how_to_read=_how_to_read(study, found),
        answers=answer_cards(study, found, failed),
        unanswered=None if found.comparisons else _unanswered(study),
        failures=failed,
        sections=(
            _headline(study, found),
            *own_section(study, failed),
            *(_metric_section(study, found, metric) for metric in metrics),
            _degradation(study, found),
            *measured_sections({"": study}),
            classes_section(study),
            calibration_section(study, found),
            gain_section(study),
            *surface_sections(study),
            *transfer_sections(study),
            decomposition_section(study),
            silhouette_section(study),
        ),
        gallery=gallery_cards(study),
        methods=methods(study),
        citation=citation(study),
        provenance=provenance_rows(study),
        configuration=configuration_text(study),
        missing=study.missing,
    )


def _subtitle(study: Study) -> str:
    summary = study.arms[0].summary
    threat = wording.threat_text(study) or "no epsilon above 0 attacked"
    return f"{summary.data} data, {wording.sample_text(study)}, {threat}{', seeds hidden' if wording.hides_seeds(study) else ''}"


def _how_to_read(study: Study, found: Figures) -> tuple[str, ...]:
    paragraphs = sentences(
        "how_to_read.txt",
        {},
        threat=wording.threat_text(study),
        hides_seeds=wording.hides_seeds(study),
        several_learned=any(len(answer.all_learned) > 1 for answer in found.answers),
        several_trainings=len({arm.seed for arm in study.arms}) > 1,
        units=wording.units(study),
    )
    return tuple(paragraphs)


def answer_cards(study: Study, found: Figures, failed: Sequence[Failure]) -> tuple[AnswerCard, ...]:
    """One for each classifier objective whose systems are compared."""
    return tuple(_answer_card(study, answer, failed) for answer in found.answers if answer.comparisons)


def _answer_card(study: Study, answer: Answer, failed: Sequence[Failure]) -> AnswerCard:
    trust = judge(answer, study, failed)
    comparisons = [] if trust.verdict == Verdict.NOT_TRUSTED else answer.comparisons
    return AnswerCard(
        heading=f"{wording.classifier(answer.classifier_objective)}, attacked at {epsilon_text(study.primary_epsilon)}",
        trust=trust,
        sentences=tuple(wording.answer_sentences(without_doubtful(answer, study, failed))) if comparisons else (),
        note=wording.floor_note(answer) if comparisons else None,
        figures=tuple(
            (one.name, wording.points(one.difference), wording.points_interval(one.difference), wording.equals_p(one.adjusted))
            for one in comparisons
        ),
    )


def _unanswered(study: Study) -> str:
    if not study.attacked:
        return "No epsilon above 0 was attacked, so there is no robust accuracy to compare."
    if not study.is_ablation:
        return (
            "This is a single evaluation: there is nothing to compare it with. foreguard ablate evaluates the systems without "
            "mask, with oracle masks and with learned masks on the same images, and its report answers the question."
        )
    return (
        "The run lacks the arms that are compared: for one classifier objective, masks none to none, oracle to oracle and any to "
        "learned. Add them to the experiment's masks and run foreguard ablate with resume=true."
    )


def _headline(study: Study, found: Figures) -> Section:
    folded = [tables.comparisons(found)] if found.comparisons else []
    if any(len(figures.seeds) > 1 for figures in found.of_role("main") if not figures.condition.is_own):
        folded.append(tables.seeds(study, found))
    missing = None
    if any(arm.checks is not None for arm in study.arms):
        folded.append(tables.sanity(study))
    elif study.attacked:
        missing = "No sanity checks were made, so nothing guards against an attack that is too weak; evaluate with sanity=true."
    if found.of_role("diagnostic"):
        folded.append(tables.diagnostic(study, found))
    return Section(
        name="systems",
        title="All systems",
        intro="Each row is one system: which masks its classifier was trained with, and which ones it is tested and attacked with. "
        "Compare systems of one classifier; differences with their own intervals are in the list of comparisons.",
        tables=(tables.headline(study, found),),
        folded=tuple(folded),
        missing=missing,
    )


def own_section(study: Study, failed: Sequence[Failure]) -> tuple[Section, ...]:
    """One section, or none where every system was trained here or there is nothing to compare."""
    found = compared_with_own(study)
    if not found:
        return ()
    doubts = warning({"": ([side for one in found for side in (one.first, one.second)], failed)})
    title = "How do systems of your own compare?"
    return (Section(name="own-systems", title=title, intro=_OF_YOUR_OWN, tables=(_own_table(found),), warning=doubts),)


def _own_table(found: Sequence[Comparison]) -> Table:
    rows = []
    for one in found:
        other = wording.heading(one.second) + ("" if one.second.is_own else f", masks {one.second.masks}")
        rows.append((wording.heading(one.first), (Cell(one.name, other), *tables.comparison_cells(one))))
    tidy = [{**tables.comparison_tidy(one), "second_classifier_objective": one.second.classifier_objective} for one in found]
    return make_table(
        "own-systems",
        title="Systems of your own minus others",
        caption="Differences of robust accuracy on the same images, with p corrected by Holm over all of these at one epsilon, "
        "apart from the comparisons of the answer.",
        columns=(Column("Difference"), *tables.COMPARISON_COLUMNS),
        rows=rows,
        tidy=tidy,
    )


def _metric_section(study: Study, found: Figures, metric: Metric) -> Section:
    """Curves by classifier objective, and the table; that of accuracy stands further up, among all systems."""
    systems = found.under(metric)
    has_table = bool(systems) and metric is not ACCURACY
    return Section(
        name=metric.name,
        title=metric.title,
        intro=metric.intro,
        tables=(tables.of_metric(study, systems, metric, title=metric.title),) if has_table else (),
        panels=tuple(metric_panels(study, found, metric)),
        missing=None if systems else metric.missing,
    )


def metric_panels(study: Study, found: Figures, metric: Metric, *, name: str = "", run: str = "") -> Iterator[Panel]:
    """The curves of a metric, a panel for each classifier objective. ``name`` and ``run`` tell those of several runs apart."""
    for objective, systems in panels_of(found.under(metric)).items():
        heading, norm = wording.heading(systems[0].condition), study.arms[0].summary.norm
        yield plots.curves(f"{metric.name}-{name}{wording.slug(objective)}", f"{run}{heading}", systems, metric, norm=norm)


def _degradation(study: Study, found: Figures) -> Section:
    worse = found.of_role("degradation")
    trained = {(figures.condition.classifier_objective, figures.condition.train_masks) for figures in worse}
    placed = [
        figures
        for figures in found.of_role("main")
        if (figures.condition.classifier_objective, figures.condition.train_masks) in trained
        and (figures.condition.test_masks == "oracle" or figures.condition.uses_segmenter)
    ]
    panels, epsilon = [], study.primary_epsilon
    for name in dict.fromkeys(figures.condition.classifier_objective for figures in worse):
        chosen = [figures for figures in (*placed, *worse) if figures.condition.classifier_objective == name]
        panels.append(plots.degradation(f"degradation-{wording.slug(name)}", wording.classifier(name), chosen, epsilon=epsilon))
    return Section(
        name="degradation",
        title="How good must the mask be?",
        intro=f"Oracle masks made worse on purpose and held fixed, at epsilon {epsilon_text(epsilon)}. The larger symbol is the "
        "learned mask, placed by its quality without attack; the arrow leads to the quality that is left of it under attack. "
        "Where the arrow ends far below the curve, learned masks lose more than their imperfection explains.",
        tables=(tables.degradation(study, [*placed, *worse]),) if worse else (),
        panels=tuple(panels),
        missing=None if worse else "Degraded masks were not evaluated; an ablation with degradation in its experiment does.",
    )
