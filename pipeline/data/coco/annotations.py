"""Reading COCO annotation files of any size: one record at a time, packed small."""

import difflib
import json
import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ijson

from pipeline.data.coco.formats import recognize
from pipeline.errors import ConfigError, DataError, shortened
from pipeline.progress import progress_bar

BLOCK = 1 << 20
SECTIONS = ("images", "annotations", "categories")
MAX_DEPTH = 32
"""Lists and objects inside each other: COCO needs 6."""
# Python's json writes these, and no other reader takes them.
_NOT_JSON = re.compile(rb"(?:^|(?<=[:,\[\s]))(?:NaN|-?Infinity)(?=[\s,\]}]|$)")
_MOST_DIGITS = sys.int_info.str_digits_check_threshold
_LONG_NUMBER = re.compile(rb"(?:^|[:\[\s])-?[0-9]{%d}" % (_MOST_DIGITS + 1))

EXACT = 2**53
"""From here on a float stands for several whole numbers: ids that were written as such are those of others."""

Id = int | str


class Annotation(NamedTuple):
    """One annotated object or crowd region, as the file has it."""

    annotation_id: Id
    label: int | None
    """Index of the class, or None: no object of ours, but it may overlap one."""
    crowd: bool
    box: Any
    """``bbox`` as it stands in the file: to be checked before use."""
    segmentation: Any
    """Polygons, uncompressed or compressed RLE, as it stands in the file: to be checked before use."""

    def pack(self) -> bytes:
        """A tenth of the memory of the parsed record: the 860,000 annotations of COCO's training images take 0.3 GB."""
        return zlib.compress(json.dumps(self, separators=(",", ":")).encode(), level=1)

    @staticmethod
    def unpack(packed: bytes) -> "Annotation":
        return Annotation(*json.loads(zlib.decompress(packed)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One entry of ``images``."""

    image_id: Id
    file_name: str
    width: int | None
    """In pixels; None where the file does not say."""
    height: int | None


@dataclass(frozen=True, kw_only=True)
class Category:
    """One entry of ``categories``."""

    category_id: Id
    name: str
    supercategory: str


def identity(value: Any) -> Id | None:
    """An id: 7, 7.0, "7" and "7.0" are the same one, other text is itself; None for anything else."""
    if isinstance(value, str):
        return int(value.split(".")[0]) if re.fullmatch(r"-?[0-9]{1,19}(\.0+)?", value) else value or None
    return _whole(value)


def _whole(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_index(path: Path) -> tuple[list[ImageRecord], list[Category]]:
    """The images and categories of an annotation file, in file order. Raises DataError where a field is missing or wrong."""
    images, categories, found = [], [], set()
    with closing(_records(path)) as records:  # ends the progress bar before an error is shown
        for section, position, record in records:
            if position >= 0 or section == "annotations":  # a file without images tells nothing, one without objects may be meant
                found.add(section)
            where = f"{path}: {section}[{position}]"
            if position < 0:
                continue
            if section in ("images", "categories") and not isinstance(record, dict):
                raise DataError(f"{where} is no object; {recognize(path)}")
            if section == "images":
                images.append(_image(record, where, path))
            elif section == "categories":
                name = record.get("name")
                if not isinstance(name, str) or not name.strip():
                    raise DataError(f"{where}: 'name' is {name!r}, expected text")
                above = record.get("supercategory")
                supercategory = above if isinstance(above, str) else name  # many exports have none
                categories.append(Category(category_id=_id(record, where), name=name, supercategory=supercategory))
    for section in SECTIONS:
        if section not in found:
            raise DataError(f"{path}: has no {section!r}; {recognize(path)}")
    names: dict[Id, str] = {}
    for category in categories:
        former = names.setdefault(category.category_id, category.name)
        if former != category.name:
            shown = f"{shortened(repr(former))} and {shortened(repr(category.name))}"
            raise DataError(f"{path}: category {category.category_id} is {shown}: give each an id of its own")
    return images, categories


def _image(record: Mapping[str, Any], where: str, path: Path) -> ImageRecord:
    name = record.get("file_name")
    if name is None and isinstance(record.get("coco_url"), str):  # LVIS
        name = str(record["coco_url"]).rsplit("/", 1)[-1]
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: 'file_name' is {name!r}, expected text; {recognize(path)}")
    width, height = (size if (size := _whole(identity(record.get(key))) or 0) > 0 else None for key in ("width", "height"))
    return ImageRecord(image_id=_id(record, where), file_name=name, width=width, height=height)


def _id(record: Mapping[str, Any], where: str) -> Id:
    value = identity(record.get("id"))
    _check_exact(record, ("id",), where)
    if value is None:
        what = f"is {record['id']!r}, expected a whole number or text" if "id" in record else "is missing"
        raise DataError(f"{where}: 'id' {what}")
    return value


def read_annotations(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entries of ``annotations`` with their positions, one at a time. Raises DataError for records of another kind of file."""
    with closing(_records(path)) as records:
        for section, position, record in records:
            if section == "annotations" and position >= 0:
                if not isinstance(record, dict) or not {"image_id", "category_id"} <= record.keys():
                    raise DataError(f"{path}: annotations[{position}] is no object of an image and a category; {recognize(path)}")
                _check_exact(record, ("image_id", "category_id"), f"{path}: annotations[{position}]")
                yield position, record


def _check_exact(record: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Raises DataError for an id that was written as a float and has more digits than one holds."""
    for name in names:
        value = record.get(name)
        if isinstance(value, float) and abs(value) >= EXACT:
            what = f"is {value!r}, a float, which has no room for all its digits: several ids become one"
            raise DataError(f"{where}: {name!r} {what}; write ids as whole numbers or as text")


def _records(path: Path) -> Generator[tuple[str, int, Any], None, None]:
    """Every list at the top level, at position -1 where it begins, and its elements: name of the list, position in it, element."""
    section, position = "", 0
    try:
        num_blocks = -(-path.stat().st_size // BLOCK)
        with path.open("rb") as stream, progress_bar(f"reading {path.name}", total=num_blocks, unit="MiB") as advance:
            for section, position, record in _elements(ijson.basic_parse(_Blocks(stream, advance), buf_size=BLOCK)):
                yield section, position, record
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ijson.JSONError, ValueError, ArithmeticError) as error:  # ArithmeticError: an exponent that no Decimal has
        what = (
            "a number is out of range"
            if isinstance(error, ArithmeticError)
            else str(error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error).strip().split("\n")[0]
        )
        after = f" after {section}[{position}]" if section and position >= 0 else ""
        raise DataError(f"{path}: is no JSON object that can be read ({what}{after}); {recognize(path)}") from error


class _Blocks:
    """The bytes of a file without byte order mark, NaN as null; ends blocks where no word is cut."""

    def __init__(self, stream: BinaryIO, advance: Callable[[], None]) -> None:
        self._stream, self._advance, self._held = stream, advance, b""
        self._begun = False

    def read(self, size: int = BLOCK) -> bytes:
        while size:
            block = self._stream.read(size)
            self._advance()
            whole = self._held + block
            if not self._begun:
                whole, self._begun = whole.removeprefix(b"\xef\xbb\xbf"), True
            end = max(whole.rfind(mark) for mark in (b",", b"]", b"}", b":", b"\n")) + 1 if block else len(whole)
            self._held = whole[end:]
            if end or not block:
                _check_digits(whole[:end])
                return _NOT_JSON.sub(b"null", whole[:end])
        return b""


def _check_digits(block: bytes) -> None:
    """Raises ValueError for a whole number of more digits than Python converts, which ends the process in ijson."""
    for between in block.split(b","):  # such a one is long, and nearly nothing else is
        if len(between) > _MOST_DIGITS and _LONG_NUMBER.search(between):
            raise ValueError(f"a number has more than {_MOST_DIGITS} digits")


def _elements(events: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, int, Any]]:
    """The lists of a JSON object and their elements, so that memory holds one of them and not the file.

    ``json.load``, and with it ``pycocotools.coco.COCO``, needs over 2 GB for the official training annotations.
    """
    depth, section, position, builder = 0, "", -1, None
    for event, value in events:
        ends = event in ("end_map", "end_array")
        depth -= ends
        if depth == 0 and not ends and event != "start_map":
            raise ValueError("it is a list" if event == "start_array" else "it is one value")
        if depth == 1 and event == "map_key":
            section, position = value, -1
        elif depth == 1 and event == "start_array":
            builder = None
            yield section, position, None
        elif depth >= 2 and section:
            if depth == 2 and not ends:
                position, builder = position + 1, ijson.ObjectBuilder()
            assert builder is not None
            builder.event(event, float(value) if isinstance(value, Decimal) else value)
            if depth == 2 and not event.startswith("start"):
                yield section, position, builder.value
        if event.startswith("start"):
            depth += 1
            if depth == 2 and event == "start_map":
                if section in SECTIONS:
                    raise ValueError(f"its {section} are no list")
                section = ""  # an object at the top level, such as info, is passed over
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def class_labels(classes: Mapping[str, Sequence[str]], parts: Sequence[Sequence[Category]]) -> list[dict[Id, int]]:
    """For the categories of every annotation file: category id -> index of the class.

    A class lists names of categories or, where no category has the name, of supercategories; a name must be known to one file at
    least. Raises ConfigError for an unknown name and for a category that two classes claim.
    """
    categories = {category.name for part in parts for category in part}
    supercategories = {category.supercategory for part in parts for category in part}
    owner: dict[str, str] = {}
    for class_name, names in classes.items():
        for name in names:
            if name not in categories | supercategories:
                near = difflib.get_close_matches(name, sorted(categories | supercategories), n=1)
                remedy = f"did you mean {near[0]!r}?" if near else f"categories: {', '.join(sorted(categories))}"
                raise ConfigError(f"data.classes.{class_name}: {name!r} is no COCO category or supercategory; {remedy}")
            members = [c.name for part in parts for c in part if name == (c.name if name in categories else c.supercategory)]
            for member in members:
                if owner.setdefault(member, class_name) != class_name:
                    raise ConfigError(f"data.classes: category {member!r} belongs to both {owner[member]!r} and {class_name!r}")
    index = {class_name: label for label, class_name in enumerate(classes)}
    return [{c.category_id: index[owner[c.name]] for c in part if c.name in owner} for part in parts]
