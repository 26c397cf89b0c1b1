"""A few images of every outcome, with what the attack did to them: what the report shows and records cannot hold.

The adversarial images are found again by the attack and at the epsilon that the records name, so nothing has to be kept while
the evaluation runs, and the page needs neither model nor data set. Where descent had gone on from a point of a smaller ball,
what is found may be another image of the same outcome. ``gallery.npz`` holds one array for each field of ``Gallery``.
"""

import io
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int8, Int64, UInt8
from torch import Tensor

from pipeline.errors import RunError
from pipeline.evaluation.chunks import Chunk
from pipeline.evaluation.evaluator import EvaluationRun, attack_again
from pipeline.evaluation.examples import as_bytes
from pipeline.evaluation.metrics import strongest
from pipeline.runs.files import write_atomically
from pipeline.system import attacked, masks_and_logits

GALLERY = "gallery.npz"


class GalleryOutcome(StrEnum):
    """What became of an image at the largest epsilon."""

    MISCLASSIFIED = "misclassified"
    """Right as it is, wrong under attack."""
    ROBUST = "robust"
    """Right as it is and under every attack."""
    WRONG_CLEAN = "wrong-clean"
    """Wrong as it is; it was not attacked."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images with their masks before and under attack."""

    sample_id: np.ndarray
    """Text, as are ``outcome`` and ``attack``; the attack is empty where there was none."""
    outcome: np.ndarray
    attack: np.ndarray
    epsilon: np.ndarray
    """Float64: that of the attack, 0 where there was none."""
    classes: np.ndarray
    """Names of all classes, text."""
    label: Int64[np.ndarray, " images"]
    clean_prediction: Int64[np.ndarray, " images"]
    adversarial_prediction: Int64[np.ndarray, " images"]
    clean_confidence: Float32[np.ndarray, " images"]
    """Softmax probability of the prediction."""
    adversarial_confidence: Float32[np.ndarray, " images"]
    image: UInt8[np.ndarray, "images side side 3"]
    oracle_mask: UInt8[np.ndarray, "images side side"]
    clean_mask: UInt8[np.ndarray, "images side side"]
    """What the classifier sees the image through, 255 is foreground."""
    adversarial_mask: UInt8[np.ndarray, "images side side"]
    adversarial: UInt8[np.ndarray, "images side side 3"]
    """Rounded to what can be shown."""
    perturbation: Int8[np.ndarray, "images side side 3"]
    """In 1/127 of ``perturbation_scale``: finer than the rounded images would say."""
    perturbation_scale: Float32[np.ndarray, " images"]
    """Largest change of a value in [0,1]."""

    def __len__(self) -> int:
        return len(self.label)


def write_gallery(path: Path, run: EvaluationRun, records: pl.DataFrame, *, per_outcome: int, device: torch.device) -> None:
    """Write ``gallery.npz`` into a directory: the first images of each outcome in the order of the run. Raises RunError."""
    chosen = _choose(run, records, per_outcome)
    rows = run.rows[chosen["position"].to_numpy()]
    chunk = run.chunk(rows, device)
    images = _attacked_again(run, chunk, chosen)
    gallery, wrong = _gallery(run, chunk, chosen, images)
    # Nothing is shown as what it is not.
    kept = wrong == (chosen["outcome"] != GalleryOutcome.ROBUST).to_numpy()
    arrays = {one.name: getattr(gallery, one.name) for one in fields(Gallery)}
    content = io.BytesIO()
    np.savez_compressed(content, **{name: array if name == "classes" else array[kept] for name, array in arrays.items()})
    write_atomically(path / GALLERY, content.getvalue())


def read_gallery(path: Path) -> Gallery | None:
    """The gallery of an evaluation; None where it keeps none. Raises RunError for a damaged one."""
    if not (path / GALLERY).exists():
        return None
    try:
        with np.load(io.BytesIO((path / GALLERY).read_bytes()), allow_pickle=False) as stored:
            gallery = Gallery(**{one.name: stored[one.name] for one in fields(Gallery)})
        lengths = {len(getattr(gallery, one.name)) for one in fields(Gallery) if one.name != "classes"}
        if len(lengths) != 1:
            raise ValueError("its arrays differ in length")
    except Exception as error:  # zlib.error, struct.error, RuntimeError for a flag, MemoryError for a shape: it depends on the byte
        raise RunError(f"{path / GALLERY}: damaged ({error}); delete it and evaluate with resume=true") from error
    return gallery


