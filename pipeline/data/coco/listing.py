"""Which images of the annotation files are taken, and what is annotated in them."""

import filecmp
import os
from collections import defaultdict
from collections.abc import Mapping, Set
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.data.coco.annotations import Annotation, Id, ImageRecord, identity, read_annotations
from pipeline.data.coco.objects import ImageItem, box_of
from pipeline.data.config import CocoConfig, CocoPart
from pipeline.data.images import open_image
from pipeline.data.names import Tree
from pipeline.data.rules import Rejected
from pipeline.data.sample import Reject
from pipeline.data.splits import SEGMENTER
from pipeline.errors import DataError, shortened

ANNOTATIONS = "annotations"
NOWHERE = "it lies nowhere below"
FEWEST_BOXES, AT_EDGE, FAR_FROM_EDGE = 20, 0.03, 0.1
"""Boxes that tell where objects lie in pictures, and shares of a side."""
MAX_SEARCHED = 200_000
"""Files that are looked at for an image that is not where it should be."""


def annotation_path(root: Path, part: CocoPart) -> Path:
    """Where an annotation file lies: under annotations/, or, as labelling tools export it, anywhere below the root."""
    usual = root / ANNOTATIONS / part.annotations
    elsewhere = root / part.annotations
    return elsewhere if os.path.isfile(elsewhere) and not os.path.isfile(usual) else usual


class _Reach:
    """How near to the edges of their pictures the objects of a part come, as shares of width and height."""

    def __init__(self) -> None:
        self._boxes: list[tuple[float, ...]] = []

    def see(self, annotation: Annotation, image: ImageItem) -> None:
        box = box_of(annotation, image.width, image.height)
        if box is not None:
            self._boxes.append(tuple(value / (image.height if place % 2 else image.width) for place, value in enumerate(box)))

    @property
    def ends_early(self) -> bool:
        """Whether objects begin at the left and upper edge and none comes near the other two: of so many hardly ever by chance."""
        if len(self._boxes) < FEWEST_BOXES:
            return False
        left, top, right, bottom = zip(*self._boxes, strict=True)
        return bool(max(min(left), min(top)) < AT_EDGE and max(*right, *bottom) < 1 - FAR_FROM_EDGE)


class Listing:
    """The images that hold objects of our classes, collected part by part."""

    def __init__(self, config: CocoConfig) -> None:
        self.images: list[ImageItem] = []
        self.rejects: list[Reject] = []
        self.faults: dict[int, list[Reject]] = defaultdict(list)
        """The rejected objects of each class that has no other object so far."""
        self._root, self._config = config.root, config
        self._found: set[int] = set()
        self._files: set[str] = set()
        self._names: dict[tuple[Id, str], str] = {}

    def add(self, part: CocoPart, images: list[ImageRecord], known: Mapping[Id, int | None]) -> None:
        """List one part. ``known``: category id -> label, or None for a category that is in no class."""
        taken, reach = self._take_images(part, images), _Reach()
        listed, used, used_images = {image.image_id for image in images}, set[Id | None](), set[Id | None]()
        for position, record in read_annotations(annotation_path(self._root, part)):
            category_id, image_id = identity(record["category_id"]), identity(record["image_id"])
            name = f"annotations[{position}]"
            used.add(category_id)
            used_images.add(image_id)
            if category_id is None or category_id not in known:
                what = f"category_id {str(record['category_id'])[:40]!r} is not in the file"
                self._reject(part.annotations, name, "unknown-category", what)
            elif image_id is not None and image_id in taken:
                annotation = _annotation(record, position, known[category_id])
                reach.see(annotation, taken[image_id])
                self._annotate(taken[image_id], annotation)
            elif known[category_id] is not None and image_id not in listed:
                what = f"image_id {str(record['image_id'])[:40]!r} is not in the file"
                self._reject(part.annotations, name, "annotation-without-image", what)
        _check_numbering(annotation_path(self._root, part), used, known)
        _check_image_numbering(annotation_path(self._root, part), used_images, listed)
        for image in taken.values():
            if image.has_ours:
                image.notes = frozenset({"upper-left"} if reach.ends_early else ())
                self.images.append(image)
            else:
                what = "no object of the configured classes"
                self._reject(image.source_file, image.source_file, "image-without-annotation", what)

    def _annotate(self, image: ImageItem, annotation: Annotation) -> None:
        reject = image.add(annotation, self._config)
        if annotation.label is None or annotation.label in self._found:
            return
        if reject is None:
            self._found.add(annotation.label)
            self.faults.pop(annotation.label, None)
        else:
            self.faults[annotation.label].append(reject)

    def _take_images(self, part: CocoPart, images: list[ImageRecord]) -> dict[Id, ImageItem]:
        tree = Tree(self._root / part.images)
        located: list[tuple[ImageRecord, str]] = []
        for image in images:
            try:
                located.append((image, str(PurePosixPath(part.images) / _inside(tree, image.file_name, part.images))))
            except Rejected as error:
                self._reject(image.file_name, image.file_name, error.rule, error.detail)
        files_of, ids_of = defaultdict(set), defaultdict(set)
        for image, source_file in located:
            files_of[image.image_id].add(source_file)
            ids_of[source_file].add(image.image_id)
        taken: dict[Id, ImageItem] = {}
        elsewhere = self._elsewhere(part, located)
        for image, source_file in located:
            try:
                _check_unique(image, files_of[image.image_id], ids_of[source_file])
                if image.image_id in taken or self._is_repeated(image, source_file):
                    raise Rejected("repeated-image", f"listed again by {part.annotations}")
                width, height = _size(image, self._root / source_file)
                near = tree.near(os.path.relpath(source_file, part.images)) if elsewhere else ""
                hint = near if near and NOWHERE in elsewhere else near + elsewhere
                taken[image.image_id] = ImageItem(
                    source_file=source_file,
                    width=width,
                    height=height,
                    split=SEGMENTER if part.segmenter else part.split,
                    hint=hint,
                )
            except Rejected as error:
                self._reject(source_file, source_file, error.rule, error.detail)
        for image_id, opened in taken.items():
            self._files.add(opened.source_file)
            self._names[image_id, PurePosixPath(opened.source_file).name] = opened.source_file
        return taken

    def _is_repeated(self, image: ImageRecord, source_file: str) -> bool:
        """One picture must not reach two splits: the same file, or its copy in another folder under the same id and name."""
        former = self._names.get((image.image_id, PurePosixPath(source_file).name))
        return source_file in self._files or (former is not None and _same_content(self._root / former, self._root / source_file))

    def _elsewhere(self, part: CocoPart, located: list[tuple[ImageRecord, str]]) -> str:
        """Where the first missing image lies instead; empty where none is missing."""
        missing = next((source_file for _, source_file in located if not os.path.isfile(self._root / source_file)), None)
        if missing is None:
            return ""
        wanted, looked_at = f"/{os.path.relpath(missing, part.images)}", 0
        for folder, _, files in os.walk(self._root):
            if PurePosixPath(missing).name in files:
                there = f"/{(Path(folder) / PurePosixPath(missing).name).relative_to(self._root).as_posix()}"
                start = there.removesuffix(wanted)[1:] or "."
                return f"; {there[1:]} is there" + (f": say images: {start} in data.parts" if there.endswith(wanted) else "")
            looked_at += len(files)
            if looked_at > MAX_SEARCHED:
                break
        return f"; {NOWHERE} {self._root}" if looked_at <= MAX_SEARCHED else ""

    def _reject(self, source_file: str, item: str, rule: str, detail: str) -> None:
        self.rejects.append(Reject(source_file=source_file, item=item, rule=rule, detail=detail))


