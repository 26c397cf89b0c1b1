"""The user's own images, masks and labels: one sub-folder per class, or a CSV file."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.config import FolderConfig
from pipeline.data.copies import Joined, originals
from pipeline.data.folder_listing import TABLE, Entry, list_folder
from pipeline.data.images import Box, ImageFile, Raster, open_image, square_around
from pipeline.data.mask_values import EXTREME, FOREGROUND
from pipeline.data.names import alike_classes
from pipeline.data.rules import SAME_OUTLINE, Rejected
from pipeline.data.sample import Plan, Reject, Sample, recipe_of
from pipeline.data.splits import Split, assign_splits, drawn_shares

RECIPE_VERSION = 5
SAME_SIZE = 0.7
"""Ratio of the sizes of two mask files from which on they may show nearly the same."""
LOOKED_AT = 512
"""Pixels of a side from which on a mask is shrunk before its holes are looked for."""
MASK_VALUES = "two values are background and object, more are the foreground share: the rules of mask_values"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderItem:
    """One image with its mask, to be decoded."""

    entry: Entry
    label: int
    split: Split
    notes: frozenset[str]
    """By the names of ``rules.NOTES``: another image has the same mask file (of a fixed camera, or a slip in the table), or another
    class nearly the same name."""
    others: tuple[tuple[str, str], ...] = ()
    """Mask and class of the picture's other objects whose mask file is about as large: they may be this one again."""


def plan(config: FolderConfig) -> Plan:
    """List images with masks and labels, and draw splits by group for those that have none.

    Raises ConfigError (fractions) and DataError (layout, a wrong row of the table with its number).
    """
    shares = drawn_shares(config.val_fraction, config.test_fraction)
    listing = list_folder(config.root)
    original = originals(config.root, {file for entry in listing.entries for file in (entry.image, entry.mask)})
    entries, own = _without_own(original, listing.entries)
    entries, contrary = _without_contrary(original, entries)
    entries, repeated = _with_copies_together(original, entries)
    entries, lonely = _without_lonely(entries)
    rejects = listing.rejects + own + contrary + repeated + lonely
    classes = tuple(sorted({entry.class_name for entry in entries}))
    label_of = {name: label for label, name in enumerate(classes)}
    files = {config.root / name for entry in entries for name in (entry.image, entry.mask)}
    if (config.root / TABLE).is_file():
        files.add(config.root / TABLE)
    return Plan(
        classes=classes,
        recipe=recipe_of(config, version=RECIPE_VERSION, mask_values=MASK_VALUES),
        files=sorted(files),
        items=_items(config.root, entries, original, label_of, shares, config.seed),
        load=partial(load_item, root=config.root, image_size=config.image_size, context=config.context),
        rejects=rejects,
        for_training=listing.for_training,
    )


def _without_own(original: Mapping[str, str], entries: list[Entry]) -> tuple[list[Entry], list[Reject]]:
    """A picture that is its own mask: a wrong column, or one folder under two names."""
    own = [entry for entry in entries if original[entry.image] == original[entry.mask]]
    detail = "{}: it is the picture itself, to the byte"
    rejects = [Reject(source_file=e.image, item=e.sample_id, rule="unreadable-mask", detail=detail.format(e.mask)) for e in own]
    return [entry for entry in entries if original[entry.image] != original[entry.mask]], rejects


def _without_contrary(original: Mapping[str, str], entries: list[Entry]) -> tuple[list[Entry], list[Reject]]:
    """A picture that stands under several classes with the same mask, copies of it included, is of none."""
    named: dict[tuple[str, str], set[str]] = defaultdict(set)

    def pair(entry: Entry) -> tuple[str, str]:
        return original[entry.image], original[entry.mask]

    for entry in entries:
        named[pair(entry)].add(entry.class_name)
    detail = "the same picture with the same mask is in the classes {}: which it is is not known"
    rejects = [
        Reject(
            source_file=e.image,
            item=e.sample_id,
            rule="repeated-annotation",
            detail=detail.format(" and ".join(map(repr, sorted(named[pair(e)])))),
        )
        for e in entries
        if len(named[pair(e)]) > 1
    ]
    return [entry for entry in entries if len(named[pair(entry)]) == 1], rejects


