"""Two or more runs on one page: what each answers, all their systems in one table, and what differs between the same systems."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from pipeline.errors import RunError
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import tables, wording
from pipeline.reporting.background import background_section
from pipeline.reporting.citation import citation, configuration_text, methods, provenance_rows
from pipeline.reporting.comparisons import Comparison, families
from pipeline.reporting.data import Study
from pipeline.reporting.document import Document, answer_cards, metric_panels
from pipeline.reporting.figures import Figures, compute_figures
from pipeline.reporting.measured import measured_sections
from pipeline.reporting.metrics import METRICS, Metric
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, make_table
from pipeline.reporting.trust import failures, warning

Runs = dict[str, tuple[Study, Figures]]
"""Studies with their figures, by a name that no other run has."""


def compose_runs(studies: Sequence[Study], metrics: Sequence[Metric] = METRICS) -> Document:
    """Work out a report on several runs. Raises RunError where their threat models differ, so that no table can hold both."""
    check_threats(studies)
    runs = {name: (study, compute_figures(study, metrics)) for name, study in named(studies).items()}
    cards = [
        replace(card, heading=f"{name}: {card.heading}")
        for name, (study, found) in runs.items()
        for card in answer_cards(study, found, failures(study))
    ]
    return Document(
        title=" and ".join(runs),
        subtitle="; ".join(
            f"{name}: {study.arms[0].summary.data} data, {wording.sample_text(study)}" for name, (study, _) in runs.items()
        )
        + f"; {wording.perturbations(studies[0])}",
        how_to_read=(
            "Every run by itself says more in its own report. Differences between runs are shown only for the same system (same "
            "objectives, same masks in training and testing), by seed, on the same images of the same data.",
        ),
        answers=tuple(cards),
        unanswered=None if cards else "None of these runs compares systems with each other; an ablation does.",
        failures=tuple(
            replace(failure, name=f"{name}: {failure.name}") for name, (study, _) in runs.items() for failure in failures(study)
        ),
        sections=(
            *((background,) if (background := background_section(runs)) else ()),
            _between(runs),
            *(_metric_section(runs, metric) for metric in metrics),
            *measured_sections({name: study for name, (study, _) in runs.items()}),
        ),
        gallery=None,
        methods=tuple(f"{name}: {part}" for name, (study, _) in runs.items() for part in methods(study)),
        citation=tuple(
            (f"{name}: {form}", text)
            for number, (name, (study, _)) in enumerate(runs.items(), start=1)
            for form, text in citation(study, key=f"foreguard-{number}")[:2]
        ),
        provenance=tuple((f"{name}: {what}", text) for name, (study, _) in runs.items() for what, text in provenance_rows(study)),
        configuration=json.dumps({name: json.loads(configuration_text(study)) for name, (study, _) in runs.items()}, indent=2),
        missing=tuple(f"{name}: {sentence}" for name, (study, _) in runs.items() for sentence in study.missing),
    )


def named(studies: Sequence[Study]) -> dict[str, Study]:
    """Each study by its name, or by its directory where another one is called the same."""
    names = [study.name for study in studies]
    return {study.name if names.count(study.name) == 1 else str(study.path): study for study in studies}


def check_threats(studies: Sequence[Study]) -> None:
    first = studies[0]
    for study in studies[1:]:
        for key in ("norm", "region"):
            ours, theirs = (getattr(one.arms[0].summary, key) for one in (study, first))
            if ours != theirs:
                raise RunError(f"{study.path}: has {key} {ours!r}, and {first.path} {theirs!r}: report them apart")


def _metric_section(runs: Runs, metric: Metric) -> Section:
    panels = [
        panel
        for number, (name, (study, found)) in enumerate(runs.items(), start=1)
        for panel in metric_panels(study, found, metric, name=f"{number}-", run=f"{name}: ")
    ]
    return Section(
        name=metric.name,
        title=metric.title,
        intro=metric.intro,
        panels=tuple(panels),
        tables=(_table(runs, metric),) if panels else (),
        missing=None if panels else metric.missing,
    )


def _table(runs: Runs, metric: Metric) -> Table:
    """All main systems of all runs, at every epsilon of any."""
    epsilons = sorted({0.0, *(epsilon for study, _ in runs.values() for epsilon in study.attacked)})
    rows, tidy, captions = [], [], [metric.caption]
    for name, (study, found) in runs.items():
        systems = found.under(metric)
        if systems:
            captions.append(f"{name}: {tables.pooling_text(study, systems, metric)}")
            tidy.append(tables.of_metric(study, systems, metric, title="").tidy.insert_column(0, pl.lit(name).alias("run")))
        for one in systems:
            curve = one.curve(metric)
            cells = (tables.metric_cell(metric, curve[epsilon]) if epsilon in curve else Cell("") for epsilon in epsilons)
            row = (*(cell(one) for _, cell in tables.MASKS), *cells)
            rows.append((f"{name}: {wording.heading(one.condition)}", row))
    return make_table(
        metric.table,
        title=metric.title,
        caption=" ".join(captions),
        columns=(*tables.MASK_COLUMNS, *tables.metric_columns(metric, epsilons)),
        rows=rows,
        tidy=pl.concat(tidy, how="vertical_relaxed"),
    )


def _between(runs: Runs) -> Section:
    """The same system of the first run and of each other one, on the images that both have met."""
    (first, (reference, _)), *others = runs.items()
    reasons, rows, tidy, families_of = [], [], [], dict[str, tuple[Study, list[Comparison]]]()
    for name, (study, _) in others:
        family = differences(study, reference)
        if family:
            families_of[name] = study, family
        else:
            reasons.append(f"{name} and {first}: {why_not(study, reference)}")
        for one in family:
            row = (Cell(f"{name} - {first}", systems_text(one)), *tables.comparison_cells(one))
            rows.append((wording.heading(one.first), row))
            tidy.append({"run": name, "other_run": first, **tables.comparison_tidy(one)})
    table = make_table(
        "between-runs",
        title="The same system in both runs",
        caption="Robust accuracy of one system in two runs on the same images, first minus second, by seeds that both have. p is "
        "corrected over all systems at one epsilon.",
        columns=(Column("Difference"), *tables.COMPARISON_COLUMNS),
        rows=rows,
        tidy=tidy,
    )
    return Section(
        name="between-runs",
        title="What differs between the runs?",
        intro="A positive difference: the system of the run that is named first is harder to fool.",
        tables=(table,) if tidy else (),
        warning=caution(first, reference, families_of),
        missing=f"No system of theirs can be compared image by image ({'; '.join(reasons)})." if reasons else None,
    )


def caution(first: str, reference: Study, others: Mapping[str, tuple[Study, Sequence[Comparison]]]) -> str | None:
    """Why differences between the first run and others, each with its ``differences``, may not be what they seem."""
    sides = {name: ([one.first for one in found], failures(study)) for name, (study, found) in others.items()}
    of_first = [one.second for _, found in others.values() for one in found]
    attacks = other_attacks({first: reference, **{name: study for name, (study, _) in others.items()}})
    checks = warning({first: (of_first, failures(reference)), **sides})
    return " ".join(text for text in (attacks, checks) if text is not None) or None


def other_attacks(studies: Mapping[str, Study]) -> str | None:
    """Runs that were attacked otherwise than the first: a weaker attack makes a system look harder to fool."""
    configs = {name: _attacked_with(study.arms[0].about["config"]) for name, study in studies.items()}
    (first, one), *others = configs.items()
    differing = [
        f"{', '.join(names)}: {what} than in {first}"
        for key, what in (("attack", "other attacks"), ("precision", "gradients of another precision"))
        if (names := [name for name, other in others if other[key] != one[key]])
    ]
    if not differing:
        return None
    return f"{'; '.join(differing)}. A difference may be that of the attacks, and not of the systems."


def _attacked_with(config: Mapping[str, Any]) -> dict[str, Any]:
    """What robust accuracy depends on: not what was measured beside the attacks."""
    attack = {key: value for key, value in config["attack"].items() if key != "measurements"}
    return {"attack": attack, "precision": config.get("precision", "float32")}


def differences(study: Study, reference: Study) -> list[Comparison]:
    """Every system of both runs, its figure in ``study`` minus that in ``reference``; of two runs of one system each these two,
    whatever they are. Empty where nothing can be paired: ``why_not`` says why."""
    if _other_images(study, reference) is not None:
        return []
    ours, theirs = study.by_condition("main"), reference.by_condition("main")
    pairs = [(key, key) for key in ours if key in theirs]
    if not pairs and len(ours) == len(theirs) == 1:
        pairs = list(zip(ours, theirs, strict=True))
    named = [("between runs", ours[one], theirs[other]) for one, other in pairs]
    return families(named, [epsilon for epsilon in study.attacked if epsilon in reference.attacked])


def systems_text(one: Comparison) -> str:
    """``learned (natural segmenter), trained with oracle``; both where they differ."""
    texts = dict.fromkeys(f"{side.tested}, trained with {side.trained}" for side in (one.first, one.second))
    return " - ".join(texts)


def _other_images(study: Study, reference: Study) -> str | None:
    """Why the images of two runs are others; None where they share some. An id names an image of one data set, so the same id in
    another set is another image."""
    ours, theirs = ({str(arm.about["inputs"].get("data set")) for arm in one.arms} for one in (study, reference))
    if ours != theirs:
        return f"other images: of other data (fingerprints {_short(ours)} and {_short(theirs)})"
    splits = [one.arms[0].summary.split for one in (study, reference)]
    if splits[0] != splits[1]:
        return f"other images ({splits[0]} and {splits[1]})"
    shared = set(study.arms[0].records["sample_id"]) & set(reference.arms[0].records["sample_id"])
    return None if shared else "other images (they have none in common)"


def _short(fingerprints: set[str]) -> str:
    return ", ".join(sorted(fingerprint[:12] for fingerprint in fingerprints))


def why_not(study: Study, reference: Study) -> str:
    """Why ``differences`` finds nothing."""
    if (reason := _other_images(study, reference)) is not None:
        return reason
    if not study.attacked:
        return "no epsilon above 0 was attacked"
    if not set(study.attacked) & set(reference.attacked):
        return f"no epsilon in common ({', '.join(map(epsilon_text, study.attacked))})"
    return "no system with a seed in common"
