"""MS-COCO (Lin et al. 2014, https://cocodataset.org) and data in its layout: one square crop per annotated object."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.data.coco.annotations import Category, class_labels, identity, read_annotations, read_index
from pipeline.data.coco.listing import ANNOTATIONS, Listing, annotation_path
from pipeline.data.coco.objects import ImageItem, load_image
from pipeline.data.config import CocoConfig
from pipeline.data.copies import Joined, originals
from pipeline.data.download import Archive, fetch_archive
from pipeline.data.file_kinds import no_folder
from pipeline.data.names import alike_classes
from pipeline.data.sample import NO_CLASS, Plan, Reject, recipe_of
from pipeline.data.splits import SEGMENTER, Split, assign_splits, drawn_shares
from pipeline.errors import ConfigError, DataError, shortened

RECIPE_VERSION = 4

# Sizes and SHA-256: TensorFlow Datasets, tensorflow_datasets/url_checksums/coco.txt (https://github.com/tensorflow/datasets).
# The host's TLS certificate is not its own, hence http; the checksum is what vouches for the content.
_HOST = "http://images.cocodataset.org"
OFFICIAL_ARCHIVES = (
    Archive(
        url=f"{_HOST}/annotations/annotations_trainval2017.zip",
        sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        num_bytes=252_907_541,
        provides=(f"{ANNOTATIONS}/instances_train2017.json", f"{ANNOTATIONS}/instances_val2017.json"),
    ),
    Archive(
        url=f"{_HOST}/zips/val2017.zip",
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        num_bytes=815_585_330,
        provides=("val2017",),
    ),
    Archive(
        url=f"{_HOST}/zips/train2017.zip",
        sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        num_bytes=19_336_861_798,
        provides=("train2017",),
    ),
)


def plan(config: CocoConfig) -> Plan:
    """List the images with objects of the configured classes and draw splits by image; masks are not looked at yet.

    Raises ConfigError (classes, fractions) and DataError (files missing, damaged or of another kind).
    """
    shares = drawn_shares(config.val_fraction, config.test_fraction)
    if not config.parts or (config.classes is not None and not config.classes):
        raise ConfigError(f"data.{'classes' if config.parts else 'parts'} is empty: name at least one")
    if config.download:
        needed = {path for part in config.parts for path in (f"{ANNOTATIONS}/{part.annotations}", part.images)}
        for archive in OFFICIAL_ARCHIVES:
            if needed & set(archive.provides):
                fetch_archive(archive, config.root)
    _check_layout(config)
    paths = [annotation_path(config.root, part) for part in config.parts]
    indexes = [read_index(path) for path in paths]
    categories = [categories for _, categories in indexes]
    classes = _annotated(paths, categories) if config.classes is None else config.classes
    labels = class_labels(classes, categories)
    listing = Listing(config)
    for part, (images, known), part_labels in zip(config.parts, indexes, labels, strict=True):
        if part.segmenter:
            (named,) = class_labels({"segmenter": part.segmenter}, [known])
            part_labels = dict.fromkeys(named, NO_CLASS)
        listing.add(part, images, {category.category_id: part_labels.get(category.category_id) for category in known})
    taken, repeated = _with_copies_together(config.root, listing.images)
    listing.rejects += repeated
    found = {label for image in taken for label in image.labels}
    without = tuple(label for label in range(len(classes)) if label not in found)
    items = _with_splits(sorted(taken, key=lambda image: image.source_file), shares, config.seed)
    num_joined = sum(bool(image.joined) for image in taken)
    return Plan(
        classes=tuple(classes),
        recipe=recipe_of(config, version=RECIPE_VERSION, **({"joined": num_joined} if num_joined else {})),
        files=paths + [path for item in items if os.path.isfile(path := config.root / item.source_file)],
        items=() if without else items,
        load=partial(load_image, config=config, alike=alike_classes(classes)),
        rejects=[*listing.rejects, *(reject for label in sorted(listing.faults) for reject in listing.faults[label])]
        if without
        else listing.rejects,
        without_sample=without,
        for_training=any(part.split in (None, "train") and not part.segmenter for part in config.parts),
    )


def _annotated(paths: Sequence[Path], categories: Sequence[Sequence[Category]]) -> dict[str, tuple[str, ...]]:
    """Each category that has an object as a class of its own: exports list groups of categories that have none."""
    classes: dict[str, tuple[str, ...]] = {}
    where, unknown = paths[0], ""  # the first annotation of a category that is not in its file
    for path, known in zip(paths, categories, strict=True):
        named, used = {category.category_id: category.name for category in known}, set()
        for position, record in read_annotations(path):
            used.add(category_id := identity(record["category_id"]))
            if not unknown and category_id not in named:
                ids = shortened(", ".join(map(repr, named)))
                given = shortened(repr(record["category_id"]))
                where, unknown = path, f": category_id of annotations[{position}] is {given}, expected one of {ids}"
        classes |= {name: (name,) for category_id, name in named.items() if category_id in used}
    if not classes:
        raise DataError(f"{where}: no object of any category is annotated{unknown}")
    return classes


def _check_layout(config: CocoConfig) -> None:
    if not config.root.is_dir():
        raise DataError(
            f"data.root: {config.root} {no_folder(config.root)}; give the folder with annotations/, or set data.download=true"
        )
    for part in config.parts:
        for name in (part.annotations, part.images):
            if os.path.isabs(name) and not Path(name).is_relative_to(config.root):
                raise ConfigError(
                    f"data.parts: {name} lies outside of data.root: name it relative to {config.root}, or link it there"
                )
        for path, is_there in ((annotation_path(config.root, part), os.path.isfile), (config.root / part.images, os.path.isdir)):
            if not is_there(path):
                remedy = "see data.parts, or set data.download=true for the official files"
                kind = "file" if is_there is os.path.isfile else "folder"
                what = f"is no {kind}, or a link that leads to none" if os.path.lexists(path) else "is missing"
                raise DataError(f"{path}: {what}{_files_there(config.root)}; {remedy}")


def _files_there(root: Path) -> str:
    """The tail of a sentence on a missing annotation file: which there are."""
    there = sorted(
        path.relative_to(root).as_posix() for pattern in ("*.json", "*/*.json") for path in root.glob(pattern) if path.is_file()
    )
    if any(name.endswith("_annotations.coco.json") for name in there):
        return "; it looks like an export of Roboflow: data=roboflow reads that"
    return f"; there are {', '.join(there[:4])}" if there else ""


def _with_copies_together(root: Path, images: list[ImageItem]) -> tuple[list[ImageItem], list[Reject]]:
    """The groups of photographs that are the same file under several names are one. A copy in another split is left out, as is one
    that is there for segmenters alone while another has classes."""
    original = originals(root, {image.source_file for image in images})
    first, groups = dict[str, ImageItem](), Joined()
    kept, rejects = [], []
    for image in sorted(images, key=lambda image: (image.split == SEGMENTER, image.split is None)):
        former = first.setdefault(original[image.source_file], image)
        if image.split not in (None, former.split):
            detail = f"the same picture as {former.source_file}, which is in {former.split or 'a part whose splits are drawn'}"
            rejects.append(Reject(source_file=image.source_file, item=image.source_file, rule="repeated-image", detail=detail))
        else:
            groups.join(image.group, former.group)
            kept.append(image)
    return [
        image if (whole := groups.leader(image.group)) == image.group else replace(image, joined=whole) for image in kept
    ], rejects


def _with_splits(images: list[ImageItem], shares: Mapping[Split, float], seed: int) -> list[ImageItem]:
    """Give the images of parts without a split one each, stratified by the classes of their objects; a group that a split is given
    for in another part goes there."""
    given = {image.group: image.split for image in images if image.split}
    pairs = [(image.group, label) for image in images if image.group not in given for label in image.labels]
    drawn = assign_splits([group for group, _ in pairs], [label for _, label in pairs], shares, seed=seed)
    # An image that was not drawn has no object that passes: it yields rejects only, in whatever split.
    return [replace(image, split=image.split or given.get(image.group) or drawn.get(image.group, "train")) for image in images]