def _with_copies_together(original: Mapping[str, str], entries: list[Entry]) -> tuple[list[Entry], list[Reject]]:
    """The groups of pictures that are the same file are one, in the split that one of them has. A copy in another is left out,
    and so are groups without a split that have copies in several."""
    first, groups = dict[str, Entry](), Joined()
    kept, rejects = [], []
    for entry in sorted(entries, key=lambda entry: entry.split is None):  # a split that is given comes first
        former = first.setdefault(original[entry.image], entry)
        if entry.split not in (None, former.split):
            detail = f"the same picture as {former.image} in the {former.split} split"
            rejects.append(Reject(source_file=entry.image, item=entry.sample_id, rule="repeated-image", detail=detail))
            continue
        kept.append(entry)
        groups.join(entry.group, former.group)
    splits: dict[str, set[Split]] = defaultdict(set)
    for entry in kept:
        splits[groups.leader(entry.group)] |= {entry.split} if entry.split else set()
    together = []
    for entry in kept:
        group = groups.leader(entry.group)
        if entry.split is None and len(splits[group]) > 1:  # in whichever it went, the other has a picture of its group
            detail = f"its group has the same pictures as the {' and the '.join(sorted(splits[group]))} split"
            rejects.append(Reject(source_file=entry.image, item=entry.sample_id, rule="repeated-image", detail=detail))
        else:
            together.append(replace(entry, group=group, split=entry.split or next(iter(splits[group]), None)))
    return together, rejects


def _without_lonely(entries: list[Entry]) -> tuple[list[Entry], list[Reject]]:
    """Leave out classes with one sample, which cannot be both learned and tested; of a set for testing all are kept."""
    if all(entry.split == "test" for entry in entries):
        return entries, []
    counts = Counter(entry.class_name for entry in entries)
    detail = "the only sample of class {!r}: it cannot be both learned and tested; add images"
    rejects = [
        Reject(source_file=e.image, item=e.sample_id, rule="single-sample-class", detail=detail.format(e.class_name))
        for e in entries
        if counts[e.class_name] == 1
    ]
    return [entry for entry in entries if counts[entry.class_name] > 1], rejects


def _items(
    root: Path,
    entries: list[Entry],
    original: Mapping[str, str],
    label_of: dict[str, int],
    shares: Mapping[Split, float],
    seed: int,
) -> list[FolderItem]:
    """Give the entries without a split one, whole groups at a time."""
    open_entries = [entry for entry in entries if entry.split is None]
    groups, labels = [entry.group for entry in open_entries], [label_of[entry.class_name] for entry in open_entries]
    drawn = assign_splits(groups, labels, shares, seed=seed)
    times, alike = Counter(entry.mask for entry in entries), alike_classes(label_of)
    classes, files, pictures, objects = defaultdict(set), defaultdict(set), defaultdict(set), defaultdict(list)
    for entry in entries:
        classes[original[entry.image]].add(entry.class_name)
        files[original[entry.mask]].add(entry.mask)
        pictures[original[entry.mask]].add(original[entry.image])
        objects[original[entry.image]].append((entry.mask, entry.class_name, (root / entry.mask).stat().st_size))

    def noted(entry: Entry) -> frozenset[str]:
        told = {
            "shared-mask": times[entry.mask] > 1,
            "alike-mask": min(len(files[original[entry.mask]]), len(pictures[original[entry.mask]])) > 1,
            "alike-class": label_of[entry.class_name] in alike,
            "two-classes": len(classes[original[entry.image]]) > 1,
        }
        return frozenset(name for name, holds in told.items() if holds)

    def others(entry: Entry) -> tuple[tuple[str, str], ...]:
        of_picture = objects[original[entry.image]]
        size = next(size for mask, _, size in of_picture if mask == entry.mask)
        near = [(mask, name) for mask, name, other in of_picture if SAME_SIZE * max(size, other) < min(size, other)]
        return tuple((mask, name) for mask, name in near if original[mask] != original[entry.mask])

    return [
        FolderItem(entry=e, label=label_of[e.class_name], split=e.split or drawn[e.group], notes=noted(e), others=others(e))
        for e in sorted(entries, key=lambda entry: entry.sample_id)
    ]


def load_item(item: FolderItem, *, root: Path, image_size: int, context: float | None) -> list[Sample | Reject]:
    """Decode one image with its mask and cut the square."""
    try:
        with open_image(root / item.entry.image) as picture:
            mask = _read_mask(picture, root / item.entry.mask, item.entry.mask)
            box = (0.0, 0.0, float(mask.width), float(mask.height)) if context is None else _box_of(mask)
            left, top, side = square_around(box, context=context or 0.0, width=mask.width, height=mask.height)
            small_mask = mask.square(left, top, side, image_size)
            if not small_mask.any():
                raise Rejected("empty-mask", f"nothing is left of it at {image_size} pixels")
            image = picture.picture(shrink=side / image_size)
            small_image = image.square(left, top, side, image_size)
    except Rejected as error:
        where = {"source_file": item.entry.image, "item": item.entry.sample_id}
        return [Reject(**where, rule=error.rule, detail=error.detail, label=item.label)]
    sample = Sample(
        sample_id=item.entry.sample_id,
        source_file=item.entry.image,
        group=item.entry.group,
        label=item.label,
        split=item.split,
        box=(float(left), float(top), float(left + side), float(top + side)),
        mask_recipe=mask.recipe,
        image=small_image,
        mask=small_mask,
        notes=image.notes | mask.notes | item.notes | _twins(mask, item, root),
    )
    return [sample]


