"""Finding images, masks and labels in a user's folder: by sub-folders of one name, or by a CSV file."""

import csv
import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pipeline.data.sample import SPLITS, Reject, Split
from pipeline.errors import DataError

IMAGES, MASKS, TABLE = "images", "masks", "labels.csv"
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
REQUIRED, OPTIONAL = ("image", "mask", "label"), ("split", "group")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One image with its mask and label; paths are relative to the root, with slashes."""

    sample_id: str
    image: str
    mask: str
    class_name: str
    group: str
    split: Split | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What was found, and what did not match, by file name."""

    entries: list[Entry] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def reject(self, file: str, rule: str, detail: str) -> None:
        self.rejects.append(Reject(source_file=file, item=file, rule=rule, detail=detail))


def list_folder(root: Path) -> Listing:
    """Read ``labels.csv`` where there is one, else the folders ``images`` and ``masks``. Raises DataError."""
    try:
        if not root.is_dir():
            raise DataError(f"data.root: {root} {'is no folder' if root.exists() else 'does not exist'}")
        if (root / TABLE).is_file():
            return _list_table(root)
        if (root / IMAGES).is_dir() and (root / MASKS).is_dir():
            return _list_class_folders(root)
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from error
    raise DataError(
        f"data.root: {root} has neither {TABLE} nor the folders {IMAGES}/ and {MASKS}/, each with one sub-folder per class"
    )


def _list_class_folders(root: Path) -> Listing:
    listing = Listing()
    images, masks = _scan(root, IMAGES, listing), _scan(root, MASKS, listing)
    for key in sorted(images.keys() | masks.keys()):
        of_image, of_mask = images.get(key, []), masks.get(key, [])
        class_name, stem = key
        if len(of_image) > 1 or len(of_mask) > 1:
            for file in of_image + of_mask:
                listing.reject(file, "ambiguous-name", f"class {class_name!r} has several images or masks named {stem!r}")
        elif not of_mask:
            listing.reject(of_image[0], "image-without-mask", f"no file {MASKS}/{class_name}/{stem}.*")
        elif not of_image:
            listing.reject(of_mask[0], "mask-without-image", f"no file {IMAGES}/{class_name}/{stem}.*")
        else:
            image, mask = of_image[0], of_mask[0]
            entry = Entry(sample_id=image, image=image, mask=mask, class_name=class_name, group=image, split=None)
            listing.entries.append(entry)
    return listing


def _scan(root: Path, kind: str, listing: Listing) -> dict[tuple[str, str], list[str]]:
    """Image files by class and name without ending, as relative paths."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for folder in _visible(root, root / kind, listing):
        if not folder.is_dir():
            listing.reject(f"{kind}/{folder.name}", "label-missing", f"it lies in no sub-folder of {kind}/, so it has no class")
            continue
        for file in _visible(root, folder, listing):
            name = f"{kind}/{folder.name}/{file.name}"
            if not file.is_file() or file.suffix.lower() not in SUFFIXES:
                listing.reject(name, "not-an-image", "a folder" if file.is_dir() else f"no known image ending: {file.suffix!r}")
            else:
                found[_composed(folder.name), _composed(file.stem)].append(name)
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


def _composed(text: str) -> str:
    """One code for each accented letter: some systems store them as two, and names from two systems would not match."""
    return unicodedata.normalize("NFC", text)


def _list_table(root: Path) -> Listing:
    table = root / TABLE
    listing = Listing()
    rows_by_pair: dict[tuple[str, str], int] = {}
    splits_by_group: dict[str, tuple[str, int]] = {}
    for row, cells in _rows(table):
        where = f"{table}: row {row}"
        if not cells["image"]:
            raise DataError(f"{where}: the column 'image' is empty")
        image, mask = _inside(root, cells["image"], where), _inside(root, cells["mask"], where)
        split, group = cells.get("split", ""), cells.get("group") or image
        if split not in ("", *SPLITS):
            raise DataError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}; leave it empty to have it drawn")
        if (former := rows_by_pair.setdefault((image, mask), row)) != row:
            raise DataError(f"{where}: repeats row {former} ({image}, {mask})")
        other, former = splits_by_group.setdefault(group, (split, row))
        if other != split:
            raise DataError(
                f"{where}: group {group!r} has split {split!r} here and {other!r} in row {former}; a group has one split"
            )
        if not (root / image).is_file():
            listing.reject(image, "mask-without-image", f"row {row}: the image file does not exist")
        elif not cells["mask"] or not (root / mask).is_file():
            listing.reject(
                image, "image-without-mask", f"row {row}: " + (f"no file {mask}" if cells["mask"] else "no mask is given")
            )
        elif not cells["label"]:
            listing.reject(image, "label-missing", f"row {row}: the column 'label' is empty")
        else:
            entry = Entry(
                sample_id=f"{image}#{mask}",
                image=image,
                mask=mask,
                class_name=_composed(cells["label"]),
                group=group,
                split=next((known for known in get_args(Split) if known == split), None),
            )
            listing.entries.append(entry)
    return listing


def _inside(root: Path, text: str, where: str) -> str:
    """The path of a cell relative to the root, with links and ``..`` followed. Raises DataError where it leads out of the root."""
    top = root.resolve()
    try:
        path = (top / text).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a ring of links, a null character
        raise DataError(f"{where}: {text!r} is no usable path ({error})") from error
    if not path.is_relative_to(top):
        raise DataError(f"{where}: {text!r} leads outside {root}; copy the file into the folder")
    return path.relative_to(top).as_posix()


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows below the header with their line numbers. Raises DataError."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(header, table)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise DataError(f"{table}: row {reader.line_num}: {len(cells)} cells, the header has {len(header)}")
                yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise DataError(f"{table}: row {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as CSV in UTF-8") from error


def _check_header(header: list[str], table: Path) -> None:
    expected = f"expected {', '.join(REQUIRED)} and, if wanted, {', '.join(OPTIONAL)}, separated by commas"
    for column in REQUIRED:
        if column not in header:
            raise DataError(f"{table}: row 1: no column {column!r} in {','.join(header)!r}; {expected}")
    if len(set(header)) < len(header):
        raise DataError(f"{table}: row 1: a column stands twice in {','.join(header)!r}; {expected}")
    for column in set(header) - {*REQUIRED, *OPTIONAL}:  # other columns are welcome, but a typo would draw splits unasked
        near = difflib.get_close_matches(column.lower(), OPTIONAL, n=1)
        if near:
            raise DataError(f"{table}: row 1: unknown column {column!r}; did you mean {near[0]!r}?")
