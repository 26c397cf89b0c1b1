"""Which files of a folder are images, and what the others are."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.data.file_kinds import remedy_of
from pipeline.data.images import image_suffixes, readable_formats
from pipeline.errors import DataError

PREDICTIONS, MASKS, OVERLAYS = "predictions.jsonl", "masks", "overlays"
"""What is written of predictions; where they lie below the images they are none."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a folder in the order of their paths."""

    files: list[tuple[str, Path]]
    """Name relative to the folder, and path."""
    left_alone: dict[str, int]
    """How many files of each kind are no images: by ending, ``hidden``, ``no ending`` ...: ``_no_image``."""


def list_images(path: Path) -> Listing:
    """An image, or those of a folder and its sub-folders; links are followed. Raises DataError where there is none.

    Images are files with the ending of a format that Pillow reads, and files without ending that begin like one.
    """
    if path.is_file():
        return Listing(files=[(path.name, path)], left_alone={})
    if not path.is_dir():
        raise DataError(f"images: {path} {'is neither a file nor a folder' if path.exists() else 'does not exist'}")
    files: list[Path] = []
    left_alone: Counter[str] = Counter()
    for file in sorted(_files(path)):
        kind = _no_image(file)
        if kind:
            left_alone[kind] += 1
        else:
            files.append(file)
    if not files:
        held = f"it holds {'; '.join(left_alone_lines(left_alone))}" if left_alone else "it is empty"
        raise DataError(f"images: {path} holds no image ({held})")
    return Listing(files=[(file.relative_to(path).as_posix(), file) for file in files], left_alone=dict(sorted(left_alone.items())))


def left_alone_lines(left_alone: dict[str, int]) -> list[str]:
    """One text for each kind of file that is no image."""
    lines = []
    for kind, count in sorted(left_alone.items()):
        remedy = remedy_of(kind)
        lines.append(f"{count} {kind!a}".replace("'", "") + (f" ({remedy})" if remedy else ""))
    return lines


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links, each folder once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(place, name) for name in names)


def _no_image(file: Path) -> str:
    """What a file is that is no image; empty for an image."""
    if file.name.startswith("."):
        return "hidden"
    if file.parent.name in (MASKS, OVERLAYS) and (file.parents[1] / PREDICTIONS).is_file():
        return "of an earlier predict"
    if not file.is_file():  # a pipe would wait for ever
        return "broken link" if file.is_symlink() else "no file"
    if file.suffix:
        return "" if file.suffix.lower() in image_suffixes() else file.suffix.lower()
    try:
        with Image.open(file, formats=readable_formats()):
            return ""
    except Exception:  # whatever a reader says of a file that is not its own
        return "no ending"
