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
from pipeline.data.splits import Split, assign_folds, assign_splits
from pipeline.data.store import check_samples, file_record, fingerprint, train_mean, write_manifest

VERSION = 1


def fold_splits(samples: pl.DataFrame, *, number: int, folds: int) -> pl.Series:
    """The split of each sample (columns group, label, split) in one of several folds, counted from 0.

    The groups of the fold are the test split, whatever split they were in. Of the others as large a share validates as did before.
    A function of the groups and labels alone. Raises ValueError for a fold that there is not.
    """
    if not 0 <= number < folds:
        raise ValueError(f"fold {number} of {folds}: they are counted from 0")
    groups, labels = samples["group"].to_list(), samples["label"].to_list()
    fold_of = assign_folds(groups, labels, folds, seed=0)
    rest = samples.filter(pl.Series([fold_of[group] != number for group in groups]))
    counts = {split: int((samples["split"] == split).sum()) for split in ("train", "val")}
    validating = counts["val"] / max(1, sum(counts.values()))
    shares: dict[Split, float] = {"train": 1 - validating, "val": validating}
    drawn = assign_splits(rest["group"].to_list(), rest["label"].to_list(), shares, seed=number)
    return pl.Series("split", ["test" if fold_of[group] == number else drawn[group] for group in groups], dtype=pl.String)


def write_fold(dataset: PreparedDataset, target: Path, *, number: int, folds: int) -> None:
    """Write one fold of a data set as the directory ``target``, whole or not at all.

    Raises DataError where the fold leaves a class without an image to train on, or the directory cannot be written; OccupiedError
    where another process is writing it.
    """
    began = time.monotonic()
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
