"""What was measured beside the attacks, a section for each threat: distances, patches, corruptions, backgrounds, certificates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from pipeline.attacks.measurement import Claim
from pipeline.evaluation.examples import Example, read_examples
from pipeline.evaluation.measured import MEASURED, Figure, MeasurementReport, mean_corruption_error
from pipeline.evaluation.measuring import read_observations
from pipeline.reporting import wording
from pipeline.reporting.data import Arm, Study
from pipeline.reporting.gallery import Picture
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Row, Table, make_table, numbers

_CLAIMS = {Claim.ACCURACY: "accuracy", Claim.UPPER_ESTIMATE: "upper estimate", Claim.LOWER_BOUND: "lower bound"}
_ERROR = "mean corruption error"
_MANY = 6
"""Conditions beyond which the image itself and the mask are left out."""
_OF_NO_OTHER = {"epsilons", "backdrops"}
"""Settings that say which figures there are, and change none of them."""
_THREATS = {
    "minimum-norm": (
        "How far is the nearest adversarial image?",
        "A gradient search, end to end through both stages, for the nearest misclassified image. One run gives robust accuracy "
        "at every epsilon: the share of images that are farther away. Upper estimates: the search found these distances, and a "
        "better one can only find smaller ones. Where a region is set, the attacker keeps to it, and no figure is robust "
        "accuracy.",
    ),
    "decision-based": (
        "What do decisions alone give away?",
        "The same distances for an attacker who sees the predicted class and nothing else (HopSkipJump). Upper estimates, on "
        "smooth systems far above those of a gradient search. A distance clearly below that of a gradient search says that "
        "gradients were blind there, and that the lower one is to be trusted.",
    ),
    "patches": (
        "What does a patch beside the object do?",
        "Any change at all inside one square, anywhere, on the object alone or beside it, its place and content searched end to "
        "end. Upper estimates: a better place or content can only lower them. Images without room for the square are not "
        "counted, so n differs between places.",
    ),
    "corruptions": (
        "What do common corruptions do?",
        "Accuracy, and IoU of the mask with the object, under noise, blur, weather and digital artefacts, the same for every "
        "system. No bound on anything: nobody has chosen them to fool the system. The mean corruption error divides an arm's "
        "errors by those of the arm without masks.",
    ),
    "backgrounds": (
        "Does the background decide?",
        "The same objects in front of backgrounds of their own class and of others, alone, and backgrounds without their "
        "object. Accuracy, and no bound on anything. BG-gap: accuracy in front of the own class's backgrounds minus that in "
        "front of others.",
    ),
    "smoothing": (
        "What is certain?",
        "The whole two-stage system under randomized smoothing. Certified accuracy is a lower bound: no attack on the smoothed "
        "system gets below it, whichever way it goes, with the error rate that was chosen for each certificate. Accuracy under "
        "attack is an upper estimate of the same smoothed system. Neither is a statement about the system without noise.",
    ),
}
"""By kind of measurement what its section asks, and what kind of statement its figures are."""


@dataclass(frozen=True, kw_only=True)
class _System:
    """An arm that was measured."""

    run: str
    """The name of its run, where the page has several."""
    arm: Arm
    figures: tuple[Figure, ...]

    @property
    def heading(self) -> str:
        heading = wording.heading(self.arm.condition)
        return f"{self.run}: {heading}" if self.run else heading

    @property
    def circumstances(self) -> tuple[str, str, int]:
        """What has to be the same where one is measured against another: training, data and seed."""
        return (self.arm.condition.classifier_objective, str(self.arm.about["inputs"].get("data set")), self.arm.seed)

    def settings(self, name: str) -> dict[str, object]:
        """What decides the figures of a measurement."""
        chosen = (self.arm.about["config"]["attack"].get("measurements") or {}).get(name, {})
        return {key: value for key, value in chosen.items() if key not in _OF_NO_OTHER}

    def of(self, name: str, threat: str) -> "_System":
        """Of the figures those of one measurement. Another run may call one of another norm the same."""
        return replace(self, figures=tuple(one for one in self.figures if (one.measurement, one.threat) == (name, threat)))


def measured_sections(runs: Mapping[str, Study]) -> tuple[Section, ...]:
    """One section for each kind of measurement that was made, all runs in its tables; their names are shown where they are not
    empty. Raises RunError for a damaged file."""
    systems = [
        _System(run=run, arm=arm, figures=tuple(MeasurementReport.read(arm.path / MEASURED).figures))
        for run, study in runs.items()
        for arm in study.arms
        if arm.role == "main" and (arm.path / MEASURED).is_file()
    ]
    kinds = {(figure.measurement, figure.threat): figure.kind for system in systems for figure in system.figures}
    shown = next((one.arm for one in systems if one.arm.condition.uses_segmenter), systems[0].arm if systems else None)
    examples = [] if shown is None else read_examples(shown.path)
    sections = []
    for kind in dict.fromkeys(kinds.values()):
        measured = {
            one: [own for system in systems if (own := system.of(*one)).figures]
            for one, of_kind in kinds.items()
            if of_kind == kind
        }
        title, intro = _THREATS[kind]
        pictures = _example_pictures([one for one in examples if one.kind == kind])
        if pictures and shown is not None:
            intro = f"{intro} The pictures are of {wording.system_text(shown.condition)}."
        alike = Counter(name for name, _ in kinds)
        tables = tuple(
            _table(name if alike[name] == 1 else f"{name} {threat}", found, _errors(found, name))
            for (name, threat), found in measured.items()
        )
        warning = " ".join(text for (name, _), found in measured.items() if (text := _unlike(name, found)))
        named = f"measured-{kind}"
        sections.append(Section(name=named, title=title, intro=intro, warning=warning or None, tables=tables, pictures=pictures))
    return tuple(sections)


def _unlike(name: str, systems: Sequence[_System]) -> str:
    """Which runs were measured under other conditions than the first; empty where none was."""
    (first, ours), *others = {one.run: one.settings(name) for one in systems}.items()
    differing = [
        f"{run} ({', '.join(keys)})"
        for run, theirs in others
        if (keys := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)))
    ]
    if not differing:
        return ""
    return f"{name}: other settings than in {first} in {', '.join(differing)}: figures of the same name are of other conditions."


def _errors(systems: Sequence[_System], name: str) -> dict[Path, float]:
    """The mean corruption error of every system that has one: against the one without masks of its objective, seed and data."""
    observed = {one.arm.path: _corrupted(one.arm.path, name) for one in systems}
    errors: dict[Path, float] = {}
    for one in systems:
        own = observed[one.arm.path]
        # Of several without masks the one of its own run, which comes last here.
        for other in sorted(systems, key=lambda other: other.run == one.run):
            comparable = other.arm.condition.is_maskless and one.circumstances == other.circumstances
            baseline = observed[other.arm.path] if comparable else None
            if own is not None and baseline is not None:
                with suppress(ValueError):  # other images, or a baseline without an error to divide by
                    errors[one.arm.path] = mean_corruption_error(own, baseline)
    return errors


def _corrupted(path: Path, name: str) -> pl.DataFrame | None:
    """What was observed under the corruptions of that name; None where something else is called so."""
    found = read_observations(path)
    found = None if found is None else found.filter(pl.col("measurement") == name)
    return None if found is None or found["kind"].unique().to_list() != ["corruptions"] else found


def _table(name: str, systems: Sequence[_System], errors: Mapping[Path, float]) -> Table:
    means = ("clean", "all corruptions")  # of corruptions the page shows these alone
    shown = [one for one in systems[0].figures if one.threat != "corruption" or one.label.startswith(means)]
    columns = [numbers(figure.label, _CLAIMS[figure.claim]) for figure in shown]
    rows: list[tuple[str, Row]] = []
    for system in systems:
        by_label, arm = {figure.label: figure for figure in system.figures}, system.arm
        row = [Cell(f"{arm.condition.masks}, seed {arm.seed}")]
        row += [_cell(by_label[figure.label]) if figure.label in by_label else Cell("") for figure in shown]
        if errors:
            row.append(Cell(f"{errors[arm.path]:.2f}" if arm.path in errors else ""))
        rows.append((system.heading, tuple(row)))
    against = [numbers(_ERROR, "of none's")] if errors else []
    return make_table(
        f"measured-{wording.slug(name)}",
        title=f"{name} ({systems[0].figures[0].threat})",
        caption="With 95 % interval; shares in percent of the images that are counted. The CSV holds every figure.",
        columns=(Column("Masks in training to testing"), *columns, *against),
        rows=rows,
        tidy=pl.concat([_tidy(system, errors.get(system.arm.path)) for system in systems], how="vertical_relaxed"),
    )


def _cell(figure: Figure) -> Cell:
    one = figure.estimate
    if figure.unit in ("share", "difference"):
        return Cell(one.number(), f"{one.interval()} n={one.n}")
    return Cell(one.number(".3g", 1), one.interval(".3g", 1))


def _tidy(system: _System, error: float | None) -> pl.DataFrame:
    """``system`` holds the figures of one measurement, and of these ``error`` is a last one."""
    arm, first = system.arm, system.figures[0]
    about: dict[str, object] = {"run": system.run} if system.run else {}
    about |= {"system": arm.name, "seed": arm.seed, "test_masks": arm.condition.test_masks}
    about |= {"measurement": first.measurement, "threat": first.threat}
    found = [(one.label, one.claim, one.unit, vars(one.estimate)) for one in system.figures]
    if error is not None:
        value = {"value": error, "low": None, "high": None, "n": first.estimate.n, "groups": None}
        found.append((_ERROR, Claim.ACCURACY, "ratio", value))
    rows = [{**about, "figure": label, "claim": claim.value, "unit": unit, **value} for label, claim, unit, value in found]
    return pl.DataFrame(rows, infer_schema_length=None)


def _example_pictures(examples: Sequence[Example]) -> tuple[Picture, ...]:
    """Of every condition at its largest level: the image, what was shown in its place, and the mask it was seen through."""
    in_order = dict.fromkeys((one.measurement, one.condition) for one in examples)
    largest_last = sorted(examples, key=lambda one: one.level)
    strongest = [{(one.measurement, one.condition): one for one in largest_last}[key] for key in in_order]
    return tuple(picture for one in strongest for picture in _pictures(one, alone=len(strongest) > _MANY))


def _pictures(one: Example, *, alone: bool) -> list[Picture]:
    what = f"{one.measurement}, {one.condition}{f' {one.level:g}' if one.level else ''}"
    said = one.prediction or "no answer"
    sample = f"image {one.sample_id} of class {one.label}"
    shown = Picture.of(f"{what}: {said}", one.shown, f"The {sample} under {what}, classified as {said}")
    if alone:
        return [shown]
    clean = Picture.of(f"{one.label}, as it is", one.image, f"The {sample} as it is")
    mask = Picture.of("seen through", one.mask, f"Mask that the {sample} is seen through under {what}")
    return [clean, shown, mask]
