"""A prepared data set of silhouettes: every image is its own mask, so a classifier sees the outline and nothing else."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import PreparedDataset, open_prepared
from pipeline.data.sample import Plan, Reject, Sample
from pipeline.data.splits import SPLITS

VERSION = 1
_CHUNK = 1024


def plan(dataset: PreparedDataset) -> Plan:
    """The same samples, splits, labels and masks as a prepared data set, with the mask as a grey image."""
    starts = range(0, len(dataset), _CHUNK)
    return Plan(
        classes=dataset.classes,
        recipe={"version": VERSION, "silhouettes_of": dataset.fingerprint},
        files=(),
        items=[(start, min(start + _CHUNK, len(dataset))) for start in starts],
        load=partial(load, dataset.path),
    )


def load(path: Path, item: tuple[int, int]) -> list[Sample | Reject]:
    """The silhouettes of the rows from the first (inclusive) to the second (exclusive)."""
    dataset = open_prepared(path, verify=False)
    rows = dataset.samples.slice(item[0], item[1] - item[0]).to_dicts()
    return [_sample(dataset, number, row) for number, row in enumerate(rows, start=item[0]) if row["split"] in SPLITS]


def _sample(dataset: PreparedDataset, number: int, row: dict[str, Any]) -> Sample:
    mask = np.array(dataset.masks[number])
    kept = {name: row[name] for name in ("sample_id", "source_file", "group", "split", "mask_recipe")}
    return Sample(
        **kept,
        label=int(dataset.labels[number]),
        box=(row["x0"], row["y0"], row["x1"], row["y1"]),
        image=np.repeat(mask[:, :, None], 3, axis=2),
        mask=mask,
    )
