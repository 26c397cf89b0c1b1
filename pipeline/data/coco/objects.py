"""From one COCO image to square crops of its objects: the rules on objects, the masks, the crops."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from pipeline.data.coco.annotations import Annotation
from pipeline.data.coco.masks import Outline, Runs, area, draw, extent, extent_of_runs, number, read_outline, runs_along_rows
from pipeline.data.config import CocoConfig
from pipeline.data.images import Box, ImageFile, Raster, crop, open_image, resize, square_around
from pipeline.data.rules import SAME_OUTLINE, Rejected
from pipeline.data.sample import NO_CLASS, Reject, Sample
from pipeline.data.splits import Split

# Boxes are written with two decimals, and some end a fraction of a pixel beyond the image.
BOX_TOLERANCE = 1.0
SAME_BOX = 0.9
"""Intersection over union from which on ``bbox`` is the box of the outline: in COCO itself it is 0.99 and more."""
PERCENT = 100
"""The largest coordinate in percent of a side. Of photographs of twice that and more not all objects lie in this corner."""
_VERSION = re.compile(r"\.rf\.\w+(?=\.\w+$)")
"""What Roboflow puts into the names of the images, turned, cropped or noisy, that it makes of one photograph."""


@dataclass(kw_only=True, slots=True)
class ImageItem:
    """One image with all its annotations, collected while the file is read: what a worker process needs, and no more."""

    source_file: str
    """Relative to the source's root."""
    width: int
    """Of the image's record, in pixels."""
    height: int
    """Of the image's record, in pixels."""
    split: Split | Literal["segmenter"] | None
    """None until it is drawn."""
    hint: str = ""
    """Where images of this part were found that are not where they should be."""
    annotations: list[bytes] = field(default_factory=list)
    """``Annotation.pack()``; those of other categories too, for the overlap."""
    labels: list[int] = field(default_factory=list)
    """Of the objects of ours that pass the rules on size and position."""
    has_ours: bool = False
    """An object of ours is annotated, whether or not it passes."""
    joined: str = ""
    """The group of another photograph that is the same file; empty where none is."""
    notes: frozenset[str] = frozenset()
    """What the part says of all its images, by the names of ``rules.NOTES``."""

    @property
    def group(self) -> str:
        """The photograph: the file, or what its versions are called in common, or what a copy of it is called."""
        return self.joined or _VERSION.sub("", self.source_file)

    def add(self, annotation: Annotation, config: CocoConfig) -> Reject | None:
        """Keep an annotation; returns the reject of an object of ours that breaks a rule."""
        self.annotations.append(annotation.pack())
        if annotation.label is None:
            return None
        self.has_ours = True
        try:
            check_object(annotation, self.width, self.height, config)
        except Rejected as error:
            (name,) = sample_ids(self.source_file, [annotation])
            return Reject(source_file=self.source_file, item=name, rule=error.rule, detail=error.detail, label=annotation.label)
        self.labels.append(annotation.label)
        return None


def check_object(annotation: Annotation, width: int, height: int, config: CocoConfig) -> tuple[Box, set[str]]:
    """The box of an object in an image of that size, and what is to be said of it by the names of ``rules.NOTES``. Raises
    ``Rejected`` with the first rule on size and position that it breaks."""
    if annotation.crowd and not config.keep_crowd:
        raise Rejected("crowd", "iscrowd is 1")
    given = _given_box(annotation.box)
    try:
        around, drawn, num_dropped = extent(annotation.segmentation, width=width, height=height)
    except Rejected:
        if given is not None:
            _check_box(given, width, height, config)  # what is wrong with the box is said first
        raise
    if given is None and runs_along_rows(annotation.segmentation, width=width, height=height):
        raise Rejected("bad-segmentation", "its run lengths go along rows, and COCO's go down columns")
    if given is None and around is not None and drawn is not None:
        _check_inside(drawn, width, height)  # what is cut off tells that it is of a larger picture
    box, notes = _chosen_box(given, around, width, height)
    _check_box(box, width, height, config)
    told = {"dropped-fragment": num_dropped > 0, "percent": max(box[2:]) <= PERCENT and min(width, height) >= 2 * PERCENT}
    return box, notes | {name for name, holds in told.items() if holds}


