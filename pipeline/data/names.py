"""Names of files as people write them: either Unicode form, either slash, other capitals, a suffix for masks."""

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import DataError

_ENDING = r"(\.(jpe?g|png|tiff?|bmp|webp|gif))?"
_MASK_WORDS = re.compile(
    rf"{_ENDING}([ _.-]+(mask|masks|seg|segm|segmentation|label|labels|gt|groundtruth|matte|alpha|object))?{_ENDING}$"
)


def composed(text: str) -> str:
    """One code for each accented letter: some systems store them as two, and names from two systems would not match."""
    return unicodedata.normalize("NFC", text)


def alike(stem: str) -> str:
    """What names have in common that differ in capitals, in Unicode form or in a word for masks or
    the ending of the picture (``IMG.jpg.png``) at the end."""
    return _MASK_WORDS.sub("", composed(stem).casefold())


def alike_classes(names: Iterable[str]) -> frozenset[int]:
    """The places of names that another one looks like: what is seen of both is the same in small letters, but for dashes in words
    and the zeros of whole numbers (1, 01, 1.0). A single letter stays as it is, for sets of letters tell ``a`` from ``A``."""
    small = [_plain(name) for name in names]
    counts = Counter(small)
    return frozenset(place for place, name in enumerate(small) if counts[name] > 1)


def _plain(name: str) -> str:
    seen = "".join(letter for letter in name if unicodedata.category(letter) not in ("Cc", "Cf", "Zs"))
    if number := re.fullmatch(r"0*([0-9]+)(\.0*)?", seen):
        return number[1]
    if any(letter.isalpha() for letter in seen):
        seen = "".join(letter for letter in seen if unicodedata.category(letter) not in ("Pd", "Pc")) or seen
    return seen if len(seen) == 1 else seen.casefold()


class Tree:
    """The files below a root, as a table names them. What a folder holds is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, tuple[dict[str, str], dict[str, list[str]]]] = {}

    def inside(self, text: str, where: str) -> str:
        """A path of a table relative to the root, with slashes; empty stays empty. Links are not looked at.

        Raises DataError where the path leads out of the root, or is none.
        """
        if "\0" in text:
            raise DataError(f"{where}: {text!r} is no usable path")
        if not text:
            return ""
        if not os.path.lexists(self.root / text):
            text = text.replace("\\", "/")  # written on Windows
            text = decoded if self.find(decoded := unquote(text)) else text  # or as an address is
        path = posixpath.normpath(text)
        top = Path(os.path.abspath(self.root))
        if posixpath.isabs(path) and Path(path).is_relative_to(top):
            path = Path(path).relative_to(top).as_posix()
        if posixpath.isabs(path) or path.split("/")[0] == ".." or re.match(r"[A-Za-z]:/", path):
            what = f"{text!r} leads outside {self.root}"
            raise DataError(f"{where}: {what}; name files relative to that folder (links in it are followed)")
        return self.find(path) or path

    def find(self, path: str) -> str | None:
        """The path of an existing file that is the same in either Unicode form, or None."""
        if os.path.isfile(self.root / path):  # pathlib's raises where a name is too long
            return path
        place = ""
        for part in path.split("/"):
            there = self._entries(place)[0].get(composed(part))
            if there is None:
                return None
            place = posixpath.join(place, there)
        return place if os.path.isfile(self.root / place) else None

    def near(self, path: str) -> str:
        """The tail of a sentence on a missing file: what is there that may have been meant; empty if nothing is."""
        folder, name = posixpath.split(path)
        place = ""
        for part in folder.split("/") if folder else ():
            exact, loose = self._entries(place)
            named = (exact.get(composed(part), part), *loose.get(alike(part), ()))
            there = next((name for name in named if os.path.isdir(self.root / place / name)), None)
            if there is None:
                return f"; there is no folder {posixpath.join(place, part)}"
            place = posixpath.join(place, there)
        near = next(iter(self._entries(place)[1].get(alike(posixpath.splitext(name)[0]), ())), None)
        capitals = " (capitals count)" if near and near != name and near.casefold() == name.casefold() else ""
        return f"; {posixpath.join(place, near)} is there{capitals}" if near else ""

    def _entries(self, folder: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """The names in a folder by their composed form, and by what they are like without ending."""
        if folder not in self._listed:
            try:
                names = sorted(os.listdir(self.root / folder))
            except OSError:
                names = []
            loose: dict[str, list[str]] = defaultdict(list)
            for name in names:
                loose[alike(posixpath.splitext(name)[0])].append(name)
            self._listed[folder] = {composed(name): name for name in names}, loose
        return self._listed[folder]
