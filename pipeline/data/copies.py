"""Files that are the same to the byte, and groups that they join: what is one picture must not be trained on and tested."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pipeline.data.images import open_image
from pipeline.data.rules import Rejected
from pipeline.runs.files import file_sha256


def originals(root: Path, files: Iterable[str]) -> dict[str, str]:
    """Of pictures that are the same file, to the byte, the first by name; pictures that lie there once are not in it. Only files of
    equal size are read."""
    by_size, by_content = defaultdict(list), defaultdict(list)
    for file in sorted(files):
        by_size[(root / file).stat().st_size].append(file)
    for size, of_size in by_size.items():
        for file in of_size if len(of_size) > 1 else ():
            by_content[size, file_sha256(root / file)].append(file)
    alike = [copies for copies in by_content.values() if len(copies) > 1 and _is_image(root / copies[0])]
    return {file: copies[0] for copies in alike for file in copies}


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
