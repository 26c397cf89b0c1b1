"""Where the robustness went on the way from oracle masks to learned ones, and what the outline alone gives away."""

from typing import Any

import numpy as np
import polars as pl

from pipeline.ablation.counterfactual import Attribution
from pipeline.evaluation.metrics import on_shared_images
from pipeline.evaluation.statistics import Estimate, wilson
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.data import Condition, Study
from pipeline.reporting.figures import share
from pipeline.reporting.panel import LOOKS
from pipeline.reporting.plots import bars
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, make_table, numbers, share_cell, tidy_estimate
from pipeline.reporting.tables import MASK_COLUMNS

LOST = {
    Attribution.LOST_CLEAN: "wrong without attack",
    Attribution.LOST_MASK: "by the mask alone",
    Attribution.LOST_PIXELS: "by the pixels alone",
    Attribution.LOST_EITHER: "by either part alone",
    Attribution.LOST_TOGETHER: "by neither part alone",
}
"""What an image was lost by, in words."""

_PATHS = {"both_attack_robust": "both", "pixels_attack_robust": "the pixels only", "mask_attack_robust": "the mask only"}
"""What the gradient of each attack of the decomposition goes through."""

_ARMS = {"oracle_arm_robust": "oracle_robust", "arm_robust": "robust"}
"""Robust accuracy of the two arms by its name as a measure, which is not that of an attribution, and its column."""

Shares = dict[Condition, dict[float, dict[str, Estimate]]]
"""By arm, epsilon and measure."""

_KEY = ["classifier_objective", "segmenter_objective", "train_masks", "test_masks"]


