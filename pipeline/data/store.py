"""What a prepared data set is built from: arrays that grow on disk, rows in memory, and the manifest that seals them."""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from pipeline.data.dataset import FILES, FORMAT, MANIFEST, REJECTS
from pipeline.data.sample import Reject, RejectCounts, Sample
from pipeline.data.splits import SPLITS
from pipeline.errors import DataError
from pipeline.runs.files import canonical_sha256, file_sha256, sync
from pipeline.versions import own_version, version_of

# Rows are dictionaries until there are this many of them; as columns they take a tenth of the memory.
ROWS_IN_BLOCK = 4096
DECODERS = ("numpy", "opencv-python-headless", "pillow", "pycocotools")
"""Packages whose version can change a pixel."""
SCHEMA = {
    "sample_id": pl.String,
    "source_file": pl.String,
    "split": pl.String,
    "group": pl.String,
    "label": pl.Int64,
    **dict.fromkeys(("x0", "y0", "x1", "y1"), pl.Float64),
    "mask_recipe": pl.String,
    "foreground_share": pl.Float64,
}


class Store:
    """Takes samples and rejects as they arrive; pixels and rejects go to the disk at once, rows are kept as columns.

    So memory stays small whatever the number of images. ``finish`` writes the rest and returns the manifest.
    """

    def __init__(self, directory: Path, image_size: int, rejects: Sequence[Reject] = ()) -> None:
        self._directory = directory
        self._images = _GrowingArray(directory / "images.npy", (image_size, image_size, 3))
        self._masks = _GrowingArray(directory / "masks.npy", (image_size, image_size))
        self._rejects = RejectCounts()
        self._stream = (directory / REJECTS).open("w", newline="", encoding="utf-8")
        self._log = csv.writer(self._stream)
        self._log.writerow(["rule", "source_file", "item", "detail"])
        self._notes: Counter[str] = Counter()
        self._rows: list[dict[str, Any]] = []
        self._blocks: list[pl.DataFrame] = []
        self.add(rejects)

    def add(self, results: Sequence[Sample | Reject]) -> None:
        for result in results:
            if isinstance(result, Reject):
                self._log.writerow([result.rule, result.source_file, result.item, result.detail])
                self._rejects.add(result)
                continue
            self._images.append(result.image)
            self._masks.append(result.mask)
            self._rows.append(_row(result))
            self._notes.update(result.notes)
        if len(self._rows) >= ROWS_IN_BLOCK:
            self._pack()

    def _pack(self) -> None:
        self._blocks.append(pl.DataFrame(self._rows, schema=SCHEMA))
        self._rows = []

    def close(self) -> None:
        self._images.close()
        self._masks.close()
        self._stream.close()

    def finish(
        self, classes: Sequence[str], made_from: dict[str, Any], without_sample: Sequence[int], *, learnable: bool
    ) -> dict[str, Any]:
        """Write everything but the manifest and return the manifest. Raises DataError where nothing can be learned or tested."""
        self.close()
        self._pack()
        samples = pl.concat(self._blocks)
        if without_sample:
            first = without_sample[0]
            raise DataError(f"class {classes[first]!r} has no sample: {self._rejects.why(first)}")
        counts = check_samples(samples, classes, self._rejects.why, learnable=learnable)
        np.save(self._directory / "labels.npy", samples["label"].to_numpy())
        samples.write_parquet(self._directory / "samples.parquet")
        files = {name: file_record(self._directory / name) for name in FILES}
        return {
            "format": FORMAT,
            **made_from,
            "classes": list(classes),
            "num_samples": len(samples),
            "counts": counts,
            "rejects": self._rejects.by_rule(),
            "notes": dict(sorted(self._notes.items())),
            "mean": train_mean(self._directory / "images.npy", samples),
            "files": files,
            "fingerprint": fingerprint(classes, files, samples),
            "versions": {"foreguard": own_version(), **{name: version_of(name) for name in DECODERS}},
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _row(sample: Sample) -> dict[str, Any]:
    kept = {name: value for name, value in vars(sample).items() if name in SCHEMA}
    box = dict(zip(("x0", "y0", "x1", "y1"), map(float, sample.box), strict=True))
    return {**kept, **box, "foreground_share": float(sample.mask.mean(dtype=np.float64) / 255)}


def fingerprint(classes: Sequence[str], files: dict[str, Any], samples: pl.DataFrame) -> str:
    """Over what the data are, not how they are stored: parquet bytes may differ between versions of polars."""
    content = [FORMAT, list(classes), files["images.npy"]["sha256"], files["masks.npy"]["sha256"]]
    digest = hashlib.sha256(json.dumps(content).encode())
    for row in samples.select("sample_id", "split", "group", "label", "mask_recipe").iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


class _GrowingArray:
    """A ``.npy`` file of uint8 whose first axis grows as blocks are appended; the header is filled in at the end."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._path, self._shape, self._length = path, shape, 0
        self._stream: IO[bytes] = path.open("wb")
        self._write_header()

    def append(self, array: np.ndarray) -> None:
        if array.shape != self._shape or array.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self._shape}, got {array.dtype} {array.shape}")
        self._stream.write(np.ascontiguousarray(array).data)
        self._length += 1

    def close(self) -> None:
        if self._stream.closed:
            return
        self._stream.seek(0)
        self._write_header()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def _write_header(self) -> None:
        # numpy pads the header so that a longer first axis fits into the same number of bytes.
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._length, *self._shape)}
        np.lib.format.write_array_header_1_0(self._stream, header)


def check_samples(
    samples: pl.DataFrame, classes: Sequence[str], why: Callable[[int | None], str], *, learnable: bool = False
) -> dict[str, dict[str, int]]:
    """Counts by split and class. Raises DataError where nothing can be learned from the samples.

    A set without any training sample is for testing: a system that was trained on another set is evaluated on it. ``learnable``:
    there were to be some. ``why`` says what became of the images of a class, or of all (None).
    """
    if samples.is_empty():
        raise DataError(f"no sample was left to prepare: {why(None)}")
    twice = samples.filter(pl.col("sample_id").is_duplicated())["sample_id"]
    if len(twice):
        raise DataError(f"sample id {twice[0]!r} occurs more than once; every image may be listed once only")
    found = {(split, label): count for split, label, count in samples.group_by("split", "label").len().iter_rows()}
    learnable = learnable or any(split == "train" for split, _ in found)
    for label, class_name in enumerate(classes):
        total, trained = sum(found.get((split, label), 0) for split in SPLITS), found.get(("train", label), 0)
        if not total:
            raise DataError(f"class {class_name!r} has no sample: {why(label)}")
        if learnable and (total < 2 or not trained):
            what = f"has {total} sample(s), {trained} of them for training; it needs at least 2, 1 for training"
            raise DataError(f"class {class_name!r} {what}: add images or leave the class out; not taken: {why(label)}")
    return {split: {name: found.get((split, label), 0) for label, name in enumerate(classes)} for split in SPLITS}


def train_mean(images_path: Path, samples: pl.DataFrame) -> list[float] | None:
    """Mean color of the training images, 0 to 1, read in blocks so that memory stays bounded; None without any."""
    images = np.load(images_path, mmap_mode="r")
    rows = np.flatnonzero((samples["split"] == "train").to_numpy())
    if not len(rows):
        return None
    total = np.zeros(3)
    for start in range(0, len(rows), 256):
        total += images[rows[start : start + 256]].mean(axis=(1, 2), dtype=np.float64).sum(axis=0)
    return [round(float(value), 6) for value in total / len(rows) / 255]


def file_record(path: Path) -> dict[str, Any]:
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    path = directory / MANIFEST
    manifest = json.loads(json.dumps(manifest))
    path.write_text(json.dumps({**manifest, "checksum": canonical_sha256(manifest)}, indent=1), encoding="utf-8")
    sync(path)
