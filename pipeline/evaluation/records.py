"""Outcomes: one record for every image, system, attack and epsilon, kept on the disk as they are made.

A part holds the records of one chunk of images under one attack at one epsilon. It is a parquet file that is written whole or
not at all, and whose name carries the start of its SHA-256: ``00002-01-00.<digest>.parquet`` is chunk 2, epsilon 1, attack 0.
What a killed evaluation had finished is therefore whole, and what it had not is absent.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32

from pipeline.errors import RunError
from pipeline.runs.files import write_atomically

RECORDS, IMAGES = "records", "images"


class Status(StrEnum):
    """How an adversarial image came about."""

    ATTACKED = "attacked"
    """The attack was run on the image."""
    WRONG_CLEAN = "wrong-clean"
    """The clean image is misclassified: it is its own adversarial image, and nothing was run."""
    EPSILON_ZERO = "epsilon-zero"
    """The ball holds the clean image alone."""
    MISCLASSIFIED_EARLIER = "misclassified-earlier"
    """Another attack of the suite, run before at this epsilon, had found one: it is taken over."""
    MISCLASSIFIED_BELOW = "misclassified-below"
    """One had been found at a smaller epsilon, in whose ball it lies: it is taken over."""


SCHEMA = {
    "sample_id": pl.String(),
    "group": pl.String(),
    "label": pl.Int64(),
    "system": pl.String(),
    "mask_source": pl.String(),
    "attack": pl.String(),
    "norm": pl.String(),
    "region": pl.String(),
    "epsilon": pl.Float64(),
    "status": pl.String(),
    "found_by": pl.String(),
    "found_epsilon": pl.Float64(),
    "clean_prediction": pl.Int64(),
    "clean_margin": pl.Float64(),
    "clean_confidence": pl.Float64(),
    "adversarial_prediction": pl.Int64(),
    "adversarial_margin": pl.Float64(),
    "adversarial_confidence": pl.Float64(),
    "clean_mask_iou": pl.Float64(),
    "adversarial_mask_iou": pl.Float64(),
    "clean_mask_mean": pl.Float64(),
    "adversarial_mask_mean": pl.Float64(),
    "linf": pl.Float64(),
    "l2": pl.Float64(),
    "l1": pl.Float64(),
    "seconds": pl.Float64(),
    "seed": pl.Int64(),
}
"""The columns of a record.