def decomposition_section(study: Study) -> Section:
    """Images that are robust with the oracle and not with learned masks, by what they were lost by."""
    title = "Where did the robustness go?"
    rows = study.decomposition
    if rows is None:
        missing = "No decomposition was made; an ablation with decomposition in its experiment makes one."
        return Section(name="decomposition", title=title, intro="", missing=missing)
    parts = {Condition(**part.select(_KEY).row(0, named=True)): part for part in rows.partition_by(_KEY, maintain_order=True)}
    figures = {key: _shares(key, part) for key, part in parts.items()}
    epsilon = study.primary_epsilon
    other = any((part["oracle_train_masks"] != part["train_masks"]).any() for part in parts.values())
    intro = (
        f"Images robust with oracle masks at {epsilon_text(epsilon)} and not with learned ones, in percent of all images, by which "
        "part of the attacked image is enough to fool the system: its mask on the clean pixels, its pixels through the clean mask, "
        "either, or neither alone. The image is the strongest that the decomposition's own attack found, which does not stop at "
        "its first success, or the suite's where that attack fails. Lost minus gained is the difference of the two systems."
    )
    return Section(
        name="decomposition",
        title=title,
        intro=intro + (" Where the oracle's classifier was trained with other masks, the classifier differs too." if other else ""),
        warning=_overlooked(rows),
        panels=tuple(
            bars(
                f"decomposition-{number}",
                wording.system_text(key),
                [(text, values[epsilon][each.value]) for each, text in LOST.items()],
                xlabel="lost (% of all images)",
                color=LOOKS["learned"].color,
            )
            for number, (key, values) in enumerate(figures.items(), start=1)
        ),
        tables=(_table(study, figures, parts), _paths_table(study, figures)),
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
        seed, split = entry["seed"], entry["split"]
        rows.append(("", (Cell(f"seed {seed}"), Cell(str(split)), share_cell(estimate), Cell(str(estimate.n)))))
        tidy.append({"seed": seed, "split": split, **tidy_estimate(estimate)})
    units = wording.units(study)
    too_narrow = "" if units == "images" else f" It takes images for independent, not {units}: too narrow."
    table = make_table(
        "silhouette",
        title=title,
        caption=f"Accuracy on all clean masks of the split, with 95 % Wilson interval.{too_narrow}",
        columns=(Column("Training"), Column("Split"), numbers("Accuracy", "%"), numbers("n", "images")),
        rows=rows,
        tidy=pl.DataFrame(tidy).drop("groups"),
    )
    return Section(name="silhouette", title=title, intro=intro, tables=(table,))


def _shares(key: Condition, rows: pl.DataFrame) -> dict[float, dict[str, Estimate]]:
    """By epsilon, the share of images of each attribution and of those that are robust, pooled over seeds."""
    found = {}
    for epsilon in sorted(set(rows["epsilon"])):
        at = rows.filter(pl.col("epsilon") == epsilon)
        claims = {each.value: pl.col("attribution") == each.value for each in Attribution}
        claims |= {name: pl.col(column) for name, column in _ARMS.items()} | {name: pl.col(name) for name in _PATHS}
        found[epsilon] = {name: share(*_matrix(at, claim), f"{name} {key.draws} {epsilon}") for name, claim in claims.items()}
    return found


def _matrix(rows: pl.DataFrame, claim: pl.Expr) -> tuple[np.ndarray, np.ndarray]:
    """Seeds by images, of the images that every seed has, and the group of each image."""
    parts = rows.sort("seed").partition_by("seed", maintain_order=True)
    return on_shared_images([part.select("sample_id", "group", value=claim) for part in parts])


def _overlooked(rows: pl.DataFrame) -> str | None:
    """Images that count as robust though they are misclassified under an attack of the decomposition, where there are any."""
    overlooked = pl.col("robust") & ~pl.all_horizontal(*_PATHS)
    counted = rows.group_by("arm", "epsilon", maintain_order=True).agg(
        overlooked.sum().alias("overlooked"), most=(pl.col("robust") & ~overlooked).mean()
    )
    found: dict[str, list[str]] = {}
    for row in counted.filter(pl.col("overlooked") > 0).iter_rows(named=True):
        text = f"{100 * row['most']:.1f} % at {epsilon_text(row['epsilon'])} ({row['overlooked']} overlooked)"
        found.setdefault(row["arm"], []).append(text)
    if not found:
        return None
    arms = "; ".join(f"{arm}: {', '.join(texts)}" for arm, texts in found.items())
    return f"Attacks of this section misclassify images that the suite left, so robust accuracy is at most: {arms}."


def _table(study: Study, figures: Shares, parts: dict[Condition, pl.DataFrame]) -> Table:
    measures = {"oracle_arm_robust": "Robust with oracle", "arm_robust": "Robust with learned"}
    measures |= {each.value: f"Lost {text}" for each, text in LOST.items()} | {Attribution.GAINED.value: "Gained"}
    oracles = {key: part["oracle_train_masks"][0] for key, part in parts.items()}
    trained = {key: Cell(key.trained, "" if of == key.train_masks else f"the oracle's arm: {of}") for key, of in oracles.items()}
    return make_table(
        "decomposition",
        title="Where did the robustness go?",
        caption=f"In percent of all images, with 95 % interval, at {epsilon_text(study.primary_epsilon)}. "
        "Robust: under the whole suite.",
        **_measured(study, figures, trained, measures),
    )


def _paths_table(study: Study, figures: Shares) -> Table:
    steps = ((study.about.get("config") or {}).get("decomposition") or {}).get("num_steps")
    budget = f"{steps} steps" if steps else "as many steps"
    trained = {key: Cell(key.trained) for key in figures}
    return make_table(
        "decomposition-paths",
        title="One attack, three gradients",
        caption=f"Images robust at {epsilon_text(study.primary_epsilon)} under one attack (Auto-PGD on the margin, {budget}), "
        "by what its gradient goes through, in percent with 95 % interval. Whichever it is, the mask still follows the attacked "
        "image.",
        **_measured(study, figures, trained, {name: f"Gradient through {path}" for name, path in _PATHS.items()}),
    )


def _measured(study: Study, figures: Shares, trained: dict[Condition, Cell], measures: dict[str, str]) -> dict[str, Any]:
    """Columns and rows of some measures of every arm at the headline's epsilon. The figures for programs are those of all
    attributions and epsilons."""
    rows, tidy = [], list[dict[str, Any]]()
    kept = {*measures, *(each.value for each in Attribution)} if Attribution.GAINED.value in measures else set(measures)
    for key, by_epsilon in figures.items():
        values = by_epsilon[study.primary_epsilon]
        row = (Cell(key.tested), trained[key], *(share_cell(values[one]) for one in measures))
        rows.append((wording.classifier(key.classifier_objective), row))
        for at, estimates in by_epsilon.items():
            about = {**{one: getattr(key, one) for one in _KEY}, "epsilon": at}
            tidy += [{**about, "measure": one, **tidy_estimate(value)} for one, value in estimates.items() if one in kept]
    columns = (*MASK_COLUMNS, *(numbers(label, "%") for label in measures.values()))
    return {"columns": columns, "rows": rows, "tidy": tidy}
