"""One image of every condition of a measurement, as the system was shown it: what the report shows and observations cannot hold.

An example is kept before the observations of its part, so that a part which is there has its example: ``examples/`` of the
evaluation's directory, one .npz each with an array for each field of ``Example``.
"""

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from pipeline.attacks.measurement import Condition
from pipeline.attacks.measuring import MeasuredBatch, Observation
from pipeline.errors import RunError
from pipeline.runs.files import write_atomically

EXAMPLES = "examples"


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image before and after."""

    measurement: str
    """Its name in the configuration."""
    kind: str
    condition: str
    level: float
    sample_id: str
    label: str
    """A class, as is ``prediction``, which is empty where a smoothed system abstains."""
    prediction: str
    image: UInt8[np.ndarray, "side side 3"]
    shown: UInt8[np.ndarray, "side side 3"]
    """What the system was shown in its place."""
    mask: UInt8[np.ndarray, "side side"]
    """What the system saw that through, 255 is foreground."""

    def write(self, path: Path) -> None:
        """As a file, whole or not at all. Raises RunError."""
        content = io.BytesIO()
        arrays: dict[str, Any] = {one.name: np.asarray(getattr(self, one.name)) for one in fields(self)}
        np.savez_compressed(content, **arrays)
        write_atomically(path, content.getvalue())


def example_of(
    name: str,
    kind: str,
    condition: Condition,
    batch: MeasuredBatch,
    seen: Observation,
    *,
    sample_ids: list[str],
    classes: tuple[str, ...],
) -> Example | None:
    """The first image of a batch that is counted and got wrong, else the first that is counted; None where none is."""
    counted = seen.counted.cpu().numpy()
    wrong = counted & ~seen.correct.cpu().numpy()
    rows = np.flatnonzero(wrong if wrong.any() else counted)
    if not len(rows):
        return None
    row = int(rows[0])
    prediction = int(seen.predictions[row])
    return Example(
        measurement=name,
        kind=kind,
        condition=condition.name,
        level=condition.level,
        sample_id=sample_ids[row],
        label=classes[int(batch.labels[row])],
        prediction=classes[prediction] if prediction >= 0 else "",
        image=as_bytes(batch.images[row]),
        shown=as_bytes(seen.images[row]),
        mask=as_bytes(seen.masks[row])[..., 0],
    )


def read_examples(path: Path) -> list[Example]:
    """The examples of an evaluation, in the order of its measurements; none where nothing was measured. Raises RunError."""
    return [_read(one) for one in sorted((path / EXAMPLES).glob("*.npz"))]


def _read(path: Path) -> Example:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays: dict[str, Any] = {one.name: stored[one.name] for one in fields(Example)}
        return Example(**{name: array if array.ndim else array.item() for name, array in arrays.items()})
    except Exception as error:  # what a damaged archive raises depends on the byte
        raise RunError(f"{path}: damaged ({error}); delete it and its part of the measurements, then resume=true") from error


def as_bytes(images: Tensor) -> np.ndarray:
    """Images in [0,1], or one of them, as they are shown: 0 to 255, channels last."""
    array: np.ndarray = (images * 255).round().byte().movedim(-3, -1).cpu().numpy()
    return array
