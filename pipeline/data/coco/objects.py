"""From one COCO image to square crops of its objects: the rules on objects, the masks, the crops."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int32

from pipeline.data.coco.annotations import Annotation
from pipeline.data.coco.masks import BadSegmentation, Runs, area, draw, run_lengths
from pipeline.data.images import Box, ImageFile, Raster, crop, open_image, resize, square_around
from pipeline.data.rules import Rejected
from pipeline.data.sample import Reject, Sample
from pipeline.data.splits import Split

# Boxes are written with two decimals, and some end a fraction of a pixel beyond the image.
BOX_TOLERANCE = 1.0

Fault = tuple[str, str]
"""Rule and detail of a reject."""
Outline = tuple[Runs, str]
"""Run lengths and what they were made from, as ``run_lengths`` returns them."""


@dataclass(frozen=True, kw_only=True)
class ObjectRules:
    """Which objects are taken and how they are cut; the fields are those of ``CocoConfig``."""

    image_size: int
    min_size: float
    context: float
    max_overlap: float
    border: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageItem:
    """One image with all its annotations: what a worker process needs, and no more."""

    source_file: str
    """Relative to the source's root; it is the group as well."""
    width: int
    """Of the image's record, in pixels."""
    height: int
    """Of the image's record, in pixels."""
    split: Split | Literal["segmenter"]
    annotations: tuple[bytes, ...]
    """``Annotation.pack()``; those of other categories too, for the overlap."""


def object_fault(annotation: Annotation, width: int, height: int, rules: ObjectRules) -> Fault | None:
    """The first rule that the box of an object breaks, or None."""
    if annotation.crowd:
        return "crowd", "a region of many objects"
    box = _box(annotation)
    if box is None:
        return "nan-box", f"bbox {annotation.box!r} is not four finite numbers"
    x0, y0, x1, y1 = box
    if min(x0, y0) < -BOX_TOLERANCE or x1 > width + BOX_TOLERANCE or y1 > height + BOX_TOLERANCE:
        return "box-outside-image", f"box {x0:g}, {y0:g} to {x1:g}, {y1:g} in an image of {width} x {height}"
    if min(x1 - x0, y1 - y0) < rules.min_size:
        return "too-small", f"box of {x1 - x0:g} x {y1 - y0:g} pixels, at least {rules.min_size:g} are asked for"
    distance = min(x0, y0, width - x1, height - y1)
    if rules.border is not None and distance <= rules.border:
        return "truncated", f"{max(distance, 0.0):g} pixels from the image border, more than {rules.border:g} are asked for"
    return None


def _box(annotation: Annotation) -> Box | None:
    """x0, y0, x1, y1, or None where the file has something else than four finite numbers."""
    box = annotation.box
    if not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in box):
        return None
    return float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3])


def load_image(item: ImageItem, *, root: Path, rules: ObjectRules) -> list[Sample | Reject]:
    """Decode an image once and cut all objects of our classes, in the order of the annotation file."""
    annotations = [Annotation.unpack(packed) for packed in item.annotations]
    faults = _object_faults(annotations, item, rules)
    if all(faults.values()):
        return [_reject(item, annotations[index], fault) for index, fault in faults.items() if fault]
    image = _read(root, item)
    if isinstance(image, tuple):
        return [_reject(item, annotations[index], fault or image) for index, fault in faults.items()]
    outlines = [_outline(annotation, item) for annotation in annotations]
    owner = _owners(outlines, item)
    results: list[Sample | Reject] = []
    for index, fault in faults.items():
        cut = fault or _cut(item, annotations[index], outlines[index], image=image, owner=owner, index=index, rules=rules)
        results.append(_reject(item, annotations[index], cut) if isinstance(cut, tuple) else cut)
    return results


def _object_faults(annotations: list[Annotation], item: ImageItem, rules: ObjectRules) -> dict[int, Fault | None]:
    """The broken rule by position, for the objects of our classes."""
    faults: dict[int, Fault | None] = {}
    seen: set[int] = set()
    for index, annotation in enumerate(annotations):
        if annotation.label is not None:
            again = annotation.annotation_id in seen
            fault = object_fault(annotation, item.width, item.height, rules)
            faults[index] = ("repeated-annotation", "its id came before") if again else fault
            seen.add(annotation.annotation_id)
    return faults


