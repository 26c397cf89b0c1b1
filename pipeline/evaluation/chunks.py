"""The images of an evaluation, in chunks: which ones, and what is known of each as attack after attack is run on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from pipeline.attacks.attempt import Victims
from pipeline.attacks.tracker import verdict
from pipeline.attacks.two_stage import GuideMasks
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import Batch, read_rows
from pipeline.data.seeds import sample_seed
from pipeline.data.splits import Split
from pipeline.evaluation.records import SCHEMA, Status
from pipeline.masks.context import MaskContext
from pipeline.system import System, attacked, clean_context
from segmenter.metrics import intersection_over_union

_MEASURED = ("prediction", "margin", "mask_iou", "mask_mean")


def choose_rows(dataset: PreparedDataset, split: Split, max_images: int | None) -> Int64[np.ndarray, " chosen"]:
    """Rows of a split: all of them, or ``max_images`` with the class shares of the split (largest remainders).

    The choice and its order are a function of the sample ids alone. So systems that are evaluated with the same number meet
    the same images, and any first part of the order is as mixed as the whole. Raises DataError for a split without samples.
    """
    rows = dataset.indices(split)
    ids = dataset.samples["sample_id"].gather(rows).to_list()
    rows = rows[np.argsort([sample_seed("evaluation", sample_id) for sample_id in ids], kind="stable")]
    if max_images is None or max_images >= len(rows):
        return rows
    labels = dataset.labels[rows]
    counts = np.bincount(labels, minlength=dataset.num_classes)
    exact = max_images * counts / len(rows)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: max_images - quota.sum()]] += 1
    taken = np.zeros_like(quota)
    chosen = np.zeros(len(rows), dtype=bool)
    for position, label in enumerate(labels):
        chosen[position] = taken[label] < quota[label]
        taken[label] += chosen[position]
    return rows[chosen]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a system makes of images: one value for each."""

    prediction: Int64[np.ndarray, " images"]
    margin: Float[np.ndarray, " images"]
    mask_iou: Float[np.ndarray, " images"]
    """Between the mask that the classifier sees the image through and the oracle."""
    mask_mean: Float[np.ndarray, " images"]
    """Mean of that mask over the image."""


