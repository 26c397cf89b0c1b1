"""From a prepared data set to batches. What is drawn depends on (seed, epoch, sample id) and on nothing else.

So batch size, the number of worker processes, the number of ranks and a restart in mid-epoch change no image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.data.config import AugmentConfig
from pipeline.data.dataset import PreparedDataset, open_prepared
from pipeline.data.seeds import sample_seed
from pipeline.data.splits import Split
from pipeline.data.substitutes import with_substitutes
from pipeline.data.transforms import Augmentation
from pipeline.shapes import Labels, Seeds
from pipeline.workers import Workers, leave_to_parent


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images with masks and labels, as tensors on one device."""

    images: Float[Tensor, "batch 3 side side"]
    """RGB in [0,1], in channels-last memory order."""
    masks: Float[Tensor, "batch 1 side side"]
    """Foreground share of each pixel in [0,1]."""
    labels: Labels
    indices: Int64[Tensor, " batch"]
    """Rows in the prepared data set."""
    seeds: Seeds
    """One seed a sample, from its id alone: for masks and fills that are random but must not change from call to call."""
    substitutes: Float[Tensor, "batch 1 side side"] | None = None
    """Masks that stand in place of the samples' own, in [0,1], varied as these are (``substitutes.with_substitutes``)."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice) -> "Batch":
        """A part of the batch."""
        return self._each(lambda value: value[chosen])

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda value: value.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        parts: dict[str, Any] = {name: None if value is None else change(value) for name, value in vars(self).items()}
        return Batch(**parts)


class Loader:
    """Batches of one split.

    ``batch_size`` is the size of the global batch; of each global batch rank r takes the elements r, r + world_size, ..., so that
    all ranks together see exactly what one process would see. With ``drop_last`` the last batch is left out where it is not full
    (unless it is the only one). ``num_workers`` processes vary the images (0: in this process).
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        augment: AugmentConfig | None,
        shuffle: bool,
        drop_last: bool,
        num_workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < world_size:
            raise ValueError(f"a global batch of {batch_size} cannot be shared by {world_size} processes")
        self._rows = dataset.indices(split)
        self._reader = _Reader(dataset, None if augment == AugmentConfig() else augment, seed)
        self._batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
        self._num_workers, self._rank, self._world_size = num_workers, rank, world_size
        self._order: list[list[tuple[int, int]]] = []
        self._data_loader: DataLoader[Batch] | None = None
        self._processes = Workers()
        full, rest = divmod(len(self._rows), batch_size)
        self._num_batches = full if drop_last and full else full + bool(rest)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._num_batches

    @property
    def num_samples(self) -> int:
        """Samples of the split, over all ranks and without ``drop_last``."""
        return len(self._rows)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from ``start_batch`` on. A rank that has no share of the last batch gets one batch less."""
        order = self._rows
        if self._shuffle:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
        chunks = [order[i * self._batch_size : (i + 1) * self._batch_size] for i in range(start_batch, self._num_batches)]
        mine = [[(int(row), epoch) for row in chunk[self._rank :: self._world_size]] for chunk in chunks]
        mine = [chunk for chunk in mine if chunk]
        if self._num_workers == 0:
            return map(self._reader.__getitems__, mine)
        with self._processes.starting():
            return iter(self._workers(mine))

    def interrupt(self) -> None:
        """Before the end of a process that was interrupted, which would else wait for its workers. Nothing is read after it."""
        self._processes.kill()

    def _workers(self, chunks: list[list[tuple[int, int]]]) -> DataLoader[Batch]:
        """The worker processes, started once and kept: starting one imports torch."""
        self._order[:] = chunks
        if self._data_loader is None:
            self._data_loader = DataLoader(
                self._reader,
                batch_sampler=self._order,
                num_workers=self._num_workers,
                collate_fn=_as_it_is,
                multiprocessing_context="spawn",  # a process that runs threads must not be forked
                persistent_workers=True,
                worker_init_fn=leave_to_parent,
            )
        return self._data_loader


def read_rows(dataset: PreparedDataset, rows: Int64[np.ndarray, " batch"]) -> Batch:
    """Samples as they are stored, in the order of ``rows``."""
    ids = dataset.samples["sample_id"].gather(rows)
    seeds = np.array([sample_seed(sample_id) for sample_id in ids], dtype=np.int64)
    substitutes = None if dataset.substitutes is None else dataset.substitutes(rows)
    return _as_batch(dataset.images[rows], dataset.masks[rows], dataset.labels[rows], rows, seeds, substitutes)


def _as_it_is(batch: Any) -> Any:
    return batch


class _Reader(Dataset[Batch]):
    """Reads whole batches; what a worker process gets is the path of the data set, not its pixels."""

    def __init__(self, dataset: PreparedDataset, augment: AugmentConfig | None, seed: int) -> None:
        self._path: Path = dataset.path
        self._augment, self._seed = augment, seed
        self._open(dataset)

    def _open(self, dataset: PreparedDataset) -> None:
        self._dataset = dataset
        self._ids: list[str] = dataset.samples["sample_id"].to_list()
        self._seeds = np.array([sample_seed(sample_id) for sample_id in self._ids], dtype=np.int64)
        self._augmentation = Augmentation(self._augment) if self._augment else None

    def __getstate__(self) -> tuple[Path, str | None, AugmentConfig | None, int]:
        return self._path, self._dataset.substitute_kind, self._augment, self._seed

    def __setstate__(self, state: tuple[Path, str | None, AugmentConfig | None, int]) -> None:
        self._path, kind, self._augment, self._seed = state
        self._open(with_substitutes(open_prepared(self._path, verify=False), kind))

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        rows = np.array([row for row, _ in keys], dtype=np.int64)
        images, masks = self._dataset.images[rows], self._dataset.masks[rows]
        substitutes = None if self._dataset.substitutes is None else self._dataset.substitutes(rows)
        if self._augmentation is not None:
            for i, (row, epoch) in enumerate(keys):
                seed = sample_seed(self._seed, epoch, self._ids[row])
                if substitutes is not None:
                    _, substitutes[i] = self._augmentation(images[i], substitutes[i], seed=seed)
                images[i], masks[i] = self._augmentation(images[i], masks[i], seed=seed)
        return _as_batch(images, masks, self._dataset.labels[rows], rows, self._seeds[rows], substitutes)


def _as_batch(
    images: np.ndarray, masks: np.ndarray, labels: np.ndarray, rows: np.ndarray, seeds: np.ndarray, substitutes: np.ndarray | None
) -> Batch:
    return Batch(
        # permute keeps the bytes where they are: channels-last costs nothing here
        images=torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255),
        masks=_as_masks(masks),
        labels=torch.from_numpy(labels),
        indices=torch.from_numpy(rows),
        seeds=torch.from_numpy(seeds),
        substitutes=None if substitutes is None else _as_masks(substitutes),
    )


def _as_masks(masks: np.ndarray) -> Tensor:
    return torch.from_numpy(masks).unsqueeze(1).float().div_(255)