def _check_numbering(path: Path, used: set[Id | None], known: Mapping[Id, int | None]) -> None:
    """Raises DataError where the ids of objects fit those of the categories if they are moved by one, or taken for places in the
    list of categories: objects would get the class of a neighbor."""
    if used <= known.keys() or not all(isinstance(one, int) for one in (*used, *known)):
        return
    numbers = {one for one in used if isinstance(one, int)}
    moved = _fit_moved(numbers, known.keys())
    places = any(numbers <= set(range(first, first + len(known))) and len(numbers - known.keys()) > 1 for first in (0, 1))
    if moved or places:
        unknown, there = (shortened(", ".join(map(str, sorted(ids, key=str)))) for ids in (numbers - known.keys(), known))
        raise DataError(
            f"{path}: category_id {unknown} is in annotations and not in categories ({there}): are objects counted from another"
            " number than categories? Every object would get the class of a neighbor; give both the same ids"
        )


def _check_image_numbering(path: Path, used: set[Id | None], listed: set[Id]) -> None:
    """The same of images: objects would lie in a neighbor of their picture. Places are not asked for: of many a set images were
    left out, and their objects kept."""
    numbers = {one for one in used if isinstance(one, int)}
    if len(numbers) == len(used) and not numbers <= listed and _fit_moved(numbers, listed):
        raise DataError(
            f"{path}: image_id {shortened(', '.join(map(str, sorted(numbers - listed))))} is in annotations and not in images, and"
            " moved by one all of them are: are they counted from another number? Every object would lie in a neighbor of its"
            " picture; give both the same ids"
        )


def _fit_moved(numbers: set[int], known: Set[Id]) -> bool:
    return any({number + step for number in numbers} <= known for step in (1, -1))


def _inside(tree: Tree, file_name: str, folder: str) -> str:
    """The path of an image in its folder. Raises ``Rejected``."""
    base = file_name.replace("\\", "/").rsplit("/", 1)[-1]
    there = f"; {folder}/{base} is there: write file_name: {base}" if base and tree.find(base) else ""
    if "://" in file_name:
        raise Rejected("path-outside-root", f"file_name {file_name[:200]!r} is an address{there}")
    try:
        return tree.inside(file_name, "file_name")
    except DataError:
        raise Rejected("path-outside-root", f"file_name {file_name[:200]!r} leads out of the image folder{there}") from None


def _check_unique(image: ImageRecord, files: set[str], ids: set[Id]) -> None:
    if len(ids) > 1:
        shown = ", ".join(map(str, sorted(ids, key=str)))
        raise Rejected("ambiguous-image", f"the file stands under the image ids {shown}: whose objects it shows is not known")
    if len(files) > 1:
        shown = ", ".join(sorted(files))
        raise Rejected(
            "ambiguous-image", f"image id {image.image_id} stands for {shown}: which of them its objects are in is not known"
        )


def _same_content(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _size(image: ImageRecord, path: Path) -> tuple[int, int]:
    if image.width is not None and image.height is not None:
        return image.width, image.height
    with open_image(path) as opened:
        return opened.width, opened.height


def _annotation(record: Mapping[str, Any], position: int, label: int | None) -> Annotation:
    annotation_id = identity(record.get("id"))
    return Annotation(
        annotation_id=f"at{position}" if annotation_id is None else annotation_id,
        label=label,
        crowd=str(record.get("iscrowd")).lower() == "true" or identity(record.get("iscrowd")) == 1,
        box=record.get("bbox"),
        segmentation=record.get("segmentation"),
    )
