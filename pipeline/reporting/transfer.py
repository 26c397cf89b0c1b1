"""Adversarial images of every arm shown to all the others: a matrix, once under the same seed and once under another."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl

from pipeline.ablation.table_job import read_table
from pipeline.ablation.transfer_job import TRANSFERRED
from pipeline.evaluation.metrics import on_shared_images
from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.data import Condition, Study
from pipeline.reporting.figures import share
from pipeline.reporting.section import Section
from pipeline.reporting.table import Cell, Column, Table, make_table, numbers, tidy_estimate

TITLE = "Do adversarial images of one system fool the others?"
_INTRO = (
    "Each row is a system whose adversarial images were made by one attack that ran to its end (Auto-PGD on the margin, through "
    "both stages); each column a system that they are shown to. In the cell: the share of all images that the system of the column "
    "gets right as they are and in these copies. Of an image that the row gets wrong as it is there is no copy, so a row that gets "
    "little right says little. On the diagonal the attacker knows the system; elsewhere only the one of the row. "
    "Every figure is an upper estimate against an attacker with that one other system at hand, and none a bound: a figure beside "
    "the diagonal that is lower than the one on it says that the attack on the system itself was too weak."
)
_SAME, _OTHER = "same", "other"
Matrix = dict[tuple[Condition, Condition], Estimate]


def transfer_sections(study: Study) -> tuple[Section, ...]:
    """One section, or none where no images were shown. Raises RunError for damaged files."""
    if not study.transfers:
        return ()
    shown = _shown(study)
    matrices = {seeds: _matrix(shown, study, seeds) for seeds in (_SAME, _OTHER)}
    tables = tuple(_table(study, matrix, seeds) for seeds, matrix in matrices.items() if matrix)
    return (Section(name="transfer", title=TITLE, intro=_INTRO, tables=tables),) if tables else ()


def _shown(study: Study) -> dict[tuple[str, str], pl.DataFrame]:
    """By the names of source and target: ``sample_id``, ``group`` and ``value`` at the primary epsilon, over all folds."""
    tables: dict[tuple[str, str], list[pl.DataFrame]] = {}
    for entry in study.transfers:
        rows = read_table(study.path / entry.rows, TRANSFERRED, remedy="run ablate again with resume=true")
        at = rows.filter(pl.col("epsilon") == study.primary_epsilon).rename({"robust": "value"})
        for (source, target), part in at.group_by("source", "target", maintain_order=True):
            tables.setdefault((str(source), str(target)), []).append(part.select("sample_id", "group", "value"))
    return {names: pl.concat(parts) for names, parts in tables.items()}


def _matrix(shown: Mapping[tuple[str, str], pl.DataFrame], study: Study, seeds: str) -> Matrix:
    """A cell pools its pairs of arms: round by round, in each of which a seed is at most once that of the row and once that of the
    column, so that its pairs are as independent as seeds are. Every round sees what the seeds differ by, so that the ends of an
    interval are the means over the rounds, and no more pairs make it narrower."""
    by_condition = study.by_condition("main")
    place = {seed: number for number, seed in enumerate(sorted({arm.seed for arm in study.arms}))}
    found: Matrix = {}
    for source, sources in by_condition.items():
        for target, targets in by_condition.items():
            alike = [pair for pair in product(sources, targets) if (pair[0].seed == pair[1].seed) == (seeds == _SAME)]
            pairs = [(one, other) for one, other in alike if (one.name, other.name) in shown]
            if pairs:
                values, groups = on_shared_images([shown[one.name, other.name] for one, other in pairs])
                rounds = np.array([(place[other.seed] - place[one.seed]) % len(place) for one, other in pairs])
                key = f"transfer {seeds} {source.draws} {target.draws}"
                parts = [share(values[rounds == number].astype(bool), groups, key) for number in np.unique(rounds)]
                low, high = (float(np.mean([getattr(part, end) for part in parts])) for end in ("low", "high"))
                found[source, target] = replace(parts[0], value=float(values.mean()), low=low, high=high)
    return found


def _table(study: Study, matrix: Matrix, seeds: str) -> Table:
    conditions = list(dict.fromkeys(condition for pair in matrix for condition in pair))
    place = {condition: str(number) for number, condition in enumerate(conditions, start=1)}
    names = {source: Cell(f"{place[source]}. {source.masks}", wording.heading(source)) for source in conditions}
    rows = [("", (names[source], *(_cell(matrix, source, target, seeds) for target in conditions))) for source in conditions]
    tidy = [
        {
            **{f"source_{name}": value for name, value in source.columns.items()},
            **{f"target_{name}": value for name, value in target.columns.items()},
            "seeds": seeds,
            "epsilon": study.primary_epsilon,
            **tidy_estimate(estimate),
        }
        for (source, target), estimate in matrix.items()
    ]
    about = "trained under the same seed" if seeds == _SAME else "trained under another seed"
    return make_table(
        f"transfer-{seeds}-seed",
        title=f"Images of the row shown to the column, {about}",
        caption=f"Right in %, with 95 % interval, at {epsilon_text(study.primary_epsilon)}. Columns are numbered like rows.",
        columns=(Column("Images made on"), *(numbers(place[target], target.test_masks) for target in conditions)),
        rows=rows,
        tidy=tidy,
    )


def _cell(matrix: Matrix, source: Condition, target: Condition, seeds: str) -> Cell:
    known = " known" if source == target and seeds == _SAME else ""
    return Cell(one.number(), f"{one.interval()}{known}") if (one := matrix.get((source, target))) is not None else Cell("")