class Chunk:
    """Some images of the data set, and what was found for them so far. What it knows follows from records and kept images alone, so
    a resumed evaluation goes on exactly as it would have."""

    def __init__(
        self,
        system: System,
        dataset: PreparedDataset,
        rows: Int64[np.ndarray, " images"],
        *,
        batch_size: int,
        device: torch.device,
        guides: GuideMasks | None,
    ) -> None:
        batch = read_rows(dataset, rows).to(device)
        self.sample_ids: list[str] = dataset.samples["sample_id"].gather(rows).to_list()
        self.groups: list[str] = dataset.samples["group"].gather(rows).to_list()
        self.batch_size = batch_size
        self._oracle = batch.masks
        self.victims = Victims(
            system=system,
            images=batch.images,
            labels=batch.labels,
            context=_context(system, batch, batch_size),
            seeds=batch.seeds,
            guides=guides,
        )
        self.clean = self.measure(self.victims.images, torch.arange(len(rows), device=device))
        self._labels = batch.labels.cpu().numpy()
        self.clean_correct = self.clean.prediction == self._labels
        self._fallen = ~self.clean_correct
        self._adversarial = {name: getattr(self.clean, name).copy() for name in _MEASURED}
        self._norms = {"linf": np.zeros(len(rows)), "l2": np.zeros(len(rows))}
        self._found_by: list[tuple[str, float] | None] = [None] * len(rows)
        self._own: dict[str, tuple[Tensor, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to_attack(self, *, keep_all: bool) -> Int64[Tensor, " attacked"]:
        """Positions of the images that the next attack is run on."""
        positions = np.flatnonzero(self.clean_correct if keep_all else ~self._fallen)
        return torch.from_numpy(positions).to(self.victims.labels.device)

    def best_below(self, attack: str) -> tuple[Float[Tensor, "images 3 height width"], Float[np.ndarray, " images"]] | None:
        """The best points of an attack at the last epsilon, with their margins: points of every larger ball. None at first."""
        return self._own.get(attack)

    @torch.no_grad()
    def measure(self, images: Float[Tensor, "some 3 height width"], positions: Int64[Tensor, " some"]) -> Measured:
        """Score images afresh, in batches; ``positions`` says of which images of the chunk they are versions."""
        parts: dict[str, list[np.ndarray]] = {
            name: [np.zeros(0, dtype=np.int64 if name == "prediction" else np.float64)] for name in _MEASURED
        }
        victims = self.victims
        for batch in batches(len(positions), self.batch_size, positions.device):
            of = positions[batch]
            context = None if victims.context is None else victims.context.select(of)
            scored = verdict(victims.system, images[batch], victims.labels[of], context)
            with attacked(victims.system):
                masks = victims.system.masks(images[batch], context)
            parts["prediction"].append(scored.predictions.cpu().numpy())
            parts["margin"].append(scored.margins.double().cpu().numpy())
            parts["mask_iou"].append(intersection_over_union(masks, self._oracle[of].to(masks.dtype)).double().cpu().numpy())
            parts["mask_mean"].append(masks.double().mean(dim=(1, 2, 3)).cpu().numpy())
        return Measured(**{name: np.concatenate(part) for name, part in parts.items()})

    def records(
        self,
        attack: str,
        epsilon: float,
        positions: Int64[Tensor, " attacked"],
        images: Float[Tensor, "attacked 3 height width"],
        *,
        seconds: float,
        about: dict[str, object],
    ) -> pl.DataFrame:
        """A record of every image of the chunk; ``images`` are what the attack found for those at ``positions``."""
        where = positions.cpu().numpy()
        new, (linf, l2) = self.measure(images, positions), norms(images, self.victims.images[positions])
        adversarial = {name: _put(self._adversarial[name], where, getattr(new, name)) for name in _MEASURED}
        found_by = list(self._found_by)
        for position in where:
            found_by[position] = (attack, epsilon)
        columns: dict[str, object] = {
            "sample_id": self.sample_ids,
            "group": self.groups,
            "label": self._labels,
            "attack": attack,
            "epsilon": epsilon,
            "status": self._statuses(epsilon, where),
            "found_by": [found and found[0] for found in found_by],
            "found_epsilon": [found and found[1] for found in found_by],
            **{f"clean_{name}": getattr(self.clean, name) for name in _MEASURED},
            **{f"adversarial_{name}": values for name, values in adversarial.items()},
            "linf": _put(self._norms["linf"], where, linf),
            "l2": _put(self._norms["l2"], where, l2),
            "seconds": _put(np.zeros(len(self)), where, np.full(len(where), seconds / max(1, len(where)))),
        }
        return pl.DataFrame({**columns, **about}, schema_overrides=SCHEMA).select(list(SCHEMA))

    def absorb(self, records: pl.DataFrame, images: Float32[np.ndarray, "attacked 3 height width"] | None) -> None:
        """Take note of a part, made now or read from the disk; None are images that no later attack starts from."""
        where = np.flatnonzero((records["status"] == Status.ATTACKED).to_numpy())
        predictions, margins = records["adversarial_prediction"].to_numpy(), records["adversarial_margin"].to_numpy()
        name, epsilon = str(records["attack"][0]), float(records["epsilon"][0])
        if images is not None:
            points, own_margins = self._own.get(name) or (self.victims.images.clone(), self.clean.margin.copy())
            own_margins[where] = margins[where]
            points[torch.from_numpy(where).to(points.device)] = torch.from_numpy(images).to(points)
            self._own[name] = points, own_margins
        fell = where[(predictions != self._labels)[where] & ~self._fallen[where]]
        for column in _MEASURED:
            self._adversarial[column][fell] = records[f"adversarial_{column}"].to_numpy()[fell]
        for column, values in self._norms.items():
            values[fell] = records[column].to_numpy()[fell]
        for position in fell:
            self._found_by[position] = (name, epsilon)
        self._fallen[fell] = True

    def _statuses(self, epsilon: float, attacked_positions: Int64[np.ndarray, " attacked"]) -> list[str]:
        statuses = []
        attacked_now = set(attacked_positions.tolist())
        for position in range(len(self)):
            found = self._found_by[position]
            if not self.clean_correct[position]:
                statuses.append(Status.WRONG_CLEAN)
            elif position in attacked_now:
                statuses.append(Status.ATTACKED)
            elif found is None:
                statuses.append(Status.EPSILON_ZERO)
            else:
                statuses.append(Status.FELL_BELOW if found[1] < epsilon else Status.FELL_EARLIER)
        return [str(status) for status in statuses]


def batches(count: int, batch_size: int, device: torch.device) -> Iterator[Int64[Tensor, " batch"]]:
    """The numbers from 0 up to ``count`` in batches, none of them empty."""
    for begin in range(0, count, batch_size):
        yield torch.arange(begin, min(begin + batch_size, count), device=device)


def norms(
    images: Float[Tensor, "some 3 height width"], clean: Float[Tensor, "some 3 height width"]
) -> tuple[Float[np.ndarray, " some"], Float[np.ndarray, " some"]]:
    """Maximum and Euclidean norm of the perturbation of each image, exact to double precision."""
    changes = (images.double() - clean.double()).flatten(1)
    linf = changes.abs().amax(dim=1) if len(changes) else changes.new_zeros(0)
    return linf.cpu().numpy(), torch.linalg.vector_norm(changes, dim=1).cpu().numpy()


def _context(system: System, samples: Batch, batch_size: int) -> MaskContext:
    images = samples.images
    context = MaskContext(oracle_masks=samples.masks, substitutes=samples.substitutes, sample_seeds=samples.seeds)
    with attacked(system):
        parts: Sequence[MaskContext] = [
            clean_context(system, images[batch], context.select(batch)) for batch in batches(len(images), batch_size, images.device)
        ]
    if parts[0].frozen_masks is None:
        return context
    return context._replace(frozen_masks=torch.cat([part.frozen_masks for part in parts if part.frozen_masks is not None]))


def _put(values: np.ndarray, where: np.ndarray, new: np.ndarray) -> np.ndarray:
    changed = values.copy()
    changed[where] = new
    return changed
