"""The images of an evaluation, in chunks: which ones, and what is known of each as attack after attack is run on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from pipeline.attacks.norms import length
from pipeline.attacks.runner import in_batches
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import NotANumber, of_batch, verdict
from pipeline.attacks.two_stage import GuideMasks
from pipeline.data.dataset import PreparedDataset
from pipeline.data.seeds import sample_seed
from pipeline.data.splits import Split
from pipeline.errors import NumberError
from pipeline.evaluation.records import SCHEMA, Status
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Labels
from pipeline.system import System, attacked, clean_context
from segmenter.metrics import intersection_over_union

_MEASURED = ("prediction", "margin", "confidence", "mask_iou", "mask_mean")


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
    confidence: Float[np.ndarray, " images"]
    """Softmax of the predicted class."""
    mask_iou: Float[np.ndarray, " images"]
    """Between the mask that the classifier sees the image through and the oracle."""
    mask_mean: Float[np.ndarray, " images"]
    """Mean of that mask over the image."""


class Chunk:
    """Some images, and what was found for them so far. What it knows follows from records and kept images alone, so a resumed
    evaluation goes on exactly as it would have."""

    def __init__(self, batch: AttackBatch, *, sample_ids: list[str], groups: list[str], batch_size: int) -> None:
        """``batch`` from ``attack_batch``; ids and groups in its order."""
        self.batch, self.sample_ids, self.groups, self.batch_size = batch, sample_ids, groups, batch_size
        self.clean = self.measure(batch.images, torch.arange(len(batch), device=batch.labels.device))
        self._labels = batch.labels.cpu().numpy()
        self.clean_correct = self.clean.prediction == self._labels
        self._misclassified = ~self.clean_correct
        self._adversarial = {name: getattr(self.clean, name).copy() for name in _MEASURED}
        self._norms = {name: np.zeros(len(batch)) for name in get_args(Norm)}
        self._found_by: list[tuple[str, float] | None] = [None] * len(batch)
        self._best: dict[str, tuple[Tensor, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to_attack(self, *, attack_all: bool) -> Int64[Tensor, " attacked"]:
        """Positions of the images that the next attack is run on."""
        positions = np.flatnonzero(self.clean_correct if attack_all else ~self._misclassified)
        return torch.from_numpy(positions).to(self.batch.labels.device)

    def best_before(
        self, attack: str, positions: Int64[Tensor, " some"]
    ) -> tuple[Float[Tensor, "some 3 height width"], Float[Tensor, " some"]] | None:
        """The best points of an attack at the last epsilon, with their margins: points of every larger ball. None at first."""
        if attack not in self._best:
            return None
        points, margins = self._best[attack]
        return points[positions], torch.from_numpy(margins).to(points)[positions]

    @contextmanager
    def naming(self) -> Iterator[None]:
        """A NaN or infinite value within is told by the images' sample ids. Raises NumberError, in one line."""
        try:
            yield
        except NotANumber as error:
            named = ", ".join(self.sample_ids[position] for position in error.rows)
            raise NumberError(f"the system gives NaN or infinite values, or NaN gradients, near these images: {named}") from error

    @torch.no_grad()
    def measure(self, images: Float[Tensor, "some 3 height width"], positions: Int64[Tensor, " some"]) -> Measured:
        """Score images afresh, in batches; ``positions`` says of which images of the chunk they are versions."""
        parts: dict[str, list[np.ndarray]] = {
            name: [np.zeros(0, dtype=np.int64 if name == "prediction" else np.float64)] for name in _MEASURED
        }
        for rows in in_batches(torch.arange(len(positions), device=positions.device), self.batch_size):
            of = self.batch.select(positions[rows])
            with self.naming(), of_batch(positions[rows]):
                scored = verdict(of.system, images[rows], of.labels, of.context, with_masks=True)
            masks, oracle = scored.masks, None if of.context is None else of.context.oracle_masks
            assert masks is not None
            assert scored.confidences is not None
            iou = (
                masks.new_full((len(of),), torch.nan) if oracle is None else intersection_over_union(masks, oracle.to(masks.dtype))
            )
            parts["prediction"].append(scored.predictions.cpu().numpy())
            parts["margin"].append(scored.margins.double().cpu().numpy())
            parts["confidence"].append(scored.confidences.cpu().numpy())
            parts["mask_iou"].append(iou.double().cpu().numpy())
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
        new, lengths = self.measure(images, positions), norms(images, self.batch.images[positions])
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
            **{name: _put(self._norms[name], where, values) for name, values in lengths.items()},
            "seconds": _put(np.zeros(len(self)), where, np.full(len(where), seconds / max(1, len(where)))),
        }
        return pl.DataFrame({**columns, **about}, schema_overrides=SCHEMA).select(list(SCHEMA))

    def absorb(self, records: pl.DataFrame, images: Float32[np.ndarray, "attacked 3 height width"] | None) -> None:
        """Take note of a part, made now or read from the disk; None are images that no later attack starts from."""
        where = np.flatnonzero((records["status"] == Status.ATTACKED).to_numpy())
        predictions, margins = records["adversarial_prediction"].to_numpy(), records["adversarial_margin"].to_numpy()
        name, epsilon = str(records["attack"][0]), float(records["epsilon"][0])
        if images is not None:
            points, own_margins = self._best.get(name) or (self.batch.images.clone(), self.clean.margin.copy())
            own_margins[where] = margins[where]
            points[torch.from_numpy(where).to(points.device)] = torch.from_numpy(images).to(points)
            self._best[name] = points, own_margins
        newly = where[(predictions != self._labels)[where] & ~self._misclassified[where]]
        for column in _MEASURED:
            self._adversarial[column][newly] = records[f"adversarial_{column}"].to_numpy()[newly]
        for column, values in self._norms.items():
            values[newly] = records[column].to_numpy()[newly]
        for position in newly:
            self._found_by[position] = (name, epsilon)
        self._misclassified[newly] = True

    def _statuses(self, epsilon: float, attacked_positions: Int64[np.ndarray, " attacked"]) -> np.ndarray:
        found_at = np.array([np.nan if found is None else found[1] for found in self._found_by])
        first_that_holds = {
            Status.WRONG_CLEAN: ~self.clean_correct,
            Status.ATTACKED: np.isin(np.arange(len(self)), attacked_positions),
            Status.EPSILON_ZERO: np.isnan(found_at),
            Status.MISCLASSIFIED_BELOW: found_at < epsilon,
        }
        return np.select(list(first_that_holds.values()), list(map(str, first_that_holds)), str(Status.MISCLASSIFIED_EARLIER))


