"""Score saved adversarial images again: what was written down must be what the images do."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from pipeline.evaluation.chunks import Chunk, norms
from pipeline.evaluation.evaluator import EvaluationRun, Store
from pipeline.evaluation.records import Status, Unit

ROUNDING = 1e-4
"""How much a margin may move with the batch that an image is scored in, relative to it or, if larger, the median clean margin."""


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
