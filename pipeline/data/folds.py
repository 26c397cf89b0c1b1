"""Cross-validation over groups: a fold is a prepared data set whose pixels are another one's and whose splits are its own.

Of K folds every photograph or track is in the test split of one. So K trainings together test all images on systems that never saw
their photograph or track. The directory of a fold holds links to the arrays of the set that it is made of, and opens like any.
"""

import os
import time
from pathlib import Path

import polars as pl

from pipeline.data.builder import partial_directory
from pipeline.data.dataset import FILES, PreparedDataset, read_manifest
from pipeline.data.splits import SEGMENTER, Split, assign_folds, assign_splits
from pipeline.data.store import check_samples, file_record, fingerprint, train_mean, write_manifest
from pipeline.errors import DataError

VERSION = 1


def fold_splits(samples: pl.DataFrame, *, number: int, folds: int) -> pl.Series:
    """The split of each sample (columns group, label, split) in one of several folds, counted from 0.

    The groups of the fold are the test split, whatever split they were in. Of the others as large a share validates as did before.
    Samples that train segmenters and
    nothing else stay what they are. A function of the groups and labels alone. Raises ValueError for a fold that there is not, and
    where a group has samples of both kinds.
    """
    if not 0 <= number < folds:
        raise ValueError(f"fold {number} of {folds}: they are counted from 0")
    classed = samples.filter(pl.col("split") != SEGMENTER)
    fold_of = assign_folds(classed["group"].to_list(), classed["label"].to_list(), folds, seed=0)
    rest = classed.filter(pl.col("group").is_in([group for group, fold in fold_of.items() if fold != number]))
    counts = {split: int((samples["split"] == split).sum()) for split in ("train", "val")}
    validating = counts["val"] / max(1, sum(counts.values()))
    shares: dict[Split, float] = {"train": 1 - validating, "val": validating}
    split_of: dict[str, str] = dict(assign_splits(rest["group"].to_list(), rest["label"].to_list(), shares, seed=number))
    split_of |= {group: "test" for group, fold in fold_of.items() if fold == number}
    for group in samples.filter(pl.col("split") == SEGMENTER)["group"].unique():
        if split_of.setdefault(group, SEGMENTER) != SEGMENTER:
            raise ValueError(f"the group {group!r} has samples that train segmenters alone and others, which a fold may test")
    return pl.Series("split", [split_of[group] for group in samples["group"]], dtype=pl.String)


def write_fold(dataset: PreparedDataset, target: Path, *, number: int, folds: int) -> None:
    """Write one fold of a data set as the directory ``target``, whole or not at all.

    Raises DataError where the fold leaves a class without an image to train on, where tracks are not known, or the directory cannot
    be written; OccupiedError where another process is writing it.
    """
    began = time.monotonic()
    hidden = dataset.samples.filter((pl.col("split") == "test") & (pl.col("group") == pl.col("sample_id")))
    if dataset.name == "gtsrb" and len(hidden):
        raise DataError(
            f"{dataset.path}: nobody knows the tracks of {len(hidden)} test images, so a fold would train on frames of signs that"
            " it tests; add a column Group to their table, prepare the training images alone, or leave folds out"
        )
    samples = dataset.samples.with_columns(fold_splits(dataset.samples, number=number, folds=folds))
    with partial_directory(target) as partial:
        for name in FILES:
            if name != "samples.parquet":
                (partial / name).symlink_to(os.path.relpath(dataset.path.resolve() / name, target.parent.resolve() / target.name))
        samples.write_parquet(partial / "samples.parquet")
        base = read_manifest(dataset.path)
        files = base["files"] | {"samples.parquet": file_record(partial / "samples.parquet")}
        fold = {"version": VERSION, "of": dataset.fingerprint, "number": number, "folds": folds}
        write_manifest(
            partial,
            base
            | {
                "recipe": base["recipe"] | {"fold": fold},
                "counts": check_samples(samples, dataset.classes, lambda _: f"fold {number} of {folds} tests its groups"),
                "mean": train_mean(dataset.path / "images.npy", samples),
                "files": files,
                "fingerprint": fingerprint(dataset.classes, files, samples),
                "seconds": round(time.monotonic() - began, 3),
            },
        )