def norms(
    images: Float[Tensor, "some 3 height width"], clean: Float[Tensor, "some 3 height width"]
) -> dict[Norm, Float[np.ndarray, " some"]]:
    """Every norm of the perturbation of each image, exact to double precision."""
    changes = images.double() - clean.double()
    return {norm: length(changes, norm).cpu().numpy() for norm in get_args(Norm)}


def attack_batch(
    system: System, images: Images, labels: Labels, context: MaskContext, *, guides: GuideMasks | None, batch_size: int
) -> AttackBatch:
    """Images ready to be attacked, with what the system takes from them while they are clean. All on the system's device.

    The context holds one sample seed for each image, and its oracle mask where there is one.
    """
    seeds = context.sample_seeds
    assert seeds is not None
    with attacked(system):
        parts = [
            clean_context(system, images[rows], context.select(rows))
            for rows in in_batches(torch.arange(len(images), device=images.device), batch_size)
        ]
    frozen = [part.frozen_masks for part in parts if part.frozen_masks is not None]
    context = context._replace(frozen_masks=torch.cat(frozen)) if frozen else context
    return AttackBatch(system=system, images=images, labels=labels, context=context, seeds=seeds, guides=guides)


def _put(values: np.ndarray, where: np.ndarray, new: np.ndarray) -> np.ndarray:
    changed = values.copy()
    changed[where] = new
    return changed
