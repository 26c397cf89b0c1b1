"""Images of somebody's own, as an evaluation takes those of a prepared data set: in parts, known by their position."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64

from pipeline.attacks.start import AttackBatch
from pipeline.data.seeds import sample_seed
from pipeline.errors import InputError
from pipeline.evaluation.chunks import Chunk, attack_batch
from pipeline.evaluation.evaluator import EvaluationSettings
from pipeline.evaluation.inputs import OwnBatch
from pipeline.masks.context import MaskContext
from pipeline.system import System


@dataclass(frozen=True, kw_only=True)
class OwnImages(EvaluationSettings):
    """An evaluation of images at hand: what ``EvaluationRun`` is for those of a prepared data set."""

    own: OwnBatch
    positions: Int64[np.ndarray, " images"]
    """Of the images among all that the loader gives."""

    @property
    def rows(self) -> Int64[np.ndarray, " images"]:
        """All of them."""
        return np.arange(len(self.own.labels))

    def sample_ids(self, rows: Int64[np.ndarray, " some"]) -> list[str]:
        """What the images are known by: their position."""
        return [_sample_id(position) for position in self.positions[rows].tolist()]

    def batch(self, rows: Int64[np.ndarray, " some"], device: torch.device) -> AttackBatch:
        """Some of the images, ready to be attacked."""
        return attack_batch_of(
            self.system,
            self.own.select(rows),
            positions=self.positions[rows].tolist(),
            device=device,
            batch_size=self.batch_size,
        )

    def chunk(self, rows: Int64[np.ndarray, " some"], device: torch.device) -> Chunk:
        """Some of the images, and what is known of them before any attack. Each is a group of its own."""
        ids = self.sample_ids(rows)
        return Chunk(self.batch(rows, device), sample_ids=ids, groups=ids, batch_size=self.batch_size)


def mixed(parts: Sequence[OwnImages], most: int) -> OwnImages:
    """At most so many images of some parts of one loader, in an order that follows from their positions alone: loaders often give
    class after class, and the first images say nothing of the others. Any first part of the order is as mixed as the whole."""
    positions = np.concatenate([part.positions for part in parts])
    seeds = [sample_seed("evaluation", _sample_id(position)) for position in positions.tolist()]
    chosen = np.argsort(seeds, kind="stable")[:most]
    return replace(parts[0], own=_joined([part.own for part in parts]).select(chosen), positions=positions[chosen])


def attack_batch_of(
    system: System, own: OwnBatch, *, positions: Sequence[int], device: torch.device, batch_size: int
) -> AttackBatch:
    """Checked images, ready to be attacked; their seeds follow from their positions."""
    seeds = torch.tensor([sample_seed(_sample_id(position)) for position in positions], device=device)
    masks = None if own.masks is None else own.masks.to(device)
    context = MaskContext(oracle_masks=masks, sample_seeds=seeds)
    return attack_batch(system, own.images.to(device), own.labels.to(device), context, guides=None, batch_size=batch_size)


def in_parts(batches: Iterator[OwnBatch], *, size: int, max_images: int | None) -> Iterator[OwnBatch]:
    """The same images in parts of ``size``, the last of which may be smaller; of all, the first ``max_images``."""
    held: list[OwnBatch] = []
    taken = 0
    for batch in batches:
        batch = batch if max_images is None else batch.select(np.arange(min(len(batch.labels), max_images - taken)))
        taken += len(batch.labels)
        if len(batch.labels) < size:  # it has to wait for others, and whoever made it may fill the same memory again
            batch = OwnBatch(*(None if values is None else values.clone() for values in batch))  # type: ignore[arg-type]
        held.append(batch)
        while sum(len(one.labels) for one in held) >= size:
            whole = _joined(held)
            yield whole.select(np.arange(size))
            rest = whole.select(np.arange(size, len(whole.labels)))
            held = [rest] if len(rest.labels) else []
        if taken == max_images:
            break
    if held:
        yield _joined(held)


def _joined(batches: Sequence[OwnBatch]) -> OwnBatch:
    masks = [batch.masks for batch in batches if batch.masks is not None]
    if masks and len(masks) != len(batches):
        raise InputError("some batches of the data have masks and others have none: give all or none")
    sizes = sorted({tuple(batch.images.shape[2:]) for batch in batches})
    if len(sizes) > 1:
        raise InputError(f"the images of the data differ in size ({', '.join(map(str, sizes))}): resize them alike")
    images, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "labels"))
    return OwnBatch(images, labels, torch.cat(masks) if masks else None)


def _sample_id(position: int) -> str:
    return f"{position:06d}"