def _read(root: Path, item: ImageItem) -> Raster | Fault:
    path = root / item.source_file
    if not path.is_file():
        return "annotation-without-image", "the image file does not exist"
    try:
        with open_image(path) as opened:
            if (opened.width, opened.height) != (item.width, item.height):
                raise _wrong_size(opened, item)
            return opened.picture()
    except Rejected as error:
        return error.rule, error.detail


def _wrong_size(opened: ImageFile, item: ImageItem) -> Rejected:
    sizes = f"the file has {opened.width} x {opened.height} pixels, its record says {item.width} x {item.height}"
    if opened.turn > 1 and opened.stored_size == (item.width, item.height):
        return Rejected("turned-image", f"{sizes}: its EXIF orientation {opened.turn} turns it")
    return Rejected("size-mismatch", sizes)


def _outline(annotation: Annotation, item: ImageItem) -> Outline | BadSegmentation:
    try:
        return run_lengths(annotation.segmentation, width=item.width, height=item.height)
    except BadSegmentation as error:
        return error


def _owners(outlines: list[Outline | BadSegmentation], item: ImageItem) -> Int32[np.ndarray, "height width"]:
    """Which annotation, by position, each pixel belongs to: the smallest that covers it; -1 where there is none.

    A smaller object is taken to be in front of a larger one. Annotations without a readable outline are left out.
    """
    owner = np.full((item.height, item.width), -1, dtype=np.int32)
    readable = [(index, outline[0]) for index, outline in enumerate(outlines) if isinstance(outline, tuple)]
    for index, runs in sorted(readable, key=lambda pair: area(pair[1]), reverse=True):
        owner[draw(runs, width=item.width, height=item.height)] = index
    return owner


def _cut(
    item: ImageItem,
    annotation: Annotation,
    outline: Outline | BadSegmentation,
    *,
    image: Raster,
    owner: Int32[np.ndarray, "height width"],
    index: int,
    rules: ObjectRules,
) -> Sample | Fault:
    """The crop of one object, or the rule that its mask breaks. ``index``: of the object, as ``owner`` names it."""
    if isinstance(outline, BadSegmentation):
        return "bad-segmentation", str(outline)
    runs, recipe = outline
    x0, y0, x1, y1 = _box(annotation) or (0.0, 0.0, 0.0, 0.0)
    inside = np.s_[max(math.floor(y0), 0) : math.ceil(y1), max(math.floor(x0), 0) : math.ceil(x1)]
    mask = draw(runs, width=item.width, height=item.height) * np.uint8(255)
    if not mask[inside].any():
        return "empty-mask", "no pixel of the outline lies in the box"
    overlap = float(((owner[inside] >= 0) & (owner[inside] != index)).mean())
    if overlap > rules.max_overlap:
        return "overlapped", f"{overlap:.2f} of the box belongs to other objects, at most {rules.max_overlap:g} may"
    left, top, side = square_around((x0, y0, x1, y1), context=rules.context, width=item.width, height=item.height)
    return Sample(
        sample_id=_sample_id(item, annotation),
        source_file=item.source_file,
        group=item.source_file,
        label=int(annotation.label or 0),
        split=item.split,
        box=(float(left), float(top), float(left + side), float(top + side)),
        mask_recipe=recipe,
        image=image.square(left, top, side, rules.image_size),
        mask=resize(crop(mask, left, top, side, replicate=False), rules.image_size),
        notes=image.notes,
    )


def _sample_id(item: ImageItem, annotation: Annotation) -> str:
    return f"{item.source_file}#{annotation.annotation_id}"


def _reject(item: ImageItem, annotation: Annotation, fault: Fault) -> Reject:
    return Reject(source_file=item.source_file, item=_sample_id(item, annotation), rule=fault[0], detail=fault[1])
