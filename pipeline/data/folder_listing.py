"""Finding images, masks and labels in a user's folder: by sub-folders of one name, or by a CSV file.

One rule for paths in both: links are followed, ``..`` and other roots are refused, and letters are the same in either Unicode form.
"""

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.file_kinds import no_folder, remedy_of
from pipeline.data.images import image_suffixes
from pipeline.data.names import Tree, alike, composed
from pipeline.data.sample import Reject
from pipeline.data.splits import SPLITS, Split
from pipeline.data.tables import NOTHING, read_table
from pipeline.errors import DataError, shortened

IMAGES, MASKS, TABLE = "images", "masks", "labels.csv"
REQUIRED, OPTIONAL = ("image", "mask", "label"), ("split", "group")
MAY_BE_NOTHING = ("label", *OPTIONAL)
SPLIT_FOLDERS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folders that may stand above images/ and masks/."""
GROUP_COLUMN = re.compile(
    r"(patient|subject|participant|track|video|clip|sequence)([ _-]?(id|no|nr|number|name))?"
    r"|(scene|person|animal|case|session|series|slide)[ _-]?(id|no|nr|number)"
)
"""What a column is called that says which pictures belong together."""
FLAGS = {"", "0", "1", "0.0", "1.0", "false", "true", "no", "yes"}
"""What a column such as ``is_test`` holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One image with its mask and label; paths are relative to the root, with slashes."""

    sample_id: str
    image: str
    mask: str
    class_name: str
    group: str
    split: Split | None


@dataclass(kw_only=True)
class Listing:
    """What was found, and what did not match, by file name."""

    entries: list[Entry] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    for_training: bool = False
    """Whether a folder or row says that something is to be trained on."""

    def reject(self, file: str, rule: str, detail: str) -> None:
        self.rejects.append(Reject(source_file=file, item=file, rule=rule, detail=detail))


def list_folder(root: Path) -> Listing:
    """Read ``labels.csv`` where there is one, else the folders ``images`` and ``masks``. Raises DataError."""
    try:
        if not root.is_dir():
            raise DataError(f"data.root: {root} {no_folder(root)}")
        if (root / TABLE).is_file():
            return _list_table(root)
        listing = Listing()
        if _is_pair(root):
            listing.for_training = True
            _check_classes(root)
            _list_class_folders(root, "", None, listing)
            _reject_unused(root, [], listing)
            return listing
        splits = [folder for folder in sorted(root.iterdir()) if folder.name.lower() in SPLIT_FOLDERS and folder.is_dir()]
        listing.for_training = any(SPLIT_FOLDERS[folder.name.lower()] == "train" for folder in splits)
        parts = [folder for folder in splits if _is_pair(folder)]
        for folder in parts:
            _list_class_folders(root, f"{folder.name}/", SPLIT_FOLDERS[folder.name.lower()], listing)
        if parts:
            _reject_unused(root, parts, listing)
            return listing
        found = ", ".join(sorted(path.name for path in root.iterdir() if not path.name.startswith(".")))
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from error
    raise DataError(
        f"data.root: {root} has neither {TABLE} nor the folders {IMAGES}/ and {MASKS}/, each with one sub-folder per class;"
        f" those two may also lie in train/, val/ and test/; it holds {shortened(found) or 'nothing'}"
    )


def _reject_unused(root: Path, parts: list[Path], listing: Listing) -> None:
    """Folders that look as if they were meant, beside those that are read: a split of another name, or without masks."""
    for folder in _visible(root, root, listing):
        if folder in parts or not folder.is_dir():
            continue
        if _is_pair(folder):
            why = f"only train/, val/ and test/ are splits, and none where {IMAGES}/ and {MASKS}/ lie beside them"
            listing.reject(folder.name, "unused-folder", f"its {IMAGES}/ and {MASKS}/ are not read: {why}")
        elif folder.name.lower() in SPLIT_FOLDERS:
            listing.reject(folder.name, "unused-folder", f"it has no {IMAGES}/ with {MASKS}/ beside them")


def _check_classes(root: Path) -> None:
    """Splits below images/ and masks/ would be taken for classes, and others drawn. Raises DataError."""
    names = [folder.name for folder in sorted((root / IMAGES).iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if len(names) > 1 and all(name.lower() in SPLIT_FOLDERS for name in names):
        raise DataError(
            f"{root / IMAGES}: its folders {', '.join(names)} are splits, and one for each class is expected: put {names[0]}/ above"
            f" {IMAGES}/ and {MASKS}/ ({names[0]}/{IMAGES}/CLASS/), or list the files in {TABLE}"
        )


def _is_pair(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def _list_class_folders(root: Path, part: str, split: Split | None, listing: Listing) -> None:
    """List ``part``images/ and ``part``masks/; ``part`` is empty or a folder with a slash."""
    images, masks = _scan(root, f"{part}{IMAGES}", listing), _scan(root, f"{part}{MASKS}", listing)
    alike_images, alike_masks = _by_likeness(images), _by_likeness(masks)
    for key in sorted(images.keys() | masks.keys()):
        of_image, of_mask = images.get(key, []), masks.get(key, [])
        class_name, stem = key
        if len(of_image) > 1 or len(of_mask) > 1:
            names = ", ".join(of_image + of_mask)
            for file in of_image + of_mask:
                listing.reject(file, "ambiguous-name", f"several images or masks of one name: {names}")
        elif not of_mask:
            near = _near(alike_masks, key)
            listing.reject(of_image[0], "image-without-mask", f"no file {part}{MASKS}/{class_name}/{stem}.*{near}")
        elif not of_image:
            near = _near(alike_images, key)
            listing.reject(of_mask[0], "mask-without-image", f"no file {part}{IMAGES}/{class_name}/{stem}.*{near}")
        else:
            image, mask = of_image[0], of_mask[0]
            entry = Entry(sample_id=image, image=image, mask=mask, class_name=class_name, group=image, split=split)
            listing.entries.append(entry)


def _by_likeness(files: dict[tuple[str, str], list[str]]) -> dict[tuple[str, str], str]:
    return {(alike(class_name), alike(stem)): names[0] for (class_name, stem), names in files.items()}


def _near(files: dict[tuple[str, str], str], key: tuple[str, str]) -> str:
    near = files.get((alike(key[0]), alike(key[1])))
    return f"; {near} is there: rename it" if near else ""


def _scan(root: Path, kind: str, listing: Listing) -> dict[tuple[str, str], list[str]]:
    """Image files by class and name without ending, as relative paths."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for folder in _visible(root, root / kind, listing):
        if not folder.is_dir():
            listing.reject(f"{kind}/{folder.name}", "label-missing", f"it lies in no sub-folder of {kind}/, so it has no class")
            continue
        for file in _visible(root, folder, listing):
            name = f"{kind}/{folder.name}/{file.name}"
            if file.is_dir():
                what = f"a folder inside the folder of a class: is its class {folder.name!r} or {file.name!r}?"
                listing.reject(name, "nested-folder", what)
            elif not file.is_file():
                listing.reject(name, "not-an-image", "it is no file, or a link that leads to none")
            elif file.suffix.lower() not in image_suffixes():
                listing.reject(name, "not-an-image", remedy_of(file.suffix) or f"no known image ending: {file.suffix!r}")
            else:
                found[composed(folder.name), composed(file.stem)].append(name)
    return found


