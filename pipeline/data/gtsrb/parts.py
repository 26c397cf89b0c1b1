"""What the training and the test part of GTSRB say of each other: classes are counted alike, and no sign stands in both."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.data.copies import Joined, originals
from pipeline.data.gtsrb.annotations import FRAME, GROUP, Row, Sign
from pipeline.data.gtsrb.layouts import Table
from pipeline.data.gtsrb.shapes import NUM_CLASSES
from pipeline.data.sample import Reject
from pipeline.errors import DataError, shortened


def check_numbering(root: Path, tables: Sequence[Table], rows: Sequence[Row]) -> None:
    """Raises DataError where classes are counted from 1, or in one part from another number than in the other: each image would
    have the class, and the outline, of a neighbor."""
    numbers: dict[str, set[int]] = {"training": set(), "test": set()}
    for row in rows:
        if row.number is not None:
            numbers["training" if row.training else "test"].add(row.number)
    folders = {table.folder.parent for table in tables if table.class_number is not None}
    numbers["training"] |= {int(one.name) for folder in folders for one in folder.iterdir() if re.fullmatch("[0-9]{5}", one.name)}
    for part, of_part in numbers.items():
        if NUM_CLASSES in of_part and 0 not in of_part and len(of_part) > NUM_CLASSES / 2:  # no slip in one row of a small set
            what = (
                f"there is a class {NUM_CLASSES} and no class 0: are classes counted from 1? Each would be taken for its neighbor"
            )
            raise DataError(f"{root}: in the {part} part {what}; count them from 0 to {NUM_CLASSES - 1}, as GTSRB does")
    train, test = numbers.values()
    if train and not test <= train and any({number + step for number in test} == train for step in (1, -1)):
        shown = [shortened(", ".join(map(str, sorted(of_part)))) for of_part in (train, test)]
        raise DataError(
            f"{root}: the training part has the classes {shown[0]}, the test part {shown[1]}: they are the same if one is counted"
            " from another number; give both the numbers of GTSRB, 0 to 42"
        )


def check_tracks(root: Path, signs: Sequence[Sign], rows: Iterable[Row]) -> None:
    """Raises DataError where names say that test images are frames of training tracks: of each the other part has the rest."""
    named = {row.fields[GROUP] for row in rows if not row.training and row.fields.get(GROUP)}
    common = sorted(named & {sign.group for sign in signs if sign.split != "test"})
    remedy = "the same sign would be trained on and tested: a track is wholly in one part, and its name stands for it alone"
    if common:
        raise DataError(f"{root}: {GROUP} {common[0]!r} stands in both parts, as do {len(common) - 1} more; {remedy}")
    frames: dict[str, dict[tuple[int, str], set[str]]] = {"train": defaultdict(set), "test": defaultdict(set)}
    for sign in signs:
        if (match := FRAME.fullmatch(Path(sign.source_file).name)) is not None:
            frames[sign.split][sign.class_number, match[1]].add(match[2])
    both = sorted(frames["train"].keys() & frames["test"].keys())
    torn = [track for track in both if not frames["train"][track] & frames["test"][track]]
    # Tracks of another recording, counted from 0 as well, begin at the same frame.
    if 2 * len(torn) > len(both):
        number, track = torn[0]
        raise DataError(
            f"{root}: by their names test images are frames of {len(torn)} training tracks, the first is {track} of class {number}:"
            f" {remedy}"
        )


def without_leaks(root: Path, signs: list[Sign]) -> tuple[list[Sign], list[Reject]]:
    """The tracks of pictures that are the same file are one. A training track with a test picture is left out, as is a picture
    that stands under two classes."""
    original = originals(root, {sign.source_file for sign in signs})
    named, parts, groups = defaultdict(set), defaultdict(set), Joined()
    for sign in signs:
        named[original[sign.source_file]].add(sign.class_number)
    twice = {picture for picture, classes in named.items() if len(classes) > 1}
    first: dict[str, Sign] = {}
    kept, rejects = [], []
    for sign in signs:
        picture = original[sign.source_file]
        if picture in twice:
            classes = " and ".join(map(str, sorted(named[picture])))
            rejects.append(
                _reject(sign, "repeated-annotation", f"the same picture is of the classes {classes}: which it is is not known")
            )
            continue
        kept.append(sign)
        groups.join(sign.group, first.setdefault(picture, sign).group)
    for sign in kept:
        parts[groups.leader(sign.group)].add(sign.split)
    together = []
    for sign in kept:
        group = groups.leader(sign.group)
        if sign.split != "test" and "test" in parts[group]:
            rejects.append(_reject(sign, "leaks-into-test", f"a picture of its track {sign.group} is a test image, to the byte"))
        else:
            together.append(replace(sign, group=group))
    return together, rejects


def without_untrained(signs: list[Sign]) -> tuple[list[Sign], list[Reject]]:
    """Test images of classes that have no training image tell nothing of a classifier that does not know these."""
    trained = {sign.class_number for sign in signs if sign.split != "test"}
    untrained = [sign for sign in signs if sign.class_number not in trained]
    detail = "no training image is of its class"
    return [sign for sign in signs if sign.class_number in trained], [_reject(one, "untrained-class", detail) for one in untrained]


def single_frames(signs: Sequence[Sign]) -> bool:
    """Whether nearly all tracks hold one image: those of GTSRB hold 30, which are near-duplicates."""
    counts = Counter(sign.group for sign in signs if sign.split != "test")
    return sum(counts.values()) < 1.1 * len(counts)


def _reject(sign: Sign, rule: str, detail: str) -> Reject:
    return Reject(source_file=sign.source_file, item=sign.sample_id, rule=rule, detail=detail)
