"""What a prepared data set is built from: arrays that grow on disk, rows in memory, and the manifest that seals them."""

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from pipeline.data.prepared import FILES, FORMAT, MANIFEST, canonical_sha256, file_sha256
from pipeline.data.sample import SPLITS, Plan, Reject, Sample
from pipeline.errors import DataError


@dataclass
class Store:
    """Appends samples to the arrays as they arrive; only their rows stay in memory."""

    directory: Path
    image_size: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._images = _GrowingArray(self.directory / "images.npy", (self.image_size, self.image_size, 3))
        self._masks = _GrowingArray(self.directory / "masks.npy", (self.image_size, self.image_size))

    def add(self, results: list[Sample | Reject]) -> None:
        for result in results:
            if isinstance(result, Reject):
                self.rejects.append(result)
                continue
            self._images.append(result.image)
            self._masks.append(result.mask)
            self.rows.append(
                {
                    "sample_id": result.sample_id,
                    "source_file": result.source_file,
                    "split": result.split,
                    "group": result.group,
                    "label": result.label,
                    **dict(zip(("x0", "y0", "x1", "y1"), map(float, result.box), strict=True)),
                    "mask_recipe": result.mask_recipe,
                    "foreground_share": float(result.mask.mean(dtype=np.float64) / 255),
                }
            )

    def close(self) -> None:
        self._images.close()
        self._masks.close()

    def finish(self, plan: Plan, made_from: dict[str, Any]) -> dict[str, Any]:
        """Write everything but the manifest and return the manifest."""
        self.rejects = [*plan.rejects, *self.rejects]
        by_rule = dict(sorted(Counter(reject.rule for reject in self.rejects).items()))
        counts = _check_rows(self.rows, plan.classes, by_rule)
        samples = pl.DataFrame(self.rows)
        labels = samples["label"].to_numpy().astype(np.int64)
        np.save(self.directory / "labels.npy", labels)
        samples.write_parquet(self.directory / "samples.parquet")
        _write_rejects(self.directory / "rejects.csv", self.rejects)
        files = {name: _record(self.directory / name) for name in FILES}
        identity = samples.select("sample_id", "split", "group", "label", "mask_recipe").rows()
        content = [FORMAT, list(plan.classes), self._images.sha256(), self._masks.sha256(), identity]
        return {
            "format": FORMAT,
            **made_from,
            "classes": list(plan.classes),
            "num_samples": len(samples),
            "counts": counts,
            "rejects": by_rule,
            "mean": _train_mean(self.directory / "images.npy", samples),
            "files": files,
            "fingerprint": canonical_sha256(content),
            "versions": {name: version(name) for name in ("foreguard", "numpy", "opencv-python-headless", "pillow", "pycocotools")},
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


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

    def sha256(self) -> str:
        return file_sha256(self._path)

    def _write_header(self) -> None:
        # numpy pads the header so that a longer first axis fits into the same number of bytes.
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._length, *self._shape)}
        np.lib.format.write_array_header_1_0(self._stream, header)


def _check_rows(rows: list[dict[str, Any]], classes: Sequence[str], rejects: dict[str, int]) -> dict[str, dict[str, int]]:
    """Counts by split and class. Raises DataError where nothing can be learned from the samples."""
    if not rows:
        why = ", ".join(f"{count} {rule}" for rule, count in rejects.items()) or "the source is empty"
        raise DataError(f"no sample was left to prepare (rejected: {why}); loosen the rules under data.* or check the source")
    twice = [sample_id for sample_id, count in Counter(row["sample_id"] for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"sample id {twice[0]!r} occurs more than once; every image may be listed once only")
    found = Counter((row["split"], row["label"]) for row in rows)
    for label, class_name in enumerate(classes):
        total = sum(found[split, label] for split in SPLITS)
        if total < 2 or not found["train", label]:
            what = f"has {total} sample(s), {found['train', label]} of them for training"
            raise DataError(f"class {class_name!r} {what}; it needs at least 2, 1 for training: add images or leave the class out")
    return {split: {name: found[split, label] for label, name in enumerate(classes)} for split in SPLITS}


def _train_mean(images_path: Path, samples: pl.DataFrame) -> list[float]:
    """Mean colour of the training images, 0 to 1, read in blocks so that memory stays bounded."""
    images = np.load(images_path, mmap_mode="r")
    rows = np.flatnonzero((samples["split"] == "train").to_numpy())
    total = np.zeros(3)
    for start in range(0, len(rows), 256):
        total += images[rows[start : start + 256]].mean(axis=(1, 2), dtype=np.float64).sum(axis=0)
    return [round(float(value), 6) for value in total / len(rows) / 255]


def _write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["rule", "source_file", "item", "detail"])
        writer.writerows([reject.rule, reject.source_file, reject.item, reject.detail] for reject in rejects)


def _record(path: Path) -> dict[str, Any]:
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    path = directory / MANIFEST
    manifest = json.loads(json.dumps(manifest))
    path.write_text(json.dumps({**manifest, "checksum": canonical_sha256(manifest)}, indent=1), encoding="utf-8")
    sync(path)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
