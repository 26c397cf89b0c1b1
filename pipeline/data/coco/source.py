"""MS-COCO (Lin et al. 2014, https://cocodataset.org) and data in its layout: one square crop per annotated object."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pipeline.data.coco.annotations import Annotation, ImageRecord, class_labels, read_annotations, read_index
from pipeline.data.coco.config import CocoConfig, CocoPart
from pipeline.data.coco.objects import ImageItem, ObjectRules, load_image, object_fault
from pipeline.data.download import Archive, fetch_archive
from pipeline.data.sample import NO_CLASS, Plan, Reject
from pipeline.data.splits import SEGMENTER, Split, assign_splits
from pipeline.errors import ConfigError, DataError

RECIPE_VERSION = 1
ANNOTATIONS = "annotations"

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

    Raises ConfigError (classes, fractions) and DataError (files missing or damaged, no object of a class).
    """
    if config.val_fraction + config.test_fraction >= 1:
        raise ConfigError("data.val_fraction + data.test_fraction must be below 1: the rest is for training")
    if not config.classes or not config.parts:
        raise ConfigError(f"data.{'parts' if config.classes else 'classes'} is empty: name at least one")
    if config.download:
        _fetch_missing(config)
    _check_layout(config)
    paths = [config.root / ANNOTATIONS / part.annotations for part in config.parts]
    indexes = [read_index(path) for path in paths]
    labels = class_labels(config.classes, [categories for _, categories in indexes])
    rules = _rules(config)
    listing = _Listing(config, rules)
    for part, (images, categories), part_labels in zip(config.parts, indexes, labels, strict=True):
        if part.segmenter:
            (named,) = class_labels({"segmenter": part.segmenter}, [categories])
            part_labels = dict.fromkeys(named, NO_CLASS)
        listing.add(part, images, {category.category_id: part_labels.get(category.category_id) for category in categories})
    items = _with_splits(sorted(listing.images, key=lambda image: image.source_file), config)
    found = {label for image in listing.images for label in image.labels}
    for label, name in enumerate(config.classes):
        if label not in found:
            raise DataError(f"{config.root}: no object of class {name!r} passes the rules on size and position; see data.min_size")
    return Plan(
        classes=tuple(config.classes),
        recipe=_recipe(config),
        files=paths + [path for item in items if (path := config.root / item.source_file).is_file()],
        items=items,
        load=partial(load_image, root=config.root, rules=rules),
        rejects=listing.rejects,
    )


def _rules(config: CocoConfig) -> ObjectRules:
    return ObjectRules(
        image_size=config.image_size,
        min_size=config.min_size,
        context=config.context,
        max_overlap=config.max_overlap,
        border=config.border,
    )


def _fetch_missing(config: CocoConfig) -> None:
    needed = {path for part in config.parts for path in (f"{ANNOTATIONS}/{part.annotations}", part.images)}
    for archive in OFFICIAL_ARCHIVES:
        if needed & set(archive.provides):
            fetch_archive(archive, config.root)


def _check_layout(config: CocoConfig) -> None:
    if not config.root.is_dir():
        what = "is no folder" if config.root.exists() else "does not exist"
        raise DataError(f"data.root: {config.root} {what}; give the folder with annotations/, or set data.download=true")
    for part in config.parts:
        for path, is_there in (
            (config.root / ANNOTATIONS / part.annotations, Path.is_file),
            (config.root / part.images, Path.is_dir),
        ):
            if not is_there(path):
                raise DataError(f"{path}: is missing; see data.parts, or set data.download=true for the official files")


def _recipe(config: CocoConfig) -> dict[str, Any]:
    choices = asdict(config)
    for elsewhere in ("root", "download"):  # they decide where the files lie, not what becomes of them
        del choices[elsewhere]
    return {"version": RECIPE_VERSION, **choices}


