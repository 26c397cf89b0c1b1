"""Where the parts of GTSRB lie: as torchvision reads it, as the archives unpack, or as Kaggle has it; either may be missing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.gtsrb.shapes import NUM_CLASSES
from pipeline.data.sample import Reject
from pipeline.errors import DataError, shortened

# The archives are unpacked into one folder, or each into a folder of its own.
_PLACES = ("gtsrb/GTSRB", "GTSRB", ".", "*/GTSRB", "*")
TRAINING = ("Training", "Final_Training/Images", "Online-Training/Images")
TESTS = ("Final_Test/Images", "Online-Test/Images")
TEST_TABLES = ("GT-final_test.csv", "GT-online_test.csv")
KAGGLE = {"[Tt][Rr][Aa][Ii][Nn].[Cc][Ss][Vv]": True, "[Tt][Ee][Ss][Tt].[Cc][Ss][Vv]": False}


class LayoutError(DataError):
    """There is nothing of GTSRB."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One annotation file."""

    path: Path
    folder: Path
    """That its file names start from."""
    training: bool
    class_number: int | None = None
    """The class that its folder stands for; None where it holds several."""
    above_images: bool = False
    """As Kaggle has it: pictures beside it are none of its images."""


def find_tables(root: Path, class_numbers: Sequence[int]) -> tuple[list[Table], list[Reject]]:
    """The annotation files of both parts, and folders of classes that do not exist. Raises DataError where there is no part."""
    kaggle = [
        Table(path=path, folder=path.parent, training=training, above_images=True)
        for name, training in KAGGLE.items()
        if (path := _first(root, [name, f"*/{name}"])) is not None
    ]
    if kaggle:
        return kaggle, []
    places = [f"{place}/{name}" for name in TRAINING for place in _PLACES]
    training = _first(root, places, with_folders="[0-9]" * 5)
    tests = _first(root, [f"{place}/{name}" for name in TESTS for place in _PLACES])
    if training is None and (unread := _first(root, places, with_folders="[0-9]*")) is not None:
        first = min(folder.name for folder in unread.glob("[0-9]*") if folder.is_dir())
        raise DataError(
            f"{unread}: its folders of classes are named 00000 to 00042 in GTSRB, and none here is: {shortened(first)!r}"
        )
    if training is None and tests is None:
        official = "gtsrb/GTSRB/Training, GTSRB/Final_Training/Images or GTSRB/Final_Test/Images"
        raise LayoutError(
            f"{root}: has neither the official layout ({official}) nor that of Kaggle (Train.csv, Test.csv);"
            " see data.root, or set data.download=true"
        )
    tables = list(_class_tables(training, class_numbers)) if training else []
    rejects = _unknown_folders(root, training) if training else []
    if training and not tables:
        wanted = ", ".join(f"{number:05d}" for number in class_numbers)
        raise DataError(f"{training}: has a folder of none of the classes that are asked for ({shortened(wanted)})")
    return tables + ([Table(path=_test_table(root, tests), folder=tests, training=False)] if tests else []), rejects


def _first(root: Path, patterns: Sequence[str], *, with_folders: str | None = None) -> Path | None:
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            if with_folders is None or any(inner.is_dir() for inner in path.glob(with_folders)):
                return path
    return None


def _class_tables(training: Path, class_numbers: Sequence[int]) -> Iterator[Table]:
    for number in class_numbers:
        folder = training / f"{number:05d}"
        if folder.is_dir():  # a class that has none is refused by its name later
            yield Table(path=folder / f"GT-{number:05d}.csv", folder=folder, training=True, class_number=number)


def _test_table(root: Path, tests: Path) -> Path:
    """The table of the test images that tells their classes: beside them, above them, or unpacked on its own."""
    above = [folder for folder in (tests, *tests.parents) if folder.is_relative_to(root)]
    for folder in above:
        for name in TEST_TABLES:
            if (folder / name).is_file():
                return folder / name
    alone = _first(root, [f"*/{name}" for name in TEST_TABLES])
    if alone is None:
        raise DataError(
            f"{above[-1] / TEST_TABLES[0]}: file is missing; it names the test images with their ROI boxes and classes"
            " (GT-final_test.test.csv has no classes)"
        )
    return alone


def _unknown_folders(root: Path, training: Path) -> list[Reject]:
    known = {f"{number:05d}" for number in range(NUM_CLASSES)}
    place = training.relative_to(root).as_posix()
    return [
        Reject(source_file=f"{place}/{folder.name}", item=folder.name, rule="unknown-class", detail="not 00000 to 00042")
        for folder in sorted(training.iterdir())
        if folder.is_dir() and folder.name not in known
    ]
