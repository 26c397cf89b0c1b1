"""German Traffic Sign Recognition Benchmark (Stallkamp, Schlipsing, Salmen, Igel 2011, https://benchmark.ini.rub.de), with masks.

The benchmark ships ROI boxes, no masks. Masks come from the shape of the sign, fitted to the ROI and refined against the image
(``sign_fitting``); how good they are is measured in docs/gtsrb-masks.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pipeline.data.config import GtsrbConfig
from pipeline.data.file_kinds import no_folder
from pipeline.data.gtsrb.annotations import Row, Sign, parse_row, read_rows
from pipeline.data.gtsrb.fitting import Roi, plain_outline, refined_outline
from pipeline.data.gtsrb.layouts import Table, find_tables
from pipeline.data.gtsrb.parts import check_numbering, check_tracks, single_frames, without_leaks, without_untrained
from pipeline.data.gtsrb.shapes import NUM_CLASSES
from pipeline.data.images import crop, read_picture, resize, square_around
from pipeline.data.polygons import coverage
from pipeline.data.rules import Rejected
from pipeline.data.sample import Plan, Reject, Sample, recipe_of
from pipeline.data.splits import assign_splits
from pipeline.errors import ConfigError, DataError, said

RECIPE_VERSION = 2
TRAINING = Path("gtsrb/GTSRB/Training")
TEST_IMAGES = Path("gtsrb/GTSRB/Final_Test/Images")
TEST_TABLE = Path("gtsrb/GT-final_test.csv")

CLASS_NAMES = (
    *(f"speed limit {limit}" for limit in (20, 30, 50, 60, 70, 80)),
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no overtaking",
    "no overtaking for trucks",
    "priority at next intersection",
    "priority road",
    "give way",
    "stop",
    "no traffic both ways",
    "no trucks",
    "no entry",
    "danger",
    "bend left",
    "bend right",
    "bends",
    "uneven road",
    "slippery road",
    "road narrows",
    "construction",
    "traffic signal",
    "pedestrian crossing",
    "school crossing",
    "cycles crossing",
    "snow",
    "animals",
    "restriction ends",
    "go right",
    "go left",
    "go straight",
    "go straight or right",
    "go straight or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no overtaking",
    "end of no overtaking for trucks",
)
"""Readable names of classes 0 to 42."""


def plan(config: GtsrbConfig) -> Plan:
    """List the annotated images; training tracks are split into train and val, test images are the official ones.

    Raises ConfigError (classes) and DataError (files missing or damaged).
    """
    numbers = tuple(range(NUM_CLASSES)) if config.classes is None else config.classes
    if not numbers:
        raise ConfigError("data.classes is empty: name at least one class, 0 to 42, or null for all")
    if len(set(numbers)) < len(numbers):
        raise ConfigError("data.classes names a class twice")
    if config.download:
        _download(config.root)
    if not config.root.is_dir():
        raise DataError(
            f"data.root: {config.root} {no_folder(config.root)}; give the folder that holds GTSRB, or set data.download=true"
        )
    listed, rejects, tables = _list_signs(config, numbers)
    signs, leaks = without_leaks(config.root, listed)
    groups = {sign.sample_id: sign.group for sign in listed}
    num_joined = sum(sign.group != groups[sign.sample_id] for sign in signs)
    rejects += leaks
    trained = any(table.training for table in tables)  # all its images may be lost, and the test part alone is not what is wanted
    found = {sign.class_number for sign in signs if sign.split != "test" or not trained}
    if config.classes is None:
        named = {table.class_number for table in tables} | {sign.class_number for sign in signs}
        numbers = tuple(sorted(found or {number for number in named if number is not None})) or numbers
        if trained:
            signs, untrained = without_untrained(signs)
            rejects += untrained
    without = tuple(label for label, number in enumerate(numbers) if number not in found)
    if single_frames(signs):
        signs = [replace(sign, notes=frozenset({"single-frame"})) for sign in signs]
    return Plan(
        classes=tuple(CLASS_NAMES[number] for number in numbers),
        recipe=recipe_of(config, version=RECIPE_VERSION, **({"joined": num_joined} if num_joined else {})),
        files=[table.path for table in tables] + [config.root / sign.source_file for sign in signs],
        items=() if without else _with_splits(signs, config),
        load=partial(load_sign, config=config, labels={number: label for label, number in enumerate(numbers)}),
        rejects=rejects,
        without_sample=without,
        for_training=trained,
    )


def _download(root: Path) -> None:
    if (root / TRAINING).is_dir() and (root / TEST_IMAGES).is_dir() and (root / TEST_TABLE).is_file():
        return
    from torchvision.datasets import GTSRB  # here alone: worker processes stay small

    try:
        for part in ("train", "test"):
            GTSRB(root, split=part, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"data.download: GTSRB cannot be fetched to {root}: {said(error)}") from error


def _list_signs(config: GtsrbConfig, numbers: tuple[int, ...]) -> tuple[list[Sign], list[Reject], list[Table]]:
    tables, rejects = find_tables(config.root, numbers)
    signs: list[Sign] = []
    found: list[Row] = []
    for table in tables:
        rows, mismatches = read_rows(config.root, table)
        rejects += mismatches
        found += rows
        for row in rows:
            if table.class_number is None and row.class_number is not None and row.class_number not in numbers:
                continue  # of a class that was not asked for
            result = parse_row(row, min_roi=config.min_roi)
            if isinstance(result, Reject):
                rejects.append(result)
            else:
                signs.append(result)
    check_numbering(config.root, tables, found)
    check_tracks(config.root, signs, found)
    return signs, rejects, tables


def _with_splits(signs: list[Sign], config: GtsrbConfig) -> list[Sign]:
    training = [sign for sign in signs if sign.split != "test"]
    drawn = assign_splits(
        [sign.group for sign in training],
        [sign.class_number for sign in training],
        {"train": 1 - config.val_fraction, "val": config.val_fraction},
        seed=config.seed,
    )
    return [sign if sign.split == "test" else replace(sign, split=drawn[sign.group]) for sign in signs]


def load_sign(sign: Sign, *, config: GtsrbConfig, labels: Mapping[int, int]) -> list[Sample | Reject]:
    """Read one image, make its mask at the file's resolution, and cut both to the square around the ROI."""
    try:
        image = read_picture(config.root / sign.source_file)
        height, width = image.shape[:2]
        if (width, height) != (sign.width, sign.height):
            sizes = f"the file has {width}x{height} px, its annotation {sign.width}x{sign.height}"
            raise Rejected("size-mismatch", sizes)
    except Rejected as error:
        return [Reject(source_file=sign.source_file, item=sign.sample_id, rule=error.rule, detail=error.detail)]
    mask, recipe = sign_mask(image, sign.roi, sign.class_number, refine=config.refine)
    x1, y1, x2, y2 = sign.roi
    left, top, side = square_around((x1, y1, x2 + 1, y2 + 1), context=config.context, width=width, height=height)
    return [
        Sample(
            sample_id=sign.sample_id,
            source_file=sign.source_file,
            group=sign.group,
            label=labels[sign.class_number],
            split=sign.split,
            box=(left, top, left + side, top + side),
            mask_recipe=recipe,
            image=resize(crop(image, left, top, side, replicate=True), config.image_size),
            mask=resize(crop(mask, left, top, side, replicate=False), config.image_size),
            notes=sign.notes | _place(sign) | ({"no-outline"} if config.refine and recipe.endswith("plain") else set()),
        )
    ]


