"""How much of what masks add is surface taken from the attacker: every arm under attackers who may change a part of the image."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from pipeline.evaluation.metrics import on_shared_images, robust_images
from pipeline.evaluation.statistics import Estimate, difference_over_seeds, pooled_over_seeds
from pipeline.evaluation.summary import epsilon_text, finished_records
from pipeline.reporting import wording
from pipeline.reporting.comparisons import generator
from pipeline.reporting.data import Arm, Condition, Study
from pipeline.reporting.figures import share
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, make_table, numbers, points_cell, share_cell, tidy_estimate

TITLE = "How much of the gain is surface?"
WHOLE = "everywhere"
BUDGETS = {
    WHOLE: "Whole image",
    "foreground": "Object alone",
    "background": "Beside the object",
    "foreground-l2": "Object, equal L2",
}
"""What the attacker may change, in words."""
PARTS: Mapping[str, Mapping[str, int]] = {
    "gain": {WHOLE: 1},
    "gain-on-object": {"foreground": 1},
    "surface": {WHOLE: 1, "foreground": -1},
    "gain-at-equal-l2": {"foreground-l2": 1},
}
"""How often the difference to the arm without masks, under each budget, counts in each part."""
_LABELS = {
    "gain": "Gain over none",
    "gain-on-object": "Gain where both attackers keep to the object",
    "surface": "Surface: what is left of the gain",
    "gain-at-equal-l2": "Gain on the object at equal L2",
}
_INTRO = (
    "Masks take attack surface away: an attacker of the whole image has more pixels to change where there is no mask. Here an arm "
    "is attacked once more by attackers who may change the object alone, or what is beside it, with the same attacks and epsilons; "
    "and by one with an L2 length in place of a largest change, the same for every image and arm: that of a change by epsilon of "
    "every value of a foreground of average size. What an arm gains over none against attackers who keep to the object is not "
    "surface; the rest of its gain is. No attacker need keep to a region: these figures explain, they promise nothing, and each is "
    "an upper estimate."
)
Robust = dict[str, Float[np.ndarray, "seeds images"]]
"""By budget: 1 where an image stands under a seed, else 0."""
Systems = dict[Condition, tuple[tuple[int, ...], Robust, Shaped[np.ndarray, " images"]]]
"""Seeds, outcomes, and the group of each image."""


def surface_sections(study: Study) -> tuple[Section, ...]:
    """One section, or none where no arm was attacked so. Raises RunError for damaged records."""
    found = _robust(study)
    if not found:
        return ()
    tables = [_levels(study, found)]
    parts = _parts(found)
    if parts:
        tables.append(_gains(study, parts))
    return (Section(name="surface", title=TITLE, intro=_INTRO, tables=tuple(tables)),)


def _robust(study: Study) -> Systems:
    """Of every condition its seeds, and which images stand at the primary epsilon under each budget, images in one order."""
    runs: dict[str, dict[str, pl.DataFrame]] = {}
    for entry in study.confined:
        runs.setdefault(entry.arm, {})[entry.budget] = _robust_at(study, finished_records(study.path / entry.evaluation))
    by_condition = {condition: [arm for arm in arms if arm.name in runs] for condition, arms in study.by_condition("main").items()}
    chosen = {condition: arms for condition, arms in by_condition.items() if arms}
    every = [(arm, budget) for arms in chosen.values() for arm in arms for budget in _budgets(runs, arms)]
    if not every:
        return {}
    tables = [_robust_at(study, arm.records) if budget == WHOLE else runs[arm.name][budget] for arm, budget in every]
    values, groups = on_shared_images([table.rename({"robust": "value"}) for table in tables])
    rows = dict(zip(((arm.name, budget) for arm, budget in every), values.astype(np.float64), strict=True))
    return {
        condition: (
            tuple(arm.seed for arm in arms),
            {budget: np.stack([rows[arm.name, budget] for arm in arms]) for budget in _budgets(runs, arms)},
            groups,
        )
        for condition, arms in chosen.items()
    }


def _budgets(runs: Mapping[str, Mapping[str, pl.DataFrame]], arms: Sequence[Arm]) -> list[str]:
    """That all seeds of a condition were attacked under."""
    return [WHOLE, *(budget for budget in BUDGETS if all(budget in runs[arm.name] for arm in arms))]


def _robust_at(study: Study, records: pl.DataFrame) -> pl.DataFrame:
    """At the primary epsilon, or at what stands in its place in a list of L2 lengths."""
    position = study.epsilons.index(study.primary_epsilon)
    return robust_images(records, records["epsilon"].unique().sort()[position])


def _parts(found: Systems) -> dict[Condition, dict[str, Estimate]]:
    """Of every condition but none what it adds to none of the same objective and seeds, and what that is made of."""
    maskless = {condition.classifier_objective: condition for condition in found if condition.is_maskless}
    parts: dict[Condition, dict[str, Estimate]] = {}
    for condition, (seeds, robust, groups) in found.items():
        none = maskless.get(condition.classifier_objective)
        if none is None or condition == none:
            continue
        none_seeds, none_robust, _ = found[none]
        shared = [seed for seed in seeds if seed in none_seeds]
        ours, theirs = ([of.index(seed) for seed in shared] for of in (seeds, none_seeds))
        for part, of in PARTS.items():
            if shared and all(budget in robust and budget in none_robust for budget in of):
                pairs = {budget: (robust[budget][ours], none_robust[budget][theirs]) for budget in of}
                parts.setdefault(condition, {})[part] = _part(part, pairs, groups, f"{part} {condition.draws}")
    return parts


def _part(
    part: str, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], groups: Shaped[np.ndarray, " images"], key: str
) -> Estimate:
    """A part from the outcomes of a system and of none under each of its budgets, seeds by images. Of two systems the interval is
    that of their comparison."""
    (ours, theirs), *others = pairs.values()
    if not others:
        return difference_over_seeds(ours > 0, theirs > 0, groups, generator(key))
    of, most = PARTS[part], float(len(pairs))
    values = np.sum([of[budget] * (first - second) for budget, (first, second) in pairs.items()], axis=0)
    return pooled_over_seeds(values, groups, generator(key), limits=(-most, most))


def _levels(study: Study, found: Systems) -> Table:
    rows, tidy = [], []
    budgets = [budget for budget in BUDGETS if any(budget in robust for _, robust, _ in found.values())]
    for condition, (_, robust, groups) in found.items():
        estimates = {budget: share(values.astype(bool), groups, f"{budget} {condition.draws}") for budget, values in robust.items()}
        cells = [share_cell(estimates[budget]) if budget in estimates else Cell("") for budget in budgets]
        rows.append((wording.heading(condition), (Cell(condition.masks), *cells)))
        tidy += [{**condition.columns, "budget": budget, **tidy_estimate(estimate)} for budget, estimate in estimates.items()]
    return make_table(
        "surface-levels",
        title="Robust accuracy, by what the attacker may change",
        caption=f"Upper estimates in % with 95 % interval, at {epsilon_text(study.primary_epsilon)}.",
        columns=(Column("Masks in training to testing"), *(numbers(BUDGETS[budget], "%") for budget in budgets)),
        rows=rows,
        tidy=tidy,
    )


def _gains(study: Study, parts: Mapping[Condition, Mapping[str, Estimate]]) -> Table:
    rows, shown = [], [part for part in PARTS if any(part in of for of in parts.values())]
    for condition, of in parts.items():
        cells = [points_cell(of[part]) if part in of else Cell("") for part in shown]
        rows.append((wording.heading(condition), (Cell(condition.masks), *cells)))
    return make_table(
        "surface",
        title=TITLE,
        caption=f"In points with 95 % interval, on the same images, at {epsilon_text(study.primary_epsilon)}.",
        columns=(Column("Masks in training to testing"), *(numbers(_LABELS[part], "points") for part in shown)),
        rows=rows,
        tidy=(
            {**condition.columns, "part": part, **tidy_estimate(one)} for condition, of in parts.items() for part, one in of.items()
        ),
    )