def box_of(annotation: Annotation, width: int, height: int) -> Box | None:
    """The box of an annotation, else that of its outline in an image of that size; None where neither can be read."""
    with suppress(Rejected):
        given = _given_box(annotation.box)
        return given or extent(annotation.segmentation, width=width, height=height).visible
    return None


def _given_box(box: Any) -> Box | None:
    """x0, y0, x1, y1 of ``bbox``, or None where the file has none, or zeros in its place."""
    if box in (None, [], [0, 0, 0, 0]):
        return None
    numbers = [number(value) for value in box] if isinstance(box, list) else []
    x, y, width, height = numbers if len(numbers) == 4 else (None,) * 4
    if x is None or y is None or width is None or height is None:
        raise Rejected("nan-box", f"bbox {str(box)[:80]} is not four finite numbers")
    if min(width, height) < 0:
        raise Rejected("box-mismatch", f"bbox {str(box)[:80]} has a negative width or height")
    return x, y, x + width, y + height


def _chosen_box(given: Box | None, around: Box | None, width: int, height: int) -> tuple[Box, set[str]]:
    """The given box, or the outline's where there is none or where it is another one."""
    if around is None:
        if given is not None:
            return given, set()  # the rules on boxes may say more than that the outline is empty
        raise Rejected("empty-mask", "no pixel of the outline lies in the image")
    if given is None:
        return around, set()
    inside = (max(given[0], 0.0), max(given[1], 0.0), min(given[2], float(width)), min(given[3], float(height)))
    overlap = _area(_meet(inside, around))
    if min(given[2] - given[0], given[3] - given[1]) <= 0 or _alike(inside, around):
        return given, set()
    exchanged = around[1], around[0], around[3], around[2]
    visible = _meet(given, (0.0, 0.0, float(height), float(width)))  # the outline's coordinates were cut off at the other sides
    alike = _alike(visible, exchanged)
    half = (given[2] - given[0]) / 2, (given[3] - given[1]) / 2
    centered = given[0] - half[0], given[1] - half[1], given[0] + half[0], given[1] + half[1]
    # One from corner to corner holds the outline as well, and one that was written from its center can be told.
    if alike or not (overlap >= SAME_BOX * _area(around) or _alike(centered, around)):
        shown = [f"{x0:g}, {y0:g} to {x1:g}, {y1:g}" for x0, y0, x1, y1 in (given, around)]
        what = "; x and y of the one are exchanged" if alike else _unit(inside, around, width, height)
        raise Rejected("box-mismatch", f"bbox is {shown[0]}, and the outline lies in {shown[1]}{what}")
    return around, {"outline-box"}


def _unit(given: Box, around: Box, width: int, height: int) -> str:
    """The tail of a sentence on a box and an outline of which one is in shares or percent of the image and the other in pixels."""
    for name, one, other in (("the outline", around, given), ("bbox", given, around)):
        for unit, full in (("shares", 1), ("percent", PERCENT)):
            x0, y0, x1, y1 = one
            if _alike((x0 * width / full, y0 * height / full, x1 * width / full, y1 * height / full), other):
                return f"; {name} is in {unit} of the image, and pixels are meant"
    return ""