def _place(sign: Sign) -> set[str]:
    """What is to be said of where the ROI lies, by the names of ``rules.NOTES``: in GTSRB in the middle, within 2 pixels, with a
    margin around it."""
    x, y, right, bottom = sign.roi

    def askew(right: int, bottom: int) -> int:
        return max(abs(x + right - (sign.width - 1)), abs(y + bottom - (sign.height - 1)))

    if askew(right, bottom) <= 2:
        return {"whole-roi"} if (right + 1 - x, bottom + 1 - y) == (sign.width, sign.height) else set()
    return {"size-for-corner" if askew(x + right - 1, y + bottom - 1) <= 2 else "off-center"}


def sign_mask(
    image: UInt8[np.ndarray, "height width 3"], roi: Roi, class_number: int, *, refine: bool
) -> tuple[UInt8[np.ndarray, "height width"], str]:
    """The share of each pixel that the sign's plate covers, 0 to 255, and how it was made: ``circle-refined``, ``circle-plain`` ...

    ``plain`` with ``refine`` says that the image showed no outline to follow.
    """
    refined = refined_outline(image, roi, class_number) if refine else None
    outline = refined or plain_outline(roi, class_number)
    height, width = image.shape[:2]
    mask = np.rint(coverage(outline.points(), width=width, height=height) * 255).astype(np.uint8)
    return mask, f"{outline.shape}-{'refined' if refined else 'plain'}"
