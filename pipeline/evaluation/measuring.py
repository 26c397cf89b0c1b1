"""Make the measurements of a suite, chunk by chunk, and record what was observed of every image as it is made.

A part holds the observations of one chunk of images under one condition of one measurement. It lies in ``measurements/`` of the
evaluation's directory under the same rules as records: written whole or not at all, its digest in its name. Killed at any moment,
the work goes on where it was.
"""

import dataclasses
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.attacks.acceleration import copy_to_search
from pipeline.attacks.backgrounds import choose_donors
from pipeline.attacks.measurement import Condition, Measurement
from pipeline.attacks.measuring import Donors, MeasuredBatch, Observation
from pipeline.data.loader import Batch, read_rows
from pipeline.data.seeds import sample_seed
from pipeline.evaluation.evaluator import EvaluationRun
from pipeline.evaluation.examples import EXAMPLES, Example, example_of
from pipeline.evaluation.records import Unit, read_tables, units_in, write_table
from pipeline.randomness import derive_seeds
from pipeline.runs.sharing import Turns, alone
from pipeline.system import System, attacked, clean_context, context_of

MEASUREMENTS = "measurements"

OBSERVATIONS = {
    "sample_id": pl.String(),
    "group": pl.String(),
    "label": pl.Int64(),
    "system": pl.String(),
    "mask_source": pl.String(),
    "measurement": pl.String(),
    "kind": pl.String(),
    "threat": pl.String(),
    "condition": pl.String(),
    "level": pl.Float64(),
    "claim": pl.String(),
    "counted": pl.Boolean(),
    "prediction": pl.Int64(),
    "correct": pl.Boolean(),
    "value": pl.Float64(),
    "mask_iou": pl.Float64(),
    "seconds": pl.Float64(),
    "seed": pl.Int64(),
}
"""The columns of an observation.

``measurement`` is the name in the configuration, ``kind`` what is measured, ``threat`` the norm or what happens to the images,
``claim`` what kind of statement a figure made of it is. ``counted`` is false where nothing can be said of the image under the
condition; such rows are in no figure. ``prediction`` is -1 where a smoothed system abstains. ``value`` is a distance (infinite:
never fooled) or a certified radius, null where a measurement has none. The other columns are those of records.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """One part, by position and by what it is."""

    unit: Unit
    name: str
    spec: Measurement
    condition: Condition


def measure_images(
    run: EvaluationRun, path: Path, *, device: torch.device, advance: Callable[[int], object], turns: Turns = alone
) -> None:
    """Make every observation that is missing in the evaluation's directory. ``advance`` is told of finished ones; ``turns`` says
    which chunks this process does.

    Raises RunError where they cannot be written, and what the measurements raise.
    """
    directory = path / MEASUREMENTS
    first = run.batch(run.rows[:1], device)
    copy = copy_to_search(run.system, first.images, first.context, precision=run.precision)

    def measure(chunk: int) -> None:
        rows = run.chunk_rows(chunk)
        for part in _missing_parts(run, directory):
            if part.unit.chunk == chunk:
                table, example = _observed(run, part, rows, device, copy)
                if example is not None and not chunk:
                    example.write(path / EXAMPLES / f"{part.unit.attack:02d}-{part.unit.epsilon_index:03d}.npz")
                write_table(directory, part.unit, table)
                advance(len(rows))

    turns(lambda: sorted({part.unit.chunk for part in _missing_parts(run, directory)}), measure)


def missing_observations(run: EvaluationRun, path: Path) -> int:
    """How many observations are still to be made."""
    return sum(len(run.chunk_rows(part.unit.chunk)) for part in _missing_parts(run, path / MEASUREMENTS))


def _missing_parts(run: EvaluationRun, directory: Path) -> list[_Part]:
    recorded = units_in(directory)
    parts = (
        _Part(unit=Unit(chunk, position, number), name=name, spec=spec, condition=condition)
        for chunk in range(run.num_chunks)
        for number, (name, spec) in enumerate(run.suite.measurements.items())
        for position, condition in enumerate(spec.conditions())
    )
    return [part for part in parts if part.unit not in recorded]


def read_observations(path: Path) -> pl.DataFrame | None:
    """All observations of an evaluation, as far as it has come; None where there are none. Raises RunError for a damaged part."""
    return read_tables(path / MEASUREMENTS, OBSERVATIONS)


def _observed(
    run: EvaluationRun, part: _Part, rows: Int64[np.ndarray, " images"], device: torch.device, copy: System
) -> tuple[pl.DataFrame, Example | None]:
    """The observations of a part, and an example from its first batch."""
    began, example, seen = time.monotonic(), None, []
    for begin in range(0, len(rows), run.batch_size):
        some = rows[begin : begin + run.batch_size]
        batch = dataclasses.replace(_batch(run, part.name, some, device), copy=copy)
        seen.append(part.spec.observe(batch, part.condition))
        if not begin:
            example = example_of(
                *(part.name, part.spec.kind, part.condition, batch, seen[0]),
                sample_ids=run.sample_ids(some),
                classes=run.dataset.classes,
            )
    samples = run.dataset.samples
    values = _joined(seen, "values").astype(np.float64)
    columns: dict[str, object] = {
        "sample_id": samples["sample_id"].gather(rows),
        "group": samples["group"].gather(rows),
        "label": run.dataset.labels[rows],
        "system": run.system_id,
        "mask_source": run.system.mask_traits.source,
        "measurement": part.name,
        "kind": part.spec.kind,
        "threat": part.spec.threat,
        "condition": part.condition.name,
        "level": part.condition.level,
        "claim": part.condition.claim.value,
        "counted": _joined(seen, "counted"),
        "prediction": _joined(seen, "predictions"),
        "correct": _joined(seen, "correct"),
        "value": pl.Series(values).fill_nan(None),
        "mask_iou": _joined(seen, "mask_iou"),
        "seconds": (time.monotonic() - began) / len(rows),
        "seed": run.seed,
    }
    return pl.DataFrame(columns, schema_overrides=OBSERVATIONS).select(list(OBSERVATIONS)), example


def _joined(seen: list[Observation], column: str) -> np.ndarray:
    return np.concatenate([getattr(one, column).cpu().numpy() for one in seen])


def _batch(run: EvaluationRun, name: str, rows: Int64[np.ndarray, " images"], device: torch.device) -> MeasuredBatch:
    batch = read_rows(run.dataset, rows).to(device)
    with attacked(run.system), torch.no_grad():
        context = clean_context(run.system, batch.images, context_of(batch))
    return MeasuredBatch(
        system=run.system,
        images=batch.images,
        labels=batch.labels,
        context=context,
        seeds=derive_seeds(batch.seeds, run.seed, zlib.crc32(name.encode())),
        donors=lambda same_class: _donors(run, batch, rows, same_class),
    )


def _donors(run: EvaluationRun, batch: Batch, rows: Int64[np.ndarray, " images"], same_class: bool) -> Donors:
    """From the split of the images, so that the number of images that are evaluated changes no donor."""
    dataset, samples = run.dataset, run.dataset.samples
    candidates = np.flatnonzero((samples["split"] == samples["split"][int(rows[0])]).to_numpy())
    chosen = choose_donors(
        rows,
        np.array([sample_seed("donor", sample_id) for sample_id in run.sample_ids(rows)]),
        dataset.labels,
        samples["group"].to_numpy(),
        candidates,
        same_class=same_class,
    )
    donors = read_rows(dataset, np.where(chosen >= 0, chosen, rows)).to(batch.images.device)
    found: Tensor = torch.from_numpy(chosen >= 0).to(batch.images.device)
    return Donors(images=donors.images, masks=donors.masks, found=found)