def _with_splits(images: list["_OpenImage"], config: CocoConfig) -> list[ImageItem]:
    """Give the images of parts without a split one each, stratified by the classes of their objects."""
    pairs = [(image.source_file, label) for image in images if image.split is None for label in image.labels]
    fractions: dict[Split, float] = {
        "train": 1 - config.val_fraction - config.test_fraction,
        "val": config.val_fraction,
        "test": config.test_fraction,
    }
    drawn = assign_splits([group for group, _ in pairs], [label for _, label in pairs], fractions, seed=config.seed)
    # An image that was not drawn has no object that passes: it yields rejects only, in whatever split.
    return [image.item(image.split or drawn.get(image.source_file, "train")) for image in images]


class _Listing:
    """The images that hold objects of our classes, collected part by part."""

    def __init__(self, config: CocoConfig, rules: ObjectRules) -> None:
        self.images: list[_OpenImage] = []
        self.rejects: list[Reject] = []
        self._config, self._rules = config, rules
        self._files: set[str] = set()
        self._names: set[tuple[int, str]] = set()

    def add(self, part: CocoPart, images: list[ImageRecord], known: Mapping[int, int | None]) -> None:
        """List one part. ``known``: category id -> label, or None for a category that is in no class."""
        taken = self._take_images(part, images)
        skipped = {image.image_id for image in images} - taken.keys()
        for record in read_annotations(self._config.root / ANNOTATIONS / part.annotations):
            category_id, image_id, name = record.get("category_id"), record.get("image_id"), f"annotation {record['id']}"
            if not isinstance(category_id, int) or category_id not in known:
                self._reject(part.annotations, name, "unknown-category", f"category_id {category_id!r} is not in the file")
            elif isinstance(image_id, int) and image_id in taken:
                taken[image_id].add(_annotation(record, known[category_id]), self._rules)
            elif known[category_id] is not None and image_id not in skipped:
                self._reject(part.annotations, name, "annotation-without-image", f"image_id {image_id!r} is not in the file")
        for image in taken.values():
            if image.has_ours:
                self.images.append(image)
            else:
                self._reject(
                    image.source_file, image.source_file, "image-without-annotation", "no object of the configured classes"
                )

    def _take_images(self, part: CocoPart, images: list[ImageRecord]) -> dict[int, "_OpenImage"]:
        taken: dict[int, _OpenImage] = {}
        for image in images:
            path = PurePosixPath(image.file_name)
            source_file = str(PurePosixPath(part.images) / path)
            # The same file, or the same id and name in another folder: one image must not reach two splits.
            repeated = source_file in self._files or (image.image_id, path.name) in self._names or image.image_id in taken
            if path.is_absolute() or ".." in path.parts:
                self._reject(source_file, source_file, "path-outside-root", "the file name leads out of the image folder")
            elif repeated:
                self._reject(source_file, source_file, "repeated-image", f"listed again by {part.annotations}")
            else:
                split = SEGMENTER if part.segmenter else part.split
                taken[image.image_id] = _OpenImage(source_file, image.width, image.height, split)
                self._files.add(source_file)
                self._names.add((image.image_id, path.name))
        return taken

    def _reject(self, source_file: str, item: str, rule: str, detail: str) -> None:
        self.rejects.append(Reject(source_file=source_file, item=item, rule=rule, detail=detail))


class _OpenImage:
    """An image whose annotations are still being read."""

    def __init__(self, source_file: str, width: int, height: int, split: Split | Literal["segmenter"] | None) -> None:
        self.source_file, self.width, self.height, self.split = source_file, width, height, split
        self.has_ours = False
        self.labels: list[int] = []
        self._packed: list[bytes] = []

    def add(self, annotation: Annotation, rules: ObjectRules) -> None:
        self._packed.append(annotation.pack())
        if annotation.label is not None:
            self.has_ours = True
            if object_fault(annotation, self.width, self.height, rules) is None:
                self.labels.append(annotation.label)

    def item(self, split: Split | Literal["segmenter"]) -> ImageItem:
        return ImageItem(
            source_file=self.source_file,
            width=self.width,
            height=self.height,
            split=split,
            annotations=tuple(self._packed),
        )


def _annotation(record: Mapping[str, Any], label: int | None) -> Annotation:
    return Annotation(
        annotation_id=record["id"],
        label=label,
        crowd=bool(record.get("iscrowd", 0)),
        box=record.get("bbox"),
        segmentation=record.get("segmentation"),
    )
