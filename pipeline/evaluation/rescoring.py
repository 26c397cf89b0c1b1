"""Score saved adversarial images again: on their own system, to which they have to do what was written down, and on another one, to
see what an attacker gets who has only the first at hand."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool

from pipeline.errors import RunError
from pipeline.evaluation.chunks import Chunk, norms
from pipeline.evaluation.evaluator import EvaluationRun, Store
from pipeline.evaluation.records import RecordStore, Status, Unit

ROUNDING = 1e-4
"""How much a margin may move with the batch that an image is scored in, relative to it or, if larger, the median clean margin."""
_CLEAN = (Status.WRONG_CLEAN.value, Status.EPSILON_ZERO.value)
"""Of these images the copy is the clean image: the source needs no attack, or has none."""


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """How saved adversarial images compare with their records."""

    num_images: int
    changed: tuple[str, ...]
    """Sample ids whose verdict, margin or norm is not the recorded one beyond rounding."""
    largest_difference: float
    """Largest difference of a margin."""


def rescore(run: EvaluationRun, store: Store, *, device: torch.device) -> Rescored:
    """Read back every saved adversarial image, score it afresh and compare. Raises RunError for missing and damaged files."""
    changed: list[str] = []
    largest, total = 0.0, 0
    for number in range(run.num_chunks):
        chunk = run.chunk(run.chunk_rows(number), device)
        for unit in run.units(number):
            differences, ids = _compare(chunk, store, unit)
            changed += ids
            largest, total = max(largest, float(differences.max(initial=0))), total + len(differences)
    return Rescored(num_images=total, changed=tuple(changed), largest_difference=largest)


def _compare(chunk: Chunk, store: Store, unit: Unit) -> tuple[np.ndarray, list[str]]:
    recorded = store.read(unit)
    positions = np.flatnonzero((recorded["status"] == Status.ATTACKED).to_numpy())
    recorded = recorded.filter(pl.col("status") == Status.ATTACKED)
    where = torch.from_numpy(positions).to(chunk.batch.labels.device)
    images = torch.empty_like(chunk.batch.images[where]).copy_(torch.from_numpy(store.read_images(unit)))
    measured, lengths = chunk.measure(images, where), norms(images, chunk.batch.images[where])
    margins = recorded["adversarial_margin"].to_numpy()
    differences = np.abs(measured.margin - margins)
    scale = float(np.median(np.abs(recorded["clean_margin"].to_numpy()))) if len(recorded) else 1.0
    near = np.abs(margins) <= ROUNDING * scale  # on the decision boundary rounding may turn the verdict
    label = recorded["label"].to_numpy()
    turned = ((measured.prediction != label) != (recorded["adversarial_prediction"].to_numpy() != label)) & ~near
    moved = differences > ROUNDING * np.maximum(scale, np.abs(margins))
    strayed = np.any([np.abs(values - recorded[norm].to_numpy()) > 1e-9 for norm, values in lengths.items()], axis=0)
    return differences, recorded["sample_id"].filter(pl.Series(turned | moved | strayed)).to_list()


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
