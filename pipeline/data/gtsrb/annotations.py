"""The annotation files of GTSRB: one row per image, each row a sign or a reason why not."""

import math
import os
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from pipeline.data.gtsrb.fitting import Roi
from pipeline.data.gtsrb.layouts import Table
from pipeline.data.gtsrb.shapes import NUM_CLASSES
from pipeline.data.images import image_suffixes
from pipeline.data.names import Tree
from pipeline.data.sample import Reject
from pipeline.data.splits import Split
from pipeline.data.tables import NOTHING, read_table
from pipeline.errors import DataError, shortened

COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
PATH, GROUP = "Path", "Group"
"""Kaggle's column in place of Filename; and one that whoever knows the tracks may add."""
FRAME = re.compile(r"(?:\d+_)?(\d+)_(\d+)\.\w+")
"""The name of an image: track and frame, and in Kaggle's copy the class in front of them."""
LEAKING_TRACK = "00014/00023"
"""Training track whose frames are byte-identical to eight official test images."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One annotated image that is to be loaded."""

    source_file: str
    """Relative to the root, with forward slashes."""
    sample_id: str
    group: str
    """The column Group where there is one; else ``class/track`` of a training image, and the sample id of a test image, whose track
    is not published."""
    class_number: int
    width: int
    height: int
    roi: Roi
    split: Split
    """``test`` for the official test images; training images start as ``train``."""
    notes: frozenset[str] = frozenset()
    """What the listing shows, by the names of ``rules.NOTES``."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of an annotation file."""

    source_file: str
    """Relative to the root."""
    fields: dict[str, str]
    training: bool
    folder_class: int | None
    """The class that the folder stands for; None for test images."""

    @property
    def name(self) -> str:
        return PurePosixPath(self.source_file).name

    @property
    def sample_id(self) -> str:
        """The same in all layouts: Kaggle's files have the class in front of track and frame."""
        stem = PurePosixPath(self.source_file).stem
        if not self.training:
            return f"test/{stem}"
        folder = f"{self.folder_class:05d}" if self.folder_class is not None else PurePosixPath(self.source_file).parent.name
        return f"train/{folder}/{stem.removeprefix(f'{folder}_') if stem.count('_') == 2 else stem}"

    @property
    def number(self) -> int | None:
        """ClassId, be it a class or not; None where it is no whole number."""
        return _whole_number(self.fields["ClassId"])

    @property
    def class_number(self) -> int | None:
        """None where the file gives none of the 43."""
        return self.number if self.number is not None and 0 <= self.number < NUM_CLASSES else None

    def reject(self, rule: str, detail: str) -> Reject:
        return Reject(source_file=self.source_file, item=self.sample_id, rule=rule, detail=detail)


def read_rows(root: Path, table: Table) -> tuple[list[Row], list[Reject]]:
    """The rows of one annotation file whose image exists, in order of file names, and what does not match.

    A file of another ending counts for the one that is named (PNG for PPM). Raises DataError if the annotation file is missing or
    no table with the official columns.
    """
    records, tree = _read_table(table.path), Tree(table.folder)
    places = [_place(tree, fields) for fields in records]
    folders = {table.folder, *(place.parent for place in places if place is not None)}
    files = [path for folder in folders if os.path.isdir(folder) for path in sorted(folder.iterdir())]
    present = {path.with_suffix(""): path for path in files if path.suffix.lower() in image_suffixes()}
    if table.above_images:
        present = {stem: path for stem, path in present.items() if path.parent != table.folder}
    exact = set(files)
    rows: dict[Path, Row] = {}
    rejects, contrary = [], set[Path]()
    for fields, place in zip(records, places, strict=True):
        path = None if place is None else present.get(place.with_suffix(""))
        if path is not None and place in exact:  # beside a file of another ending
            path = present[place.with_suffix("")] = place
        row = _row(root, table, path or place or table.folder / PurePosixPath(_name(fields)).name, fields)
        if path is None:
            near = "" if place is None else tree.near(place.relative_to(tree.root).as_posix())
            what = f"{table.path.name} names {_name(fields)!r}, which is not there{near}"
            rejects.append(row.reject("annotation-without-image", what))
        elif path in rows:
            same = all(row.fields.get(column) == rows[path].fields.get(column) for column in (*COLUMNS[1:], GROUP))
            what = "the first row counts" if same else "with other figures, so none of its rows counts"
            rejects.append(row.reject("duplicate-annotation", f"{table.path.name} names the image twice; {what}"))
            contrary |= set() if same else {path}
        else:
            rows[path] = row
    for path in sorted(set(present.values()) - rows.keys()):
        rejects.append(_row(root, table, path, {}).reject("image-without-annotation", f"{table.path.name} has no row for it"))
    return [rows[path] for path in sorted(rows.keys() - contrary)], rejects


