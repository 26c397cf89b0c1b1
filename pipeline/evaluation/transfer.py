"""Adversarial images of one evaluation shown to another system: what an attacker gets who has only the first at hand."""

from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool

from pipeline.errors import RunError
from pipeline.evaluation.chunks import Chunk
from pipeline.evaluation.evaluator import EvaluationRun
from pipeline.evaluation.records import RecordStore, Status, Unit

_CLEAN = (Status.WRONG_CLEAN.value, Status.EPSILON_ZERO.value)
"""Of these images the copy is the clean image: the source needs no attack, or has none."""


def transferred(source: Path, target: EvaluationRun, *, device: torch.device) -> pl.DataFrame:
    """What a system makes of the adversarial images of an evaluation of the same images.

    ``source`` is the directory of an evaluation with ``attack_all`` and ``save_images``: images that are kept at the first success
    lie just beyond the boundary of the system that they were made on, and say little about others. ``target`` is an evaluation of
    the other system, of which the images and the system count. Its mask source sees what it would see of these images.

    Returns:
        One row an image and epsilon: ``sample_id``, ``group``, ``epsilon`` and ``robust``: the clean copy and every adversarial
        copy up to that epsilon get the label. On the system that the images were made on that is the recorded outcome.

    Raises RunError where the images were not kept, are damaged, or belong to other images of the data set.
    """
    store, tables = RecordStore(source), []
    for number, units in groupby(sorted(store.units()), key=lambda unit: unit.chunk):
        chunk = target.chunk(target.chunk_rows(number), device)
        robust = chunk.clean_correct.copy()
        for _, of_epsilon in groupby(units, key=lambda unit: unit.epsilon_index):
            for unit in of_epsilon:
                wrong, epsilon = _misclassified(store, source, unit, chunk)
                robust &= ~wrong
            columns = {"sample_id": chunk.sample_ids, "group": chunk.groups, "epsilon": epsilon, "robust": robust.copy()}
            tables.append(pl.DataFrame(columns, schema_overrides={"epsilon": pl.Float64}))
    if not tables:
        raise RunError(f"{source}: holds no records; evaluate it first")
    return pl.concat(tables)


def _misclassified(store: RecordStore, source: Path, unit: Unit, chunk: Chunk) -> tuple[Bool[np.ndarray, " images"], float]:
    """Which images of a chunk the target misclassifies in the copies of one part, and the epsilon of the part."""
    recorded = store.read(unit)
    if recorded["sample_id"].to_list() != chunk.sample_ids:
        raise RunError(f"{source}: its images are not those of the system that they are shown to: evaluate both on the same ones")
    attacked = (recorded["status"] == Status.ATTACKED).to_numpy()
    if not (attacked | recorded["status"].is_in(_CLEAN).to_numpy()).all():
        raise RunError(f"{source}: its attacks stopped at the first success; evaluate with attack_all=true save_images=true")
    positions = np.flatnonzero(attacked)
    where = torch.from_numpy(positions).to(chunk.batch.labels.device)
    images = torch.empty_like(chunk.batch.images[where]).copy_(torch.from_numpy(store.read_images(unit)))
    wrong = ~chunk.clean_correct
    wrong[positions] = chunk.measure(images, where).prediction != recorded["label"].to_numpy()[positions]
    return wrong, float(recorded["epsilon"][0])
