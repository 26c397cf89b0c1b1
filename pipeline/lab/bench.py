"""What can be put on the bench: the systems of a run, images of the test split of its data, and photos."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.dataset import PreparedDataset, open_prepared
from pipeline.data.loader import read_rows
from pipeline.data.rules import Rejected
from pipeline.errors import CheckpointError, DataError, InputError, UserError
from pipeline.evaluation.chunks import choose_rows
from pipeline.lab.arms import Arm, arms_of_run
from pipeline.prediction.choice import load_trained_system
from pipeline.prediction.predict import cut_square
from pipeline.runs.checkpoints import Checkpoint, read_checkpoint
from pipeline.system import TwoStage

MOST_IMAGES = 500
"""Of the test split, in the list of the page: as many of each class as in the split."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image to attack."""

    name: str
    image: Float[Tensor, "1 3 height width"]
    label: int | None
    """None: nobody has said; then what a system says of the clean image is taken for right."""
    mask: Float[Tensor, "1 1 height width"] | None
    """The data set's own outline; a photo has none."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The systems and images of a run."""

    run: Path
    arms: tuple[Arm, ...]
    shown: tuple[str, ...]
    """Names of the arms that are shown at first."""
    classes: tuple[str, ...]
    image_size: int
    dataset: PreparedDataset | None
    rows: tuple[int, ...]
    """Images of the test split, in the order in which an evaluation attacks them."""
    notices: tuple[str, ...]
    """What is to be known of the run, a sentence each."""
    device: torch.device
    _systems: dict[str, TwoStage] = field(default_factory=dict, repr=False)
    _loading: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises InputError: a page may have been opened when the run had others."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise InputError(f"{self.run}: there is no system {name!r} any more; press Look at the run again")

    def system(self, arm: Arm) -> TwoStage:
        """The arm's system, loaded when it is asked for first. Raises CheckpointError and ConfigError.

        No parameter of it ever needs a gradient, so attacks and scores in several threads find nothing in it to switch.
        """
        with self._loading:
            if arm.name not in self._systems:
                loaded, _ = load_trained_system(arm.chosen, device=self.device, with_data=True)
                self._systems[arm.name] = loaded.requires_grad_(False).to(memory_format=torch.channels_last)
            return self._systems[arm.name]

    def test_image(self, number: int) -> Sample:
        """Image ``number`` of ``rows``."""
        if self.dataset is None or not 0 <= number < len(self.rows):
            raise InputError(f"image: there is no image {number} in the test split of this run")
        row = self.rows[number]
        batch = read_rows(self.dataset, np.array([row]))
        return Sample(name=self.image_names[number], image=batch.images, label=int(batch.labels[0]), mask=batch.masks)

    @property
    def image_names(self) -> list[str]:
        """Of ``rows``: number, class and sample id."""
        if self.dataset is None:
            return []
        ids = self.dataset.samples["sample_id"].gather(list(self.rows)).to_list()
        labels = [self.classes[self.dataset.labels[row]] for row in self.rows]
        return [f"{number}. {label} ({one})" for number, (label, one) in enumerate(zip(labels, ids, strict=True), start=1)]

    def photo(self, path: Path, label: int | None = None) -> Sample:
        """A picture of somebody's own: its largest centered square, as ``foreguard predict`` cuts it. Raises InputError."""
        try:
            square = cut_square(1, path.name, path, self.image_size, drawn=False)
        except Rejected as error:
            raise InputError(f"{path.name}: {error.detail}; choose another picture") from error
        image = torch.from_numpy(square.pixels).permute(2, 0, 1)[None].float().div_(255)
        return Sample(name=path.name, image=image, label=label, mask=None)


def open_bench(run: Path, *, prepared: Path | None, segmenter_run: Path | None, device: torch.device) -> Bench:
    """Look at a run, finished or not. Raises UserError of the kind that fits where there is nothing yet to attack.

    Its data set is optional: where it is not where it was, or another one, a notice says so, and photos can be attacked.
    """
    found = arms_of_run(run, segmenter_run)
    checkpoint = read_checkpoint(found.arms[0].chosen.classifier_run, "classifier")
    dataset: PreparedDataset | None = None
    rows: tuple[int, ...] = ()
    doubts: list[str] = []
    try:
        dataset = _data_of(run, checkpoint, prepared)
        rows = tuple(int(row) for row in choose_rows(dataset, "test", min(MOST_IMAGES, len(dataset.indices("test")))))
    except UserError as error:
        if prepared is not None:
            raise
        dataset, doubts = None, [f"There is no image of a test split here: {error}. A photo can be attacked."]
    arms = found.arms if dataset is not None else tuple(arm for arm in found.arms if not arm.source.needs_data)
    if not arms:
        raise DataError(f"{run}: all its systems take the data set's own masks, and there is no data set; say prepared=...")
    names = {arm.name for arm in arms}
    return Bench(
        run=run,
        arms=arms,
        shown=tuple(name for name in found.shown if name in names) or (arms[0].name,),
        classes=checkpoint.classes,
        image_size=checkpoint.image_size,
        dataset=dataset,
        rows=rows,
        notices=(*found.notices, *doubts),
        device=device,
    )


def _data_of(run: Path, checkpoint: Checkpoint, prepared: Path | None) -> PreparedDataset:
    """The data set that is named, or that of the training. Raises DataError, CheckpointError: it is other data."""
    dataset = open_prepared(prepared or _recorded(run, checkpoint.config.get("prepared")))
    if dataset.classes != checkpoint.classes or dataset.image_size != checkpoint.image_size:
        raise CheckpointError(
            f"{dataset.path}: holds {len(dataset.classes)} classes at {dataset.image_size} px, and the classifier was trained on"
            f" {len(checkpoint.classes)} at {checkpoint.image_size} px, or on others; say prepared=..."
        )
    if prepared is None and dataset.fingerprint != checkpoint.data_fingerprint:
        raise CheckpointError(
            f"{dataset.path}: is other data by now than the classifier was trained on; say prepared=... if it is meant"
        )
    return dataset


def _recorded(run: Path, prepared: object) -> Path:
    """Where the data set of a training lies now: where it lay, or at the same path from a directory above the run."""
    if not isinstance(prepared, str):
        raise DataError(f"{run}: does not say which data it was trained on; say prepared=...")
    places: Sequence[Path] = [Path(prepared), *(above / prepared for above in run.resolve().parents)]
    return next((place for place in places if place.is_dir()), Path(prepared))
