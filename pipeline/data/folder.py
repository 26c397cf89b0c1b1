"""The user's own images, masks and labels: one sub-folder per class, or a CSV file."""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import ConfigDict, Field

from pipeline.data.folder_listing import TABLE, Entry, list_folder
from pipeline.data.images import Box, UnreadableImage, crop, read_image, read_mask, resize, square_around
from pipeline.data.sample import Plan, Reject, Sample, Split
from pipeline.data.splits import assign_splits
from pipeline.errors import ConfigError, DataError

RECIPE_VERSION = 1
FOREGROUND = 128
"""From this value on a pixel of a mask counts as foreground when its box is sought."""
MASK_VALUES = "0 to 255 is the foreground share; a largest value of 1 means 0 and 1"


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """Own data: images/CLASS/NAME.* beside masks/CLASS/NAME.*, or labels.csv with columns image, mask, label[, split][, group].

    Masks are grey, 0 background to 255 foreground; a mask whose largest value is 1 is read as 0 and 1. The EXIF orientation of
    images and masks is applied, as viewers do.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    root: Path
    """Folder that holds labels.csv, or else images/ and masks/ with one sub-folder per class; paths in the table start here."""
    source: Literal["folder"] = "folder"
    """Name of the source."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 64
    """Side of the prepared images in pixels, 8 to 1024."""
    context: Annotated[float, Field(ge=0, le=4)] | None = None
    """null: the whole image, padded to a square; a number, 0 to 4: a square crop around the mask's box with this margin on each
    side, as a share of the box's longer side. Nothing is ever squashed."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the samples without a split for validation, 0 to 1."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the samples without a split for testing, 0 to 1."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the drawn splits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderItem:
    """One image with its mask, to be decoded."""

    entry: Entry
    label: int
    split: Split


def plan(config: FolderConfig) -> Plan:
    """List images with masks and labels, and draw splits by group for those that have none.

    Raises ConfigError (fractions) and DataError (layout, a wrong row of the table with its number, nothing found).
    """
    if config.val_fraction + config.test_fraction >= 1:
        raise ConfigError("data.val_fraction + data.test_fraction must be below 1: the rest is for training")
    listing = list_folder(config.root)
    entries, lonely = _without_lonely(listing.entries)
    rejects = listing.rejects + lonely
    if not entries:
        why = ", ".join(f"{count} {rule}" for rule, count in sorted(Counter(reject.rule for reject in rejects).items()))
        raise DataError(f"{config.root}: no image with a mask and a label ({why or 'it is empty'})")
    classes = tuple(sorted({entry.class_name for entry in entries}))
    label_of = {name: label for label, name in enumerate(classes)}
    files = {config.root / name for entry in entries for name in (entry.image, entry.mask)}
    if (config.root / TABLE).is_file():
        files.add(config.root / TABLE)
    choices = asdict(config)
    del choices["root"]
    return Plan(
        classes=classes,
        recipe={"version": RECIPE_VERSION, "mask_values": MASK_VALUES, **choices},
        files=sorted(files),
        items=_items(entries, label_of, config),
        load=partial(load_item, root=config.root, image_size=config.image_size, context=config.context),
        rejects=rejects,
    )


def _without_lonely(entries: list[Entry]) -> tuple[list[Entry], list[Reject]]:
    """Leave out classes with one sample: it cannot be both learned and tested."""
    counts = Counter(entry.class_name for entry in entries)
    detail = "the only sample of class {!r}: it cannot be both learned and tested; add images"
    rejects = [
        Reject(source_file=e.image, item=e.sample_id, rule="single-sample-class", detail=detail.format(e.class_name))
        for e in entries
        if counts[e.class_name] == 1
    ]
    return [entry for entry in entries if counts[entry.class_name] > 1], rejects


def _items(entries: list[Entry], label_of: dict[str, int], config: FolderConfig) -> list[FolderItem]:
    """Give the entries without a split one, whole groups at a time."""
    open_entries = [entry for entry in entries if entry.split is None]
    fractions: dict[Split, float] = {
        "train": 1 - config.val_fraction - config.test_fraction,
        "val": config.val_fraction,
        "test": config.test_fraction,
    }
    groups, labels = [entry.group for entry in open_entries], [label_of[entry.class_name] for entry in open_entries]
    drawn = assign_splits(groups, labels, fractions, seed=config.seed)
    ordered = sorted(entries, key=lambda entry: entry.sample_id)
    return [FolderItem(entry=e, label=label_of[e.class_name], split=e.split or drawn[e.group]) for e in ordered]


def load_item(item: FolderItem, *, root: Path, image_size: int, context: float | None) -> list[Sample | Reject]:
    """Decode one image with its mask and cut the square."""
    try:
        image = read_image(root / item.entry.image, upright=True)
    except UnreadableImage as error:
        return [_reject(item, "unreadable-image", str(error))]
    try:
        stored = read_mask(root / item.entry.mask, upright=True)
    except UnreadableImage as error:
        return [_reject(item, "unreadable-mask", f"{item.entry.mask}: {error}")]
    height, width = stored.shape
    if image.shape[:2] != stored.shape:
        return [
            _reject(item, "size-mismatch", f"the image has {image.shape[1]} x {image.shape[0]} pixels, the mask {width} x {height}")
        ]
    largest = int(stored.max())
    if largest == 0:
        return [_reject(item, "empty-mask", "all pixels are 0")]
    if 1 < largest < FOREGROUND:
        return [_reject(item, "faint-mask", f"the largest value is {largest}: neither a mask of 0 to 255 nor of 0 and 1")]
    mask = stored * np.uint8(255) if largest == 1 else stored
    box = (0.0, 0.0, float(width), float(height)) if context is None else _box_of(mask)
    left, top, side = square_around(box, context=context or 0.0, width=width, height=height)
    small_mask = resize(crop(mask, left, top, side, replicate=False), image_size)
    if not small_mask.any():
        return [_reject(item, "empty-mask", f"nothing is left of it at {image_size} pixels")]
    sample = Sample(
        sample_id=item.entry.sample_id,
        source_file=item.entry.image,
        group=item.entry.group,
        label=item.label,
        split=item.split,
        box=(float(left), float(top), float(left + side), float(top + side)),
        mask_recipe="file-0-1" if largest == 1 else "file-0-255",
        image=resize(crop(image, left, top, side, replicate=True), image_size),
        mask=small_mask,
    )
    return [sample]


def _box_of(mask: UInt8[np.ndarray, "height width"]) -> Box:
    rows, columns = np.flatnonzero((mask >= FOREGROUND).any(axis=1)), np.flatnonzero((mask >= FOREGROUND).any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _reject(item: FolderItem, rule: str, detail: str) -> Reject:
    return Reject(source_file=item.entry.image, item=item.entry.sample_id, rule=rule, detail=detail)
