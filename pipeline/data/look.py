"""A look at data that nobody has described yet: which layout they have, how many objects, of which classes, how large."""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.data.coco.formats import HEAD
from pipeline.data.coco.listing import ANNOTATIONS
from pipeline.data.coco.objects import ImageItem
from pipeline.data.config import CocoConfig, CocoPart, FolderConfig, GtsrbConfig
from pipeline.data.file_kinds import no_folder
from pipeline.data.folder import FolderItem
from pipeline.data.folder_listing import IMAGES, MASKS, SPLIT_FOLDERS, TABLE
from pipeline.data.gtsrb.annotations import Sign
from pipeline.data.gtsrb.layouts import LayoutError, find_tables
from pipeline.data.gtsrb.shapes import NUM_CLASSES
from pipeline.data.gtsrb.source import CLASS_NAMES
from pipeline.data.prepare import plan_of
from pipeline.data.rules import note_lines
from pipeline.data.sample import Plan, Reject, RejectCounts, Sample
from pipeline.errors import DataError
from pipeline.progress import progress_bar

OwnSource = FolderConfig | GtsrbConfig | CocoConfig
DECODED = 200
"""Items that are decoded to see how large their objects are."""
ROBOFLOW = "_annotations.coco.json"
_FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")')


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a source holds."""

    config: OwnSource
    """How it is read."""
    counts: dict[str, dict[str, int]]
    """Objects by class and split, before images are decoded."""
    groups: int
    """Photographs, tracks or whatever else is never torn apart."""
    sides: tuple[float, ...]
    """Sides of the squares around decoded objects, in pixels of their files, ascending; at least one."""
    foreground: float
    """Median share of these squares that is foreground."""
    decoded: int
    """Items that were decoded for sides and foreground."""
    rejects: dict[str, int]
    """Objects that were not taken by the rule that they broke: all that the listing rejects, and those among the decoded."""
    notes: tuple[str, ...] = ()
    """What is to be said of the set, as ``prepare`` says it."""

    @property
    def num_objects(self) -> int:
        return sum(sum(of_class.values()) for of_class in self.counts.values())

    def of_split(self, split: str) -> int:
        """Objects in a split."""
        return sum(of_class.get(split, 0) for of_class in self.counts.values())

    @property
    def side(self) -> float:
        """Median of the sides."""
        return float(median(self.sides))


def recognize(root: Path) -> OwnSource:
    """How the data below a folder are read: a table or folders of images and masks, GTSRB, or COCO's format.

    Raises DataError: there is no such folder, or it is none of these.
    """
    if not root.is_dir():
        raise DataError(f"root: {root} {no_folder(root)}")
    splits = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and folder.name.lower() in SPLIT_FOLDERS]
    if (root / TABLE).is_file() or any((folder / IMAGES).is_dir() and (folder / MASKS).is_dir() for folder in (root, *splits)):
        return FolderConfig(root=root)
    if parts := tuple(_coco_parts(root)):
        return CocoConfig(root=root, classes=None, parts=_with_splits(parts))
    try:
        find_tables(root, range(NUM_CLASSES))
    except LayoutError as error:
        raise DataError(
            f"root: {root} is none of the layouts that are known: {TABLE}, or {IMAGES}/CLASS/ beside {MASKS}/CLASS/; GTSRB as it is"
            f" published or on Kaggle; annotations/*.json in COCO's format beside its images, or folders with {ROBOFLOW}"
        ) from error
    return GtsrbConfig(root=root)


def look(config: OwnSource) -> Look:
    """Count the objects, and decode some of them to see their sizes. Raises DataError: nothing can be used."""
    plan = plan_of(config)
    if plan.without_sample and isinstance(config, CocoConfig):  # categories all of whose objects break a rule
        kept = [name for place, name in enumerate(plan.classes) if place not in plan.without_sample]
        config = replace(config, classes={name: (name,) for name in kept})
        if kept:
            plan = plan_of(config)
    if not plan.items:
        raise DataError(f"root: nothing in it can be used: {RejectCounts(plan.rejects).why()}")
    counts: dict[str, Counter[str]] = {name: Counter() for name in plan.classes}
    groups = set()
    for item in plan.items:
        group, labels = _group_and_labels(item, plan.classes)
        for label in labels:
            counts[plan.classes[label]][item.split] += 1
            groups.add(group)
    samples, rejects = _decoded(plan)
    if not samples:
        raise DataError(f"root: nothing that was decoded can be used: {RejectCounts(rejects).why()}")
    by_rule = Counter(one.rule for one in (*plan.rejects, *rejects))
    return Look(
        config=config,
        counts={name: dict(of_class) for name, of_class in counts.items()},
        groups=len(groups),
        sides=tuple(sorted(one.box[2] - one.box[0] for one in samples)),
        foreground=float(median(one.mask.mean() / 255 for one in samples)),
        decoded=min(DECODED, len(plan.items)),
        rejects=dict(by_rule.most_common()),
        notes=tuple(note_lines(Counter(note for one in samples for note in one.notes), len(samples), by_rule)),
    )


def _decoded(plan: Plan) -> tuple[list[Sample], list[Reject]]:
    """Some items of the plan, drawn with a fixed seed."""
    items = random.Random(0).sample(range(len(plan.items)), min(DECODED, len(plan.items)))
    found: list[Sample | Reject] = []
    with progress_bar("looking", total=len(items), unit="images") as advance:
        for place in items:
            found += plan.load(plan.items[place])
            advance()
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Reject)]


def _group_and_labels(item: Any, classes: tuple[str, ...]) -> tuple[str, Sequence[int]]:
    """Of an item, and of its objects that pass what can be told without decoding it."""
    match item:
        case FolderItem():
            return item.entry.group, [item.label]
        case Sign():
            return item.group, [classes.index(CLASS_NAMES[item.class_number])]
        case ImageItem():
            return item.group, item.labels
    raise TypeError(type(item))


def _coco_parts(root: Path) -> Iterator[CocoPart]:
    """Annotation files with the folder of their images and the split that the name says."""
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and (folder / ROBOFLOW).is_file():
            name = folder.name
            yield CocoPart(annotations=f"{name}/{ROBOFLOW}", images=name, split=SPLIT_FOLDERS.get(name.lower()))
    found = sorted((root / ANNOTATIONS).glob("*.json")) or sorted(root.glob("*.json"))
    # Beside COCO's instances lie captions and keypoints of the same pictures.
    for path in [path for path in found if path.name.startswith("instances_")] or found:
        name = path.stem.removeprefix("instances_")
        images = _images_of(root, path, name)
        if images is not None and path.name != ROBOFLOW:
            named = next((split for word, split in SPLIT_FOLDERS.items() if name.lower().startswith(word)), None)
            yield CocoPart(annotations=path.name, images=images, split=named)


def _images_of(root: Path, annotations: Path, name: str) -> str | None:
    """The folder where the first picture of an annotation file lies, else one that is called like it."""
    named = [one for one in (name, f"{IMAGES}/{name}", IMAGES) if (root / one).is_dir()]
    with annotations.open("rb") as stream:
        match = _FILE_NAME.search(stream.read(HEAD).decode(errors="replace"))
    # A string of JSON by the pattern; its slashes may be those of Windows. What no file can be called, isfile says is none.
    first = "" if match is None else json.loads(match[1], strict=False).replace("\\", "/")
    holding = (one for one in (*named, "data", ".") if first and os.path.isfile(root / one / first))
    return next(holding, named[0] if named else None)


def _with_splits(parts: tuple[CocoPart, ...]) -> tuple[CocoPart, ...]:
    """As the names say where there are all three splits. Of train and val, as COCO publishes them, val is for testing, and
    images for validation are drawn from train. Else all are drawn."""
    named = {part.split for part in parts}
    if named >= {"train", "val", "test"}:
        return parts
    if named == {"train", "val"}:
        return tuple(replace(part, split="test" if part.split == "val" else None) for part in parts)
    if named == {"train", "test"}:
        return tuple(replace(part, split="test" if part.split == "test" else None) for part in parts)
    return tuple(replace(part, split=None) for part in parts)