def _visible(root: Path, folder: Path, listing: Listing) -> Iterator[Path]:
    """The entries of a folder without hidden ones; names that are no text cannot be recorded and are rejected."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            path.name.encode()
        except UnicodeEncodeError:
            shown = str(path.relative_to(root)).encode(errors="backslashreplace").decode()
            listing.reject(shown, "bad-file-name", "the name is not UTF-8")
        else:
            yield path


def _list_table(root: Path) -> Listing:
    table, tree = root / TABLE, Tree(root)
    listing = Listing()
    rows_by_pair: dict[tuple[str, str], int] = {}
    splits_by_group: dict[str, tuple[str, int]] = {}
    unread: dict[str, list[str]] = defaultdict(list)
    for row, cells in _rows(table):
        where = f"{table}: row {row}"
        for column in cells.keys() - {*REQUIRED, *OPTIONAL}:
            unread[column].append(cells[column].lower())
        if not cells["image"]:
            raise DataError(f"{where}: the column 'image' is empty")
        image, mask = (tree.inside(cells[column], where) for column in ("image", "mask"))
        split, group = cells.get("split", ""), cells.get("group") or image
        listing.for_training |= split in ("", "train")
        if split not in ("", *SPLITS):
            raise DataError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}; leave it empty to have it drawn")
        if (former := rows_by_pair.setdefault((image, mask), row)) != row:
            raise DataError(f"{where}: repeats row {former} ({image}, {mask})")
        other, former = splits_by_group.setdefault(group, (split, row))
        if other != split:
            raise DataError(
                f"{where}: group {group!r} has split {split!r} here and {other!r} in row {former}; a group has one split"
            )
        if not os.path.isfile(root / image):
            listing.reject(image, "mask-without-image", f"row {row}: no file {image}{tree.near(image)}")
        elif not mask or not os.path.isfile(root / mask):
            missing = f"no file {mask}{tree.near(mask)}" if mask else "no mask is given"
            listing.reject(image, "image-without-mask", f"row {row}: {missing}")
        elif not cells["label"]:
            listing.reject(image, "label-missing", f"row {row}: the column 'label' is empty, or nan")
        else:
            entry = Entry(
                sample_id=f"{image}#{mask}",
                image=image,
                mask=mask,
                class_name=composed(cells["label"]),
                group=group,
                split=next((known for known in SPLITS if known == split), None),
            )
            listing.entries.append(entry)
    if rows_by_pair and "split" not in cells:
        _check_splits(table, {column: set(values) for column, values in unread.items()})
    if rows_by_pair and "group" not in cells:
        _check_groups(table, unread)
    return listing


def _check_groups(table: Path, unread: Mapping[str, list[str]]) -> None:
    """The same of a column of groups: pictures of one patient, or track, would be trained on and tested. Raises DataError."""
    for column, values in sorted(unread.items()):
        if GROUP_COLUMN.fullmatch(column.lower()) and 1 < len(set(values)) < len(values):
            what = f"the column {column!r} seems to say which pictures show one thing, and would not be read"
            raise DataError(f"{table}: row 1: {what}: call it group, or something else if it does not")


def _check_splits(table: Path, unread: Mapping[str, set[str]]) -> None:
    """A column of splits under another name, where none is called so, would not be read, and others drawn. Raises DataError."""
    for column, values in sorted(unread.items()):
        word = column.lower().removeprefix("is").strip("_ ")  # what is valid may be so in another sense
        is_flag = word in SPLIT_FOLDERS and word != "valid" and values <= FLAGS
        if any(values) and (values <= {"", *SPLIT_FOLDERS} or is_flag):
            what = f"the column {column!r} holds splits ({', '.join(sorted(filter(None, values)))}) and would not be read"
            raise DataError(f"{table}: row 1: {what}: call it split, with {', '.join(SPLITS)} or nothing in it")


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows below the header with their line numbers. Raises DataError."""
    header, rows, _ = read_table(table)
    _check_header(header, table)
    for number, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{table}: row {number}: {len(cells)} cells, the header has {len(header)}")
        known = {name: "" if name in MAY_BE_NOTHING and cell in NOTHING else cell for name, cell in zip(header, cells, strict=True)}
        yield number, known


def _check_header(header: list[str], table: Path) -> None:
    expected = f"expected {', '.join(REQUIRED)} and, if wanted, {', '.join(OPTIONAL)}, separated by commas, semicolons or tabs"
    for column in REQUIRED:
        if column not in header:
            raise DataError(f"{table}: row 1: no column {column!r} in {','.join(header)!r}; {expected}")
    if len(set(header)) < len(header):
        raise DataError(f"{table}: row 1: a column stands twice in {','.join(header)!r}; {expected}")
    for column in set(header) - {*REQUIRED, *OPTIONAL}:  # other columns are welcome, but a typo would draw splits unasked
        near = difflib.get_close_matches(column.lower(), OPTIONAL, n=1)
        if near:
            raise DataError(f"{table}: row 1: unknown column {column!r}; did you mean {near[0]!r}?")
