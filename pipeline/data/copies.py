"""Files that are the same to the byte, and groups that they join: what is one picture must not be trained on and tested."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.data.images import open_image
from pipeline.data.rules import Rejected
from pipeline.runs.files import file_sha256

_END = 4096
"""Bytes."""


def originals(root: Path, files: Iterable[str]) -> dict[str, str]:
    """For each file the first by name of the pictures that are the same file, to the byte: of most it is the file itself. Only the
    ends are read of files of equal size, and the whole of those that are alike. Files that do not exist are like no other."""
    named = set(files)
    alike = [sorted(file for file in named if os.path.isfile(root / file))]
    for look in (lambda path: path.stat().st_size, _ends, file_sha256):
        alike = [same for group in alike for same in _shared_out(root, group, look)]
    first = {file: copies[0] for copies in alike if _is_image(root / copies[0]) for file in copies}
    return {file: first.get(file, file) for file in named}


def _shared_out(root: Path, files: Iterable[str], look: Callable[[Path], object]) -> list[list[str]]:
    """The files that look the same, but for those that none other looks like."""
    by_look: dict[object, list[str]] = defaultdict(list)
    for file in files:
        by_look[look(root / file)].append(file)
    return [same for same in by_look.values() if len(same) > 1]


def _ends(path: Path) -> bytes:
    """What tells photographs of equal size apart: COCO has tens of thousands of them."""
    with path.open("rb") as stream:
        start = stream.read(_END)
        stream.seek(-min(_END, path.stat().st_size), os.SEEK_END)
        return hashlib.sha256(start + stream.read()).digest()


def _is_image(path: Path) -> bool:
    """Pointers of Git LFS and empty files are alike without being one picture."""
    try:
        with open_image(path):
            return True
    except Rejected:
        return False


class Joined:
    """Groups of which some turn out to be one."""

    def __init__(self) -> None:
        self._joined: dict[str, str] = {}

    def leader(self, group: str) -> str:
        """The name of the whole that a group belongs to."""
        while group in self._joined:
            group = self._joined[group]
        return group

    def join(self, one: str, other: str) -> None:
        """From now on ``one`` belongs to ``other``."""
        if (first := self.leader(one)) != (second := self.leader(other)):
            self._joined[first] = second