def _name(fields: dict[str, str]) -> str:
    return (fields.get(PATH) or fields.get("Filename", "")).replace("\\", "/")


def _place(tree: Tree, fields: dict[str, str]) -> Path | None:
    """Where the image of a row should be; None where that is no place below the folder of the table."""
    try:
        name = tree.inside(_name(fields), "")
    except DataError:
        return None
    return tree.root / name if name.strip(".") else None


def _row(root: Path, table: Table, path: Path, fields: dict[str, str]) -> Row:
    number = table.class_number
    if number is None and table.training:
        number = _whole_number(path.parent.name)
    source_file = path.relative_to(root).as_posix()
    return Row(source_file=source_file, fields=fields, training=table.training, folder_class=number)


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        header, rows, delimiter = read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: file is missing; it names the images with their ROI boxes and classes") from error
    _check_header(header, path, delimiter)
    if rows and all(len(cells) == 1 for _, cells in rows):
        first = shortened(repr(rows[0][1][0]))
        raise DataError(f"{path}: its rows are one cell each, the first is {first}: separate them as the header, by {delimiter!r}")
    records = [dict(zip_longest(header, cells[: len(header)], fillvalue="")) for _, cells in rows]
    return [record | {GROUP: ""} if record.get(GROUP) in NOTHING else record for record in records]


def _check_header(header: list[str], table: Path, delimiter: str) -> None:
    wanted = COLUMNS if PATH not in header else (*COLUMNS[1:], PATH)
    found = f"it begins with {shortened(repr(delimiter.join(header)))}, and the header must be {delimiter.join(wanted)}"
    if missing := [column for column in wanted if column not in header]:
        raise DataError(f"{table}: column {missing[0]} is missing; {found}")
    if other := [column for column in header if column != GROUP and column.lower() == GROUP.lower()]:
        raise DataError(f"{table}: column {other[0]} is not read: call it {GROUP} if it says the tracks")
    if twice := [column for column in (*wanted, GROUP) if header.count(column) > 1]:
        raise DataError(f"{table}: column {twice[0]} stands twice; {found}")


def parse_row(row: Row, *, min_roi: int) -> Sign | Reject:
    """Check one row: a sign to be loaded, or the first rule that it breaks."""
    class_number = row.class_number
    if class_number is None:
        return row.reject("unknown-class", f"ClassId is {row.fields['ClassId']!r}, not 0 to {NUM_CLASSES - 1}")
    if row.folder_class is not None and class_number != row.folder_class:
        return row.reject("class-mismatch", f"ClassId is {class_number}, the folder says {row.folder_class}")
    width, height, x1, y1, x2, y2 = (_whole_number(row.fields[column]) for column in COLUMNS[1:7])
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return row.reject("nan-box", f"ROI is {';'.join(row.fields[column] for column in COLUMNS[3:7])}, not four whole numbers")
    if width is None or height is None:
        return row.reject("size-mismatch", f"Width and Height are {row.fields['Width']!r} and {row.fields['Height']!r}")
    if x2 <= x1 or y2 <= y1:
        return row.reject("empty-box", f"ROI {x1},{y1} to {x2},{y2} has no area")
    if x1 < 0 or y1 < 0 or x2 >= width or y2 >= height:
        return row.reject("box-outside-image", f"ROI {x1},{y1} to {x2},{y2} in an image of {width}x{height}")
    if min(x2 - x1, y2 - y1) + 1 < min_roi:
        return row.reject("too-small", f"ROI of {x2 - x1 + 1}x{y2 - y1 + 1} px, shorter side below {min_roi}")
    track = FRAME.fullmatch(row.name)
    group = row.fields.get(GROUP) or (f"{class_number:05d}/{track[1]}" if track else None)
    if not row.training:
        group = row.fields.get(GROUP) or row.sample_id
    if group is None:
        return row.reject("unknown-track", "the file name is not TRACK_FRAME.ppm, so its near-duplicates are not known")
    if row.training and track and f"{class_number:05d}/{track[1]}" == LEAKING_TRACK:
        return row.reject("leaks-into-test", "frames of this track are byte-identical to official test images")
    return Sign(
        source_file=row.source_file,
        sample_id=row.sample_id,
        group=group,
        class_number=class_number,
        width=width,
        height=height,
        roi=(x1, y1, x2, y2),
        split="train" if row.training else "test",
    )


def _whole_number(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number.is_integer() else None
