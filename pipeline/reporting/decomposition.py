"""Where the robustness went on the way from oracle masks to learned ones, and what the outline alone gives away."""

from typing import Any

import numpy as np
import polars as pl

from pipeline.errors import RunError
from pipeline.evaluation.counterfactual import Fate
from pipeline.evaluation.statistics import Estimate, wilson
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.findings import share
from pipeline.reporting.gallery import system_text
from pipeline.reporting.plots import LOOKS, Panel, bars
from pipeline.reporting.section import Section
from pipeline.reporting.study import Condition, Study
from pipeline.reporting.table import Cell, Column, Table

LOST = {
    Fate.LOST_CLEAN: "wrong without attack",
    Fate.LOST_MASK: "by the mask alone",
    Fate.LOST_PIXELS: "by the pixels alone",
    Fate.LOST_EITHER: "by either alone",
    Fate.LOST_TOGETHER: "by both together",
}
"""What an image was lost by, in words."""

_PATHS = {"pixels_attack_stands": "pixel path", "mask_attack_stands": "mask path"}
_KEY = ["classifier_objective", "segmenter_objective", "train_masks", "test_masks"]


def decomposition_section(study: Study) -> Section:
    """Images that stand with the oracle and fall with learned masks, by what they were lost by. Raises RunError for a table that
    lacks a column."""
    title = "Where did the robustness go?"
    rows = study.decomposition
    if rows is None:
        missing = "No decomposition was made; an ablation with decomposition in its experiment makes one."
        return Section(name="decomposition", title=title, intro="", missing=missing)
    lacking = {*_KEY, "sample_id", "seed", "epsilon", "fate", "stands", "oracle_stands"} - set(rows.columns)
    if lacking:
        raise RunError(f"{study.path}: the decomposition lacks the columns {', '.join(sorted(lacking))}; run ablate again")
    figures = {key: _shares(key, part) for key, part in _by_condition(rows)}
    epsilon = study.headline
    return Section(
        name="decomposition",
        title=title,
        intro=f"Images that stand with oracle masks at {epsilon_text(epsilon)} and fall with learned ones, in percent of all "
        "images, by what was enough to fool the system: the attacked mask on the clean image, the attacked image through the "
        "clean mask, either of them, or only both together. What is lost minus what is gained is the difference of the two "
        "systems.",
        panels=tuple(_panel(number, key, values[epsilon]) for number, (key, values) in enumerate(figures.items(), start=1)),
        tables=(_table(figures, epsilon, rows),),
    )


def silhouette_section(study: Study) -> Section:
    """How far the outline gets without a single pixel of the image."""
    title = "What does the outline alone give away?"
    intro = "A classifier that sees the oracle mask and nothing else. What it gets right, a mask gives away whatever it hides."
    if study.silhouette is None:
        missing = "No classifier of silhouettes was trained; an ablation with silhouette=true trains one."
        return Section(name="silhouette", title=title, intro="", missing=missing)
    rows, tidy = [], []
    for entry in study.silhouette:
        estimate = wilson(round(entry["accuracy"] * entry["n"]), entry["n"])
        rows.append(
            (
                Cell(text=f"seed {entry['seed']}"),
                Cell(text=wording.percent(estimate), detail=wording.percent_interval(estimate)),
                Cell(text=str(estimate.n)),
            )
        )
        tidy.append(
            {"seed": entry["seed"], "value": estimate.value, "low": estimate.low, "high": estimate.high, "images": estimate.n}
        )
    columns = (
        Column(label="Training"),
        Column(label="Accuracy", detail="%", numeric=True),
        Column(label="n", detail="images", numeric=True),
    )
    table = Table(
        name="silhouette",
        title=title,
        caption="Accuracy on clean masks with 95 % Wilson interval.",
        columns=columns,
        groups=(("", tuple(rows)),),
        tidy=pl.DataFrame(tidy),
    )
    return Section(name="silhouette", title=title, intro=intro, tables=(table,))


def _by_condition(rows: pl.DataFrame) -> list[tuple[Condition, pl.DataFrame]]:
    parts = rows.partition_by(_KEY, maintain_order=True)
    return [(Condition(**{name: part[name][0] for name in _KEY}), part) for part in parts]


def _shares(key: Condition, rows: pl.DataFrame) -> dict[float, dict[str, Estimate]]:
    """By epsilon, the share of images of each fate and of those that stand, pooled over seeds."""
    found = {}
    for epsilon in sorted(set(rows["epsilon"])):
        at = rows.filter(pl.col("epsilon") == epsilon)
        values = {fate.value: _matrix(at, pl.col("fate") == fate.value) for fate in Fate}
        values |= {name: _matrix(at, pl.col(name)) for name in ("oracle_stands", "stands", *_PATHS) if name in at.columns}
        found[epsilon] = {name: share(matrix, f"{name} {key} {epsilon}") for name, matrix in values.items()}
    return found


def _matrix(rows: pl.DataFrame, claim: pl.Expr) -> np.ndarray:
    """Seeds by images, of the images that every seed has."""
    parts = [part.select("sample_id", claim=claim) for part in rows.sort("seed").partition_by("seed", maintain_order=True)]
    ids = set.intersection(*(set(part["sample_id"]) for part in parts))
    return np.stack([part.filter(pl.col("sample_id").is_in(ids)).sort("sample_id")["claim"].to_numpy() for part in parts])


def _panel(number: int, key: Condition, values: dict[str, Estimate]) -> Panel:
    return bars(
        f"decomposition-{number}",
        system_text(key),
        [(text, values[fate.value]) for fate, text in LOST.items()],
        xlabel="lost (% of all images)",
        colour=LOOKS["learned"].colour,
    )


def _table(figures: dict[Condition, dict[float, dict[str, Estimate]]], epsilon: float, rows: pl.DataFrame) -> Table:
    measures = {"oracle_stands": "Stands with oracle", "stands": "Stands with learned"}
    measures |= {fate.value: f"Lost {text}" for fate, text in LOST.items()} | {Fate.GAINED.value: "Gained"}
    measures |= {name: f"Stands, attack on the {text} only" for name, text in _PATHS.items() if name in rows.columns}
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    tidy: list[dict[str, Any]] = []
    for key, by_epsilon in figures.items():
        values = by_epsilon[epsilon]
        cells = (Cell(text=wording.percent(values[name]), detail=wording.percent_interval(values[name])) for name in measures)
        row = (Cell(text=key.tested), Cell(text=key.trained), *cells)
        groups.setdefault(wording.classifier(key.classifier_objective), []).append(row)
        for at, estimates in by_epsilon.items():
            named = {name: getattr(key, name) for name in _KEY}
            tidy += [
                {**named, "epsilon": at, "measure": name, "value": one.value, "low": one.low, "high": one.high, "images": one.n}
                for name, one in estimates.items()
            ]
    columns = (Column(label="Masks in testing"), Column(label="Masks in training"))
    return Table(
        name="decomposition",
        title="Where did the robustness go?",
        caption=f"In percent of all images, with 95 % interval, at {epsilon_text(epsilon)}.",
        columns=columns + tuple(Column(label=label, detail="%", numeric=True) for label in measures.values()),
        groups=tuple((title, tuple(cells)) for title, cells in groups.items()),
        tidy=pl.DataFrame(tidy, infer_schema_length=None),
    )