def _twins(mask: Raster, item: FolderItem, root: Path) -> set[str]:
    """What is to be said where another object of the picture is nearly this one."""
    drawn, notes = np.asarray(mask.image) >= FOREGROUND, set()
    for name, class_name in item.others:
        with suppress(Rejected), open_image(root / name) as stored:
            other = np.asarray(stored.mask().image) >= FOREGROUND
            if other.shape == drawn.shape and (other & drawn).sum() >= SAME_OUTLINE * (other | drawn).sum():
                notes.add("twin" if class_name == item.entry.class_name else "twin-class")
    return notes


def _read_mask(picture: ImageFile, path: Path, name: str) -> Raster:
    """The mask of a picture, of its size. Raises ``Rejected`` with the mask's name."""
    try:
        with open_image(path) as stored:
            _check_sizes(picture, stored)
            mask = stored.mask()
            turned_alone = picture.turn > 1 and stored.turn == 1 and picture.stored_size == (picture.width, picture.height)
    except Rejected as error:
        rule = "unreadable-mask" if error.rule == "unreadable-image" else error.rule
        raise Rejected(rule, f"{name}: {error.detail}") from error
    told = {
        "turned-alone": turned_alone,
        "border-foreground": _lies_at_border(mask),
        "filled-box": _is_box(mask),
        "hollow": _is_hollow(mask),
        "in-between": 2 * sum(mask.image.histogram()[EXTREME:-EXTREME]) > mask.width * mask.height,
    }
    return replace(mask, notes=frozenset(name for name, holds in told.items() if holds))


def _check_sizes(picture: ImageFile, mask: ImageFile) -> None:
    if (picture.width, picture.height) == (mask.width, mask.height):
        return
    sizes = f"the image has {picture.width} x {picture.height} pixels, the mask {mask.width} x {mask.height}"
    if picture.stored_size == mask.stored_size:
        turn = picture.turn if picture.turn > 1 else mask.turn
        raise Rejected("turned-image", f"{sizes}: EXIF orientation {turn} turns the one and not the other")
    raise Rejected("size-mismatch", sizes)


def _lies_at_border(mask: Raster) -> bool:
    """Whether most of the border is foreground, and of what lies within no larger share: as where the background was drawn."""
    if min(mask.width, mask.height) < 3:  # it is all border
        return False
    lines = ((0, 0, mask.width, 1), (0, mask.height - 1, mask.width, mask.height))
    sides = ((0, 1, 1, mask.height - 1), (mask.width - 1, 1, mask.width, mask.height - 1))
    border = np.concatenate([np.asarray(mask.image.crop(line)).ravel() for line in lines + sides])
    at_border = int((border >= FOREGROUND).sum())
    within = sum(mask.image.histogram()[FOREGROUND:]) - at_border
    share = at_border / len(border)
    return share > 0.5 and within <= share * (mask.width * mask.height - len(border))


def _is_box(mask: Raster) -> bool:
    x0, y0, x1, y1 = _box_of(mask)
    return sum(mask.image.histogram()[FOREGROUND:]) == (x1 - x0) * (y1 - y0)


def _is_hollow(mask: Raster) -> bool:
    """Whether the foreground encloses more than it covers: a line was drawn around the object, and not filled."""
    shrink = max(1, max(mask.width, mask.height) // LOOKED_AT)
    drawn = np.asarray(mask.image.reduce(shrink)) >= FOREGROUND // shrink  # a line of one pixel is that much of its square
    outside = np.pad(drawn.astype(np.uint8), 1)
    cv2.floodFill(outside, None, (0, 0), 2)
    return int((outside == 0).sum()) > int(drawn.sum())


def _box_of(mask: Raster) -> Box:
    """Of the pixels that count as foreground; a mask that is no share but has none is kept whole by its rules."""
    box = mask.image.point([0] * FOREGROUND + [255] * (256 - FOREGROUND)).getbbox()
    assert box is not None  # the largest value of a mask that was accepted is foreground
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])
