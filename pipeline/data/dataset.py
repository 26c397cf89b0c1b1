"""The prepared data set: one directory that everything downstream reads, verified before it is used.

A prepared data set holds memory-mapped ``images.npy`` (N,S,S,3 uint8, RGB) and ``masks.npy`` (N,S,S uint8, foreground share),
``labels.npy`` (N int64), ``samples.parquet`` (one row a sample), ``rejects.csv`` (what was not taken, by rule) and
``dataset.json`` (classes, counts, recipe, versions, checksums, fingerprint), which is written last.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from jaxtyping import Int64, UInt8

from pipeline.data.sample import NO_CLASS
from pipeline.data.splits import SEGMENTER, Split
from pipeline.errors import ConfigError, DataError, RunError
from pipeline.runs.files import file_sha256, near, read_sealed

FORMAT = 2
MANIFEST = "dataset.json"
REJECTS = "rejects.csv"
FILES = ("images.npy", "masks.npy", "labels.npy", "samples.parquet", REJECTS)


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """An opened prepared data set. Images and masks stay on disk until they are indexed."""

    path: Path
    name: str
    """The source it was made from: ``synthetic``, ``gtsrb``, ``coco``, ``folder``."""
    classes: tuple[str, ...]
    image_size: int
    """Side in pixels."""
    fingerprint: str
    """SHA-256 over pixels, masks, labels, ids, groups, splits and classes: equal fingerprints mean equal data on any machine."""
    mean: tuple[float, float, float] | None
    """Mean color of the training images in [0,1]: the fill ``mean``. None for a set without training images."""
    recipe: dict[str, Any]
    images: UInt8[np.ndarray, "samples side side 3"] = field(repr=False)
    masks: UInt8[np.ndarray, "samples side side"] = field(repr=False)
    labels: Int64[np.ndarray, " samples"] = field(repr=False)
    samples: pl.DataFrame = field(repr=False)
    substitutes: Callable[[Int64[np.ndarray, " rows"]], UInt8[np.ndarray, "rows side side"]] | None = field(
        default=None, repr=False
    )
    """Masks in place of the samples' own, by row: ``substitutes.with_substitutes``."""
    substitute_kind: str | None = None
    """Which ones."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def train_mean(self) -> tuple[float, float, float]:
        """Mean color of the training images. Raises DataError for a set without any."""
        if self.mean is None:
            raise DataError(
                f"{self.path}: no sample is in the train split: it is a set for testing (evaluate ... allow_other_data=true)"
            )
        return self.mean

    def for_segmenters(self) -> "PreparedDataset":
        """The same, with the samples that train segmenters and nothing else in the train split."""
        split = pl.when(pl.col("split") == SEGMENTER).then(pl.lit("train")).otherwise("split")
        return replace(self, samples=self.samples.with_columns(split=split))

    def relabelled(self, classes: tuple[str, ...], class_map: Mapping[str, str]) -> "PreparedDataset":
        """The same images labelled with the classes of a classifier, which are matched by name.

        ``class_map`` says for a class of this set which of the classifier's it is. Raises ConfigError where a class is none of
        them, and for an entry that names no class.
        """
        for name, other in class_map.items():
            for known, one in ((self.classes, name), (classes, other)):
                if one not in known:
                    raise ConfigError(f"class_map: {one!r} is none of the classes {', '.join(map(repr, known))}")
        meant = [class_map.get(name, name) for name in self.classes]
        unknown = [name for name, other in zip(self.classes, meant, strict=True) if other not in classes]
        if unknown:
            raise ConfigError(
                f"class_map: the class {unknown[0]!r} of {self.path} is none of the classifier's: {', '.join(map(repr, classes))};"
                f" say which it is with class_map={{{unknown[0]}: NAME}}"
            )
        labels = np.array([*(classes.index(name) for name in meant), NO_CLASS], dtype=np.int64)[self.labels]
        return replace(self, classes=classes, labels=labels, samples=self.samples.with_columns(label=pl.Series(labels)))

    def indices(self, split: Split) -> Int64[np.ndarray, " of_split"]:
        """Rows of one split, ascending. Raises DataError for a split without samples."""
        found = np.flatnonzero(self.samples["split"] == split).astype(np.int64)
        if not len(found):
            groups = self.samples.filter(pl.col("split") != SEGMENTER)["group"].n_unique()
            whole = f"it has {groups} group{'s'[: groups > 1]}, and none is shared between splits: prepare it with smaller groups"
            remedy = whole if groups < len(get_args(Split)) else "prepare it again with another split fraction"
            raise DataError(f"{self.path}: no sample is in the {split} split; {remedy}")
        return found


def open_prepared(path: Path, *, verify: bool = True) -> PreparedDataset:
    """Open a prepared data set; with ``verify`` every byte is checked against its recorded SHA-256 first (about a second a GB).

    Raises DataError that names the damaged or missing file and the remedy.
    """
    manifest = read_manifest(path)
    for name in FILES:
        _check_file(path / name, manifest["files"].get(name), verify=verify)
    try:
        images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
        masks = np.load(path / "masks.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(path / "labels.npy", allow_pickle=False)
        samples = pl.read_parquet(path / "samples.parquet", glob=False)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: damaged ({error}); delete the directory and prepare it again") from error
    return PreparedDataset(
        path=path,
        name=manifest["name"],
        classes=tuple(manifest["classes"]),
        image_size=manifest["image_size"],
        fingerprint=manifest["fingerprint"],
        mean=tuple(manifest["mean"]) if manifest["mean"] else None,
        recipe=manifest["recipe"],
        images=images,
        masks=masks,
        labels=labels,
        samples=samples,
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """``dataset.json`` of a prepared data set. Raises DataError where the path is none or the file is damaged."""
    if not path.exists():
        remedy = near(path) or f"; make it with: foreguard prepare data=... prepared={path}"
        raise DataError(f"{path}: no such directory{remedy}")
    if not path.is_dir():
        raise DataError(f"{path}: is a file; expected the directory of a prepared data set")
    if failed(path):
        raise DataError(f"{path}: its preparation left no usable sample; {path / REJECTS} says why, file by file")
    if not (path / MANIFEST).is_file():
        raise DataError(
            f"{path}: not a prepared data set ({MANIFEST} is missing); make one with: foreguard prepare data=... prepared=..."
        )
    try:
        return read_sealed(path / MANIFEST, version=FORMAT)
    except RunError as error:
        raise DataError(f"{error}; delete the directory and prepare it again") from error


def failed(path: Path) -> bool:
    """Whether a directory holds nothing but the rejects of a preparation that left no usable sample."""
    return path.is_dir() and [entry.name for entry in path.iterdir()] == [REJECTS]


def _check_file(path: Path, recorded: dict[str, Any] | None, *, verify: bool) -> None:
    remedy = "delete the directory and prepare it again"
    if recorded is None or not path.is_file():
        raise DataError(f"{path}: missing from the prepared data set; {remedy}")
    if path.stat().st_size != recorded["bytes"]:
        raise DataError(f"{path}: damaged ({path.stat().st_size} bytes instead of {recorded['bytes']}); {remedy}")
    if verify and file_sha256(path) != recorded["sha256"]:
        raise DataError(f"{path}: damaged (checksum differs); {remedy}")