``group`` says which images are not independent of each other: those cut from one photograph, those of one track. ``system`` is a
digest of weights and mask settings. Margins are the largest other logit minus the label's: above 0 is misclassified. Confidences
are the softmax of the predicted class, right or wrong.
``found_by`` and ``found_epsilon`` say which run found the adversarial image (null: it is the clean image). Masks are compared
with the oracle; means are shares of the image. ``linf``, ``l2`` and ``l1`` are norms of the perturbation of an image in [0,1].
``seconds`` is the image's share of the time that the attack took for its chunk. ``seed`` is the evaluation's.
"""


class Unit(NamedTuple):
    """What one part holds the records of, by position."""

    chunk: int
    epsilon_index: int
    attack: int

    @property
    def name(self) -> str:
        return f"{self.chunk:05d}-{self.epsilon_index:02d}-{self.attack:02d}"


class RecordStore:
    """The parts of one evaluation, in ``records/`` of its directory, and adversarial images in ``images/``.

    Images are kept for the rows whose status is ``attacked``, in their order: float32 .npy (K,3,H,W). The other rows' are the clean
    image, or the image that the run named by ``found_by`` and ``found_epsilon`` has.
    """

    def __init__(self, path: Path) -> None:
        self._records, self._images = path / RECORDS, path / IMAGES

    def units(self) -> set[Unit]:
        """What has been recorded."""
        return units_in(self._records)

    def write(self, unit: Unit, records: pl.DataFrame, images: Float32[np.ndarray, "attacked 3 height width"]) -> None:
        """Keep a part. The images come first: a part that is there has its images. Raises RunError where that fails."""
        array = io.BytesIO()
        np.save(array, np.ascontiguousarray(images), allow_pickle=False)
        _write(self._images, unit, "npy", array.getvalue())
        write_table(self._records, unit, records)

    def read(self, unit: Unit, *, attack: str | None = None, epsilon: float | None = None) -> pl.DataFrame:
        """The records of a part. Raises RunError for a damaged one, and for one of another attack or epsilon than those named."""
        path = self._one(self._records, unit, "parquet")
        records = _table(path, SCHEMA)
        for column, wanted in (("attack", attack), ("epsilon", epsilon)):
            if wanted is not None and not (records[column] == wanted).all():
                raise RunError(
                    f"{path}: was made with {column} {records[column][0]}, not {wanted}; evaluate into another directory"
                )
        return records

    def read_images(self, unit: Unit) -> Float32[np.ndarray, "attacked 3 height width"]:
        """The adversarial images of a part. Raises RunError where they are damaged or were not kept."""
        path = self._one(self._images, unit, "npy")
        try:
            images: np.ndarray = np.load(io.BytesIO(_checked(path)), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, str(error)) from error
        return images

    def discard_images(self, units: Iterator[Unit]) -> None:
        """Forget adversarial images that nobody needs any more."""
        for unit in units:
            for path in self._images.glob(f"{unit.name}.*"):
                path.unlink(missing_ok=True)

    def _one(self, directory: Path, unit: Unit, suffix: str) -> Path:
        found = sorted(directory.glob(f"{unit.name}.*.{suffix}"))
        if len(found) != 1:
            what = "are missing" if not found else "are there twice"
            raise RunError(
                f"{directory / unit.name}.*.{suffix}: {what}; delete what is there of {unit.name} in {self._records}"
                f" and {self._images}, then continue with resume=true"
            )
        return found[0]


class MemoryStore:
    """The parts of an evaluation that is not kept: what ``RecordStore`` does, without a directory."""

    def __init__(self) -> None:
        self._parts: dict[Unit, tuple[pl.DataFrame, Float32[np.ndarray, "attacked 3 height width"]]] = {}

    def units(self) -> set[Unit]:
        return set(self._parts)

    def write(self, unit: Unit, records: pl.DataFrame, images: Float32[np.ndarray, "attacked 3 height width"]) -> None:
        self._parts[unit] = records, images

    def read(self, unit: Unit, *, attack: str | None = None, epsilon: float | None = None) -> pl.DataFrame:
        del attack, epsilon
        return self._parts[unit][0]

    def read_images(self, unit: Unit) -> Float32[np.ndarray, "attacked 3 height width"]:
        return self._parts[unit][1]

    def discard_images(self, units: Iterator[Unit]) -> None:
        """Forget adversarial images that nobody needs any more."""
        for unit in units:
            records, images = self._parts[unit]
            self._parts[unit] = records, images[:0]

    def records(self) -> pl.DataFrame:
        """All records."""
        return pl.concat([records for records, _ in self._parts.values()])


def read_records(run: Path) -> pl.DataFrame:
    """All records of an evaluation, as far as it has come. Raises RunError: there is none, or a part is damaged."""
    records = read_tables(run / RECORDS, SCHEMA)
    if records is None:
        raise RunError(f"{run}: holds no records; make them with: foreguard evaluate run={run} ...")
    return records


def units_in(directory: Path) -> set[Unit]:
    """What a directory of parts holds."""
    return {_unit_of(path) for path in directory.glob("*.parquet")}


def write_table(directory: Path, unit: Unit, table: pl.DataFrame) -> None:
    """Keep a part, whole or not at all. Raises RunError where that fails."""
    content = io.BytesIO()
    table.write_parquet(content)
    _write(directory, unit, "parquet", content.getvalue())


def read_tables(directory: Path, schema: Mapping[str, Any]) -> pl.DataFrame | None:
    """All parts of a directory, in their order; None where there is none. Raises RunError for one damaged or there twice."""
    paths = sorted(directory.glob("*.parquet"))
    for one, following in pairwise(paths):
        if _unit_of(one) == _unit_of(following):  # locks that do not hold between machines let two of them make it
            twice = f"{directory / _unit_of(one).name}.*.parquet"
            raise RunError(f"{twice}: are there twice; delete these files and continue with resume=true, on one machine")
    return pl.concat([_table(path, schema) for path in paths]) if paths else None


def _table(path: Path, schema: Mapping[str, Any]) -> pl.DataFrame:
    try:
        records = pl.read_parquet(io.BytesIO(_checked(path)))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _damaged(path, str(error)) from error
    if dict(records.schema) != dict(schema):
        raise RunError(f"{path}: its columns are not those of this version; evaluate again, into another directory")
    return records


def _write(directory: Path, unit: Unit, suffix: str, content: bytes) -> None:
    for left_over in directory.glob(f"{unit.name}.*.{suffix}"):  # of an attempt that did not come to its end
        left_over.unlink(missing_ok=True)
    write_atomically(directory / f"{unit.name}.{_digest(content)}.{suffix}", content)


def _checked(path: Path) -> bytes:
    content = path.read_bytes()
    if _digest(content) != path.name.split(".")[1]:
        raise _damaged(path, "its SHA-256 is not the one in its name")
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _unit_of(path: Path) -> Unit:
    try:
        chunk, epsilon, attack = (int(part) for part in path.name.split(".")[0].split("-"))
    except ValueError as error:
        raise RunError(f"{path}: is not the name of a part of an evaluation; move the file away") from error
    return Unit(chunk, epsilon, attack)


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path}: damaged ({' '.join(why.split())[:120]}); delete this file and continue with resume=true")
