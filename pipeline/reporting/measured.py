"""What was measured beside the attacks, a section for each threat: distances, patches, corruptions, backgrounds, certificates."""

import polars as pl

from pipeline.attacks.measurement import Claim
from pipeline.evaluation.examples import read_examples
from pipeline.evaluation.measured import MEASURED, Figure, MeasurementReport, mean_corruption_error
from pipeline.evaluation.measuring import read_observations
from pipeline.reporting import wording
from pipeline.reporting.data import Arm, Study
from pipeline.reporting.examples import example_pictures
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, grouped
from pipeline.reporting.threats import THREATS

_CLAIMS = {Claim.ACCURACY: "accuracy", Claim.UPPER_ESTIMATE: "upper estimate", Claim.LOWER_BOUND: "lower bound"}
_ERROR = "mean corruption error"


def measured_sections(study: Study) -> tuple[Section, ...]:
    """One section for each kind of measurement that was made. Raises RunError for a damaged file."""
    found = {arm.path: MeasurementReport.read(arm.path / MEASURED) for arm in study.arms if (arm.path / MEASURED).is_file()}
    arms = [arm for arm in study.arms if arm.role == "main" and arm.path in found]
    kinds = {figure.measurement: figure.kind for arm in arms for figure in found[arm.path].figures}
    shown = next((arm for arm in arms if arm.condition.uses_segmenter), arms[0] if arms else None)
    examples = [] if shown is None else read_examples(shown.path)
    sections = []
    for kind in dict.fromkeys(kinds.values()):
        tables = []
        for name in (name for name, of_name in kinds.items() if of_name == kind):
            figures = {arm.path: [one for one in found[arm.path].figures if one.measurement == name] for arm in arms}
            tables.append(_table(name, [(arm, figures[arm.path]) for arm in arms if figures[arm.path]], _errors(study, arms, name)))
        title, intro = THREATS[kind]
        pictures = example_pictures([one for one in examples if one.kind == kind])
        if pictures and shown is not None:
            intro = f"{intro} The pictures are of {wording.system_text(shown.condition)}."
        sections.append(Section(name=f"measured-{kind}", title=title, intro=intro, tables=tuple(tables), pictures=pictures))
    return tuple(sections)


def _errors(study: Study, arms: list[Arm], name: str) -> dict[str, float]:
    """The mean corruption error of every arm that has one, by its name: against the arm without masks of its objective and seed."""
    errors: dict[str, float] = {}
    for arm in arms:
        own = read_observations(arm.path)
        if own is None or own.filter(pl.col("measurement") == name)["kind"].unique().to_list() != ["corruptions"]:
            continue
        for other in study.arms:
            alike = (other.seed, other.condition.classifier_objective) == (arm.seed, arm.condition.classifier_objective)
            baseline = read_observations(other.path) if alike and _is_maskless(other) else None
            if baseline is not None:
                tables = (table.filter(pl.col("measurement") == name) for table in (own, baseline))
                errors[arm.name] = mean_corruption_error(*tables)
    return errors


def _is_maskless(arm: Arm) -> bool:
    return (arm.condition.train_masks, arm.condition.test_masks) == ("none", "none")


def _table(name: str, systems: list[tuple[Arm, list[Figure]]], errors: dict[str, float]) -> Table:
    shown = [figure for figure in systems[0][1] if _on_page(figure)]
    columns = [Column(label=figure.label, detail=_CLAIMS[figure.claim], numeric=True) for figure in shown]
    rows: dict[str, list[tuple[Cell, ...]]] = {}
    for arm, figures in systems:
        by_label = {figure.label: figure for figure in figures}
        row = [Cell(text=f"{arm.condition.masks}, seed {arm.seed}")]
        row += [_cell(by_label[figure.label]) if figure.label in by_label else Cell(text="") for figure in shown]
        if errors:
            row.append(Cell(text=f"{errors[arm.name]:.2f}" if arm.name in errors else ""))
        rows.setdefault(wording.heading(arm.condition), []).append(tuple(row))
    against = [Column(label=_ERROR, detail="of none's", numeric=True)] if errors else []
    return Table(
        name=f"measured-{wording.slug(name)}",
        title=f"{name} ({systems[0][1][0].threat})",
        caption="With 95 % interval; shares in percent of the images that are counted. The CSV holds every figure.",
        columns=(Column(label="Masks in training to testing"), *columns, *against),
        groups=grouped(rows),
        tidy=_tidy(systems, errors),
    )


def _on_page(figure: Figure) -> bool:
    """Of the corruptions the page shows the means alone."""
    return figure.threat != "corruption" or figure.label.startswith(("clean", "all corruptions"))


def _cell(figure: Figure) -> Cell:
    one = figure.estimate
    if figure.unit in ("share", "difference"):
        return Cell(text=wording.percent(one), detail=f"{wording.percent_interval(one)} n={one.n}")
    return Cell(text=f"{one.value:.3g}", detail=f"[{one.low:.3g}, {one.high:.3g}]")


def _tidy(systems: list[tuple[Arm, list[Figure]]], errors: dict[str, float]) -> pl.DataFrame:
    rows = []
    for arm, figures in systems:
        system = {"system": arm.name, "seed": arm.seed, "test_masks": arm.condition.test_masks}
        for figure in figures:
            kept = {key: getattr(figure.estimate, key) for key in ("value", "low", "high", "n", "groups")}
            about = {"measurement": figure.measurement, "threat": figure.threat, "figure": figure.label}
            rows.append({**system, **about, "claim": figure.claim.value, "unit": figure.unit, **kept})
        if arm.name in errors:
            about = {"measurement": figures[0].measurement, "threat": figures[0].threat, "figure": _ERROR}
            kept = {"value": errors[arm.name], "low": None, "high": None, "n": figures[0].estimate.n, "groups": None}
            rows.append({**system, **about, "claim": Claim.ACCURACY.value, "unit": "ratio", **kept})
    return pl.DataFrame(rows, infer_schema_length=None)