def _meet(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _alike(one: Box, other: Box) -> bool:
    common = _area(_meet(one, other))
    return common > 0 and common >= SAME_BOX * (_area(one) + _area(other) - common)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _check_box(box: Box, width: int, height: int, config: CocoConfig) -> None:
    x0, y0, x1, y1 = box
    _check_inside(box, width, height)
    if max(x1, y1) <= 1:
        raise Rejected("box-mismatch", f"box {x0:g}, {y0:g} to {x1:g}, {y1:g}: are these shares of the image, and no pixels?")
    if min(x1 - x0, y1 - y0) < config.min_size:
        raise Rejected("too-small", f"box of {x1 - x0:g} x {y1 - y0:g} pixels, at least {config.min_size:g} are asked for")
    distance = min(x0, y0, width - x1, height - y1)
    if config.border is not None and distance <= config.border:
        what = f"{max(distance, 0.0):g} pixels from the image border, more than {config.border:g} are asked for"
        raise Rejected("truncated", what)


def _check_inside(box: Box, width: int, height: int) -> None:
    x0, y0, x1, y1 = box
    if min(x0, y0) < -BOX_TOLERANCE or x1 > width + BOX_TOLERANCE or y1 > height + BOX_TOLERANCE:
        raise Rejected("box-outside-image", f"box {x0:g}, {y0:g} to {x1:g}, {y1:g} in an image of {width} x {height}")


def load_image(item: ImageItem, *, config: CocoConfig, alike: frozenset[int]) -> list[Sample | Reject]:
    """Decode an image once and cut all objects of our classes, in the order of the annotation file; ``alike``: classes whose names
    look alike."""
    annotations = [Annotation.unpack(packed) for packed in item.annotations]
    names = sample_ids(item.source_file, annotations)
    scene = _Scene(item, [a if name else None for a, name in zip(annotations, names, strict=True)], config)
    found: list[Sample | Reject] = []
    for index, annotation in enumerate(annotations):
        if annotation.label is not None:
            try:
                if not names[index]:
                    raise Rejected("repeated-annotation", "the same object stands before it with the same id")
                box, notes = check_object(annotation, item.width, item.height, config)
                notes |= {"alike-class"} if annotation.label in alike else set()
                found.append(scene.cut(index, annotation.label, box, names[index], notes))
            except Rejected as error:
                name = names[index] or f"{item.source_file}#{annotation.annotation_id}"
                about = {"source_file": item.source_file, "item": name, "rule": error.rule, "detail": error.detail}
                found.append(Reject(**about, label=annotation.label))
    return found


def sample_ids(source_file: str, annotations: list[Annotation]) -> list[str]:
    """A name for each annotation: file and id, with its place among those of one id; empty for one that repeats another."""
    seen: dict[Any, list[Annotation]] = {}
    names = []
    for annotation in annotations:
        former = seen.setdefault(annotation.annotation_id, [])
        place = f"-{len(former) + 1}" if former else ""
        names.append("" if annotation in former else f"{source_file}#{annotation.annotation_id}{place}")
        former.append(annotation)
    return names


def _read(root: Path, item: ImageItem, *, shrink: float) -> Raster:
    if os.path.lexists(root / item.source_file) and not os.path.isfile(root / item.source_file):
        raise Rejected("unreadable-image", "it is no file, or a link that leads to none")
    if not os.path.isfile(root / item.source_file):
        raise Rejected("annotation-without-image", f"no file {item.source_file}{item.hint}")
    with open_image(root / item.source_file) as opened:
        if (opened.width, opened.height) != (item.width, item.height):
            raise _wrong_size(opened, item)
        picture = opened.picture(shrink=shrink)
        if opened.turn > 1 and opened.stored_size == (item.width, item.height):
            picture = replace(picture, notes=picture.notes | {"turned-alone"})
        return picture


def _wrong_size(opened: ImageFile, item: ImageItem) -> Rejected:
    sizes = f"the file has {opened.width} x {opened.height} pixels, its record says {item.width} x {item.height}"
    if opened.turn > 1 and opened.stored_size == (item.width, item.height):
        return Rejected("turned-image", f"{sizes}: its EXIF orientation {opened.turn} turns it")
    if (opened.height, opened.width) == (item.width, item.height):
        return Rejected("size-mismatch", f"{sizes}: width and height are exchanged")
    scale = opened.width / item.width if item.width > 0 else 0.0
    if scale and abs(opened.height - scale * item.height) <= 1:
        return Rejected("size-mismatch", f"{sizes}: it was resized by {scale:.3g} after labelling, and the annotations were not")
    return Rejected("size-mismatch", sizes)


class _Scene:
    """An image with the outlines of all its annotations; None stands for one that repeats another."""

    def __init__(self, item: ImageItem, annotations: list[Annotation | None], config: CocoConfig) -> None:
        self._item, self._annotations, self._config = item, annotations, config
        self._pictures: dict[int, Raster | Rejected] = {}

    def _picture(self, side: int) -> Raster:
        """The image decoded as finely as a square of that side needs; what other objects need has no say in it."""
        scale = next(scale for scale in (8, 4, 2, 1) if scale == 1 or side >= 2 * scale * self._config.image_size)
        if scale not in self._pictures:
            try:
                self._pictures[scale] = _read(self._config.root, self._item, shrink=2 * scale)
            except Rejected as error:
                self._pictures[scale] = error
        found = self._pictures[scale]
        if isinstance(found, Rejected):
            raise found
        return found

    @cached_property
    def _outlines(self) -> list[Outline | None]:
        """None where it cannot be read, which ``check_object`` says, or repeats another."""
        found: list[Outline | None] = [None] * len(self._annotations)
        for index, annotation in enumerate(self._annotations):
            if annotation is not None:
                with suppress(Rejected):
                    found[index] = read_outline(annotation.segmentation, width=self._item.width, height=self._item.height)
        return found

    @cached_property
    def _owner(self) -> Int[np.ndarray, "height width"]:
        """Which annotation, by position, each pixel belongs to: the smallest that covers it; -1 where there is none.

        A smaller object is taken to be in front of a larger one. Annotations without a readable outline are left out.
        """
        enough = np.int16 if len(self._outlines) < 2**15 else np.int32  # of a photograph of 48 megapixels it is the largest array
        owner = np.full((self._item.height, self._item.width), -1, dtype=enough)
        readable = [(index, outline.runs) for index, outline in enumerate(self._outlines) if outline is not None]
        for index, runs in sorted(readable, key=lambda pair: area(pair[1]), reverse=True):
            owner[draw(runs, width=self._item.width, height=self._item.height)] = index
        return owner

    def cut(self, index: int, label: int, box: Box, sample_id: str, notes: set[str]) -> Sample:
        """The crop of one object, by position. Raises ``Rejected``."""
        item, config = self._item, self._config
        left, top, side = square_around(box, context=config.context, width=item.width, height=item.height)
        image, outline = self._picture(side), self._outlines[index]
        assert outline is not None
        assert item.split is not None
        x0, y0, x1, y1 = box
        inside = np.s_[max(math.floor(y0), 0) : math.ceil(y1), max(math.floor(x0), 0) : math.ceil(x1)]
        mask = draw(outline.runs, width=item.width, height=item.height) * np.uint8(255)
        if not mask[inside].any():
            raise Rejected("empty-mask", "no pixel of the outline lies in the box")
        self._check_one_class(index, label, outline)
        owner = self._owner[inside]
        overlap = float(((owner >= 0) & (owner != index)).mean())
        if overlap > config.max_overlap:
            what = f"{overlap:.2f} of the box belongs to other objects, at most {config.max_overlap:g} may"
            raise Rejected("overlapped", what)
        return Sample(
            sample_id=sample_id,
            source_file=item.source_file,
            group=item.group,
            label=label,
            split=item.split,
            box=(float(left), float(top), float(left + side), float(top + side)),
            mask_recipe=outline.recipe,
            image=image.square(left, top, side, config.image_size),
            mask=resize(crop(mask, left, top, side, replicate=False), config.image_size),
            notes=image.notes | item.notes | notes | self._shape_notes(index, label, outline),
        )

    def _shape_notes(self, index: int, label: int, outline: Outline) -> set[str]:
        """What is to be said of an outline: it is a filled box, fills a hole, crosses itself, another one lies in its place."""
        covered, around, notes = area(outline.runs), extent_of_runs(outline.runs, self._item.height), set[str]()
        if around is not None and covered == _area(around):
            notes.add("filled-box")
        told = {"filled-hole": outline.fills_hole, "crossed": outline.crosses}
        notes |= {name for name, holds in told.items() if holds}
        size = {"width": self._item.width, "height": self._item.height}
        for other, drawn in self._others(index):
            if min(covered, area(drawn)) < SAME_OUTLINE * max(covered, area(drawn)):
                continue
            one, two = (draw(runs, **size) for runs in (outline.runs, drawn))
            if (one & two).sum() >= SAME_OUTLINE * (one | two).sum():
                notes.add("twin" if other == label else "twin-class")
        return notes

    def _check_one_class(self, index: int, label: int, outline: Outline) -> None:
        """Raises ``Rejected`` for an object that stands there as another class too."""
        if any(other != label and np.array_equal(drawn, outline.runs) for other, drawn in self._others(index)):
            raise Rejected("repeated-annotation", "the same outline stands under another class too: which it is is not known")

    def _others(self, index: int) -> Iterator[tuple[int, Runs]]:
        """Class and outline of the objects beside one."""
        for other, (annotation, drawn) in enumerate(zip(self._annotations, self._outlines, strict=True)):
            if other != index and annotation is not None and drawn is not None and annotation.label not in (None, NO_CLASS):
                yield annotation.label, drawn.runs
