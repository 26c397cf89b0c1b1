"""The annotation files of GTSRB: one row per image, each row a sign or a reason why not."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data.gtsrb.fitting import Roi
from pipeline.data.gtsrb.shapes import NUM_CLASSES
from pipeline.data.sample import Reject
from pipeline.data.splits import Split
from pipeline.errors import DataError

COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
LEAKING_TRACK = "00014/00023"
"""Training track whose frames are byte-identical to eight official test images."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One annotated image that is to be loaded."""

    source_file: str
    """Relative to the root, with forward slashes."""
    sample_id: str
    group: str
    """``class/track`` of a training image; the sample id of a test image, whose track is not published."""
    class_number: int
    width: int
    height: int
    roi: Roi
    split: Split
    """``test`` for the official test images; training images start as ``train``."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of an annotation file with the folder that its image lies in."""

    folder: PurePosixPath
    """Relative to the root."""
    name: str
    fields: dict[str, str]
    training_class: int | None
    """The class that the folder stands for; None for test images."""

    @property
    def source_file(self) -> str:
        return str(self.folder / self.name)

    @property
    def sample_id(self) -> str:
        part = f"train/{self.folder.name}" if self.training_class is not None else "test"
        return f"{part}/{self.name.removesuffix('.ppm')}"

    @property
    def class_number(self) -> int | None:
        """None where the file gives none of the 43."""
        number = _whole_number(self.fields["ClassId"])
        return number if number is not None and 0 <= number < NUM_CLASSES else None

    def reject(self, rule: str, detail: str) -> Reject:
        return Reject(source_file=self.source_file, item=self.sample_id, rule=rule, detail=detail)


def read_rows(root: Path, table: Path, folder: Path, training_class: int | None) -> tuple[list[Row], list[Reject]]:
    """The rows of one annotation file whose image exists, in order of file names, and what does not match.

    Raises DataError if the file or the folder is missing or the file is no table with the official columns.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: folder is missing; data.root must hold the official layout (gtsrb/GTSRB/...)")
    relative = PurePosixPath(folder.relative_to(root).as_posix())
    present = {path.name for path in folder.iterdir() if path.suffix == ".ppm"}
    rows: dict[str, Row] = {}
    rejects = []
    for fields in _read_table(table):
        row = Row(folder=relative, name=fields["Filename"], fields=fields, training_class=training_class)
        if row.name in rows:
            rejects.append(row.reject("duplicate-annotation", f"{table.name} names the image twice; the first row counts"))
        elif row.name not in present:
            rejects.append(row.reject("annotation-without-image", f"{table.name} names {row.name!r}, which the folder has not"))
        else:
            rows[row.name] = row
    for name in sorted(present - rows.keys()):
        row = Row(folder=relative, name=name, fields={}, training_class=training_class)
        rejects.append(row.reject("image-without-annotation", f"{table.name} has no row for it"))
    return [rows[name] for name in sorted(rows)], rejects


def _read_table(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, delimiter=";", restval="")
            header = tuple(reader.fieldnames or ())
            if missing := [column for column in COLUMNS if column not in header]:
                raise DataError(f"{table}: column {missing[0]} is missing; the header must be {';'.join(COLUMNS)}")
            return list(reader)
    except FileNotFoundError as error:
        raise DataError(f"{table}: file is missing; it names the images with their ROI boxes and classes") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a ;-separated text file: {error}") from error


def parse_row(row: Row, *, min_roi: int) -> Sign | Reject:
    """Check one row: a sign to be loaded, or the first rule that it breaks."""
    class_number = row.class_number
    if class_number is None:
        return row.reject("unknown-class", f"ClassId is {row.fields['ClassId']!r}, not 0 to {NUM_CLASSES - 1}")
    if row.training_class is not None and class_number != row.training_class:
        return row.reject("class-mismatch", f"ClassId is {class_number}, the folder says {row.training_class}")
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
    group = _group(row)
    if group is None:
        return row.reject("unknown-track", "the file name is not TRACK_FRAME.ppm, so its near-duplicates are not known")
    if group == LEAKING_TRACK:
        return row.reject("leaks-into-test", "frames of this track are byte-identical to official test images")
    return Sign(
        source_file=row.source_file,
        sample_id=row.sample_id,
        group=group,
        class_number=class_number,
        width=width,
        height=height,
        roi=(x1, y1, x2, y2),
        split="train" if row.training_class is not None else "test",
    )


def _group(row: Row) -> str | None:
    if row.training_class is None:
        return row.sample_id
    track = re.fullmatch(r"(\d+)_\d+\.ppm", row.name)
    return track and f"{row.training_class:05d}/{track[1]}"


def _whole_number(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number.is_integer() else None


def class_tables(training: Path, class_numbers: Sequence[int]) -> list[tuple[int, Path, Path]]:
    """Class number, annotation file and folder of each class, as the official archive names them."""
    return [(number, training / f"{number:05d}" / f"GT-{number:05d}.csv", training / f"{number:05d}") for number in class_numbers]
