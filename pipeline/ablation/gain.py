"""What the oracle's masks add to none, and what it is made of, as far as controls on the same images can tell.

gain      robust accuracy of the oracle's arm minus that of the arm without masks
surface   what the arm without masks gains if the attacker may change the foreground alone: pixels that a mask takes away
outline   masks of other images of the same class minus random masks of equal area, components and perimeter: neither shows where
          the object is, and only the first has an outline that can name its class
rest      gain minus surface minus outline: what else a mask does in training and testing, and what the parts share

The parts are differences between systems, not shares of one cause: where two overlap the rest is too small, and it may be negative.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from pipeline.evaluation.metrics import on_shared_images, robust_images
from pipeline.evaluation.statistics import Estimate, difference_over_seeds, pooled_over_seeds, share_over_seeds
from pipeline.evaluation.summary import finished_records

NONE, ORACLE, FOREIGN, ALIKE, FOREGROUND, BACKGROUND = "none", "oracle", "foreign-same", "random-alike", "foreground", "background"
PARTS: Mapping[str, Mapping[str, int]] = {
    "gain": {ORACLE: 1, NONE: -1},
    "surface": {FOREGROUND: 1, NONE: -1},
    "outline": {FOREIGN: 1, ALIKE: -1},
    "rest": {ORACLE: 1, FOREGROUND: -1, FOREIGN: -1, ALIKE: 1},
}
"""How often the robust accuracy of each system counts in each part. The parts add up to the gain."""
LEVELS = (NONE, FOREGROUND, BACKGROUND, FOREIGN, ALIKE, ORACLE)
"""Robust accuracies that the parts are made of, and that against an attacker confined to the background."""
Robust = Mapping[str, Float[np.ndarray, "seeds images"]]
"""By system: 1 where an image stands under a seed, else 0, images in one order."""


def split_gain(robust: Robust, groups: Shaped[np.ndarray, " images"]) -> dict[str, Estimate]:
    """Every level and part as an estimate over seeds and images; its interval is for independent groups and, with several, seeds.

    Bootstrap with a fixed seed: the same outcomes give the same figures. Intervals are those that the tables of systems and of
    comparisons give: of a level that of a share, and of two systems that of their difference.
    """
    found = {}
    for name in (*LEVELS, *PARTS):
        of, rng = PARTS.get(name, {name: 1}), np.random.default_rng(0)
        if name in LEVELS:
            found[name] = share_over_seeds(robust[name] > 0, groups, rng)
            continue
        if len(of) == 2:
            more, less = (robust[one] > 0 for one in sorted(of, key=of.__getitem__, reverse=True))
            found[name] = difference_over_seeds(more, less, groups, rng)
        else:
            values = np.sum([times * robust[one] for one, times in of.items()], axis=0)
            limits = (float(sum(min(times, 0) for times in of.values())), float(sum(max(times, 0) for times in of.values())))
            found[name] = pooled_over_seeds(values, groups, rng, limits=limits)
    return found


def gain_rows(runs: Mapping[str, Sequence[Path]], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each epsilon above 0 and each level and part, JSON-able, with the columns of ``about`` in front.

    ``runs``: for each system its evaluations, one a seed, in the same order of seeds. Only images that all of them have met count.
    """
    records = {name: [finished_records(run) for run in of_seeds] for name, of_seeds in runs.items()}
    epsilons = records[NONE][0]["epsilon"].unique().sort().to_list()
    rows: list[dict[str, Any]] = []
    for epsilon in [epsilon for epsilon in epsilons if epsilon > 0]:
        tables = {name: [robust_images(one, epsilon) for one in of_seeds] for name, of_seeds in records.items()}
        every = [(name, table) for name, of_seeds in tables.items() for table in of_seeds]
        values, groups = on_shared_images([table.rename({"robust": "value"}) for _, table in every])
        robust = {name: values[[one == name for one, _ in every]].astype(np.float64) for name in tables}
        rows += [{**about, "epsilon": epsilon, "part": part, **vars(value)} for part, value in split_gain(robust, groups).items()]
    return rows