def _choose(run: EvaluationRun, records: pl.DataFrame, per_outcome: int) -> pl.DataFrame:
    """Position in the run, outcome, and what found the worst adversarial image at the largest epsilon."""
    ids = run.dataset.samples["sample_id"].gather(run.rows)
    order = pl.DataFrame({"sample_id": ids, "position": np.arange(len(ids))})
    largest = records.filter(pl.col("epsilon") == pl.col("epsilon").max())
    worst = strongest(largest, "sample_id")
    wrong, misclassified = pl.col("clean_prediction") != pl.col("label"), pl.col("adversarial_prediction") != pl.col("label")
    of_right = (
        pl.when(misclassified).then(pl.lit(GalleryOutcome.MISCLASSIFIED.value)).otherwise(pl.lit(GalleryOutcome.ROBUST.value))
    )
    outcome = pl.when(wrong).then(pl.lit(GalleryOutcome.WRONG_CLEAN.value)).otherwise(of_right)
    judged = order.join(worst.with_columns(outcome=outcome), on="sample_id", how="inner").sort("position")
    return judged.group_by("outcome", maintain_order=True).head(per_outcome).sort("position")


def _attacked_again(run: EvaluationRun, chunk: Chunk, chosen: pl.DataFrame) -> Tensor:
    images = chunk.batch.images.clone()
    runs = chosen.with_row_index("row").filter((pl.col("outcome") != GalleryOutcome.WRONG_CLEAN) & pl.col("found_by").is_not_null())
    for (name, epsilon), members in runs.group_by("found_by", "found_epsilon", maintain_order=True):
        rows = torch.from_numpy(members["row"].to_numpy().astype(np.int64)).to(images.device)
        found = attack_again(run, str(name), float(str(epsilon)), chunk.batch.select(rows))
        images[rows] = found.images
    return images


@torch.no_grad()
def _gallery(run: EvaluationRun, chunk: Chunk, chosen: pl.DataFrame, images: Tensor) -> tuple[Gallery, np.ndarray]:
    clean = chunk.batch.images
    before, after = _seen(run, chunk, clean), _seen(run, chunk, images)
    change = (images - clean).double()
    scale = change.abs().amax(dim=(1, 2, 3)) if len(change) else change.new_zeros(0)
    steps = (change / scale.clamp(min=1e-12).view(-1, 1, 1, 1) * 127).round()
    label = chunk.batch.labels.cpu().numpy()
    gallery = Gallery(
        sample_id=_text(chunk.sample_ids),
        outcome=_text(chosen["outcome"].to_list()),
        attack=_text(chosen["found_by"].fill_null("").to_list()),
        epsilon=chosen["found_epsilon"].fill_null(0.0).to_numpy(),
        classes=_text(list(run.dataset.classes)),
        label=label,
        clean_prediction=before[1],
        adversarial_prediction=after[1],
        clean_confidence=before[2],
        adversarial_confidence=after[2],
        image=as_bytes(clean),
        oracle_mask=np.asarray(run.dataset.masks[run.rows[chosen["position"].to_numpy()]]),
        clean_mask=before[0],
        adversarial_mask=after[0],
        adversarial=as_bytes(images),
        perturbation=steps.permute(0, 2, 3, 1).to(torch.int8).cpu().numpy(),
        perturbation_scale=scale.float().cpu().numpy(),
    )
    return gallery, after[1] != label


def _seen(run: EvaluationRun, chunk: Chunk, images: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks, predictions and their confidences."""
    parts = []
    for rows in torch.split(torch.arange(len(images), device=images.device), run.batch_size):
        with attacked(run.system):
            masks, logits = masks_and_logits(run.system, images[rows], chunk.batch.select(rows).context)
        confidence, prediction = logits.softmax(dim=1).max(dim=1)
        parts.append((as_bytes(masks)[..., 0], prediction.cpu().numpy(), confidence.float().cpu().numpy()))
    masks_of, predictions, confidences = (np.concatenate(values) for values in zip(*parts, strict=True))
    return masks_of, predictions, confidences


def _text(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=np.str_)
