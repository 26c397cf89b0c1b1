"""IoU of the GTSRB masks, plain and refined, against outlines drawn by hand. What it means: docs/gtsrb-masks.md.

python benchmarks/gtsrb_masks.py ROOT    ROOT holds gtsrb/ (official layout)
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.gtsrb.fitting import plain_outline, refined_outline
from pipeline.data.gtsrb.shapes import SHAPES
from pipeline.data.gtsrb.source import TEST_IMAGES, TEST_TABLE
from pipeline.data.images import read_picture
from pipeline.data.polygons import coverage

OUTLINES = Path(__file__).parents[1] / "tests" / "pipeline" / "data" / "gtsrb_outlines.json"
SIZES = ("small", "medium", "large")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One hand-drawn sign with the IoU of both recipes."""

    file: str
    shape: str
    size: str
    half: str
    flags: tuple[str, ...]
    plain: float
    refined: float
    """With the fall-back: equal to ``plain`` where the sign is unrefinable."""
    fell_back: bool


def soft_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two coverages: sum of minima over sum of maxima."""
    return float(np.minimum(first, second).sum()) / float(np.maximum(first, second).sum())


def hand_polygon(entry: dict[str, Any]) -> np.ndarray:
    """The points of one entry: a polygon, or an ellipse [x, y, x radius, y radius, degrees] as 120 points."""
    if "polygon" in entry:
        return np.array(entry["polygon"], dtype=float)
    x, y, x_radius, y_radius, degrees = entry["ellipse"]
    turn, angle = np.arange(120) * (2 * np.pi / 120), np.radians(degrees)
    along, across = x_radius * np.cos(turn), y_radius * np.sin(turn)
    return np.stack(
        [x + along * np.cos(angle) - across * np.sin(angle), y + along * np.sin(angle) + across * np.cos(angle)], axis=1
    )


def measure(root: Path) -> list[Measured]:
    """IoU of every sign in OUTLINES, in the pixels of its file."""
    entries = json.loads(OUTLINES.read_text())
    boxes = _boxes(root, entries)
    results = []
    for file, entry in entries.items():
        image, roi, number = read_picture(root / file), boxes[file], entry["class_number"]
        height, width = image.shape[:2]
        truth = coverage(hand_polygon(entry), width=width, height=height)
        plain, refined = plain_outline(roi, number), refined_outline(image, roi, number)
        ious = [soft_iou(truth, coverage(o.points(), width=width, height=height)) for o in (plain, refined or plain)]
        results.append(
            Measured(
                file=file,
                shape=entry["shape"],
                size=entry["size"],
                half=entry["half"],
                flags=tuple(entry["flags"]),
                plain=ious[0],
                refined=ious[1],
                fell_back=refined is None,
            )
        )
    return results


def _boxes(root: Path, files: Iterable[str]) -> dict[str, tuple[int, int, int, int]]:
    boxes = {}
    for folder in sorted({Path(file).parent for file in files}):
        table = root / TEST_TABLE if folder == TEST_IMAGES else root / folder / f"GT-{folder.name}.csv"
        with table.open(newline="") as stream:
            for row in csv.DictReader(stream, delimiter=";"):
                x1, y1, x2, y2 = (int(row[f"Roi.{corner}"]) for corner in ("X1", "Y1", "X2", "Y2"))
                boxes[(folder / row["Filename"]).as_posix()] = (x1, y1, x2, y2)
    return boxes


def _table(results: list[Measured], groups: Iterable[tuple[str, Callable[[Measured], bool]]]) -> None:
    print("| group | signs | plain mean | refined mean | plain worst | refined worst | fell back |\n|---|---|---|---|---|---|---|")
    for name, belongs in groups:
        group = [result for result in results if belongs(result)]
        plain, refined = np.array([result.plain for result in group]), np.array([result.refined for result in group])
        figures = f"{plain.mean():.3f} | {refined.mean():.3f} | {plain.min():.3f} | {refined.min():.3f}"
        print(f"| {name} | {len(group)} | {figures} | {sum(result.fell_back for result in group)} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder that holds gtsrb/")
    results = measure(parser.parse_args().root)
    _table(
        results,
        [
            ("all", lambda _: True),
            *((half + " half", lambda r, half=half: r.half == half) for half in ("tuning", "reporting")),
            *((flag, lambda r, flag=flag: flag in r.flags) for flag in ("dark", "blurred", "occluded")),
            ("none of these", lambda r: not r.flags),
        ],
    )
    for half in ("reporting", "both"):
        print(f"{half} half:" if half == "reporting" else "both halves:")
        chosen = [result for result in results if half in (result.half, "both")]
        by_shape = [(shape, lambda r, shape=shape: r.shape == shape) for shape in SHAPES]
        _table(chosen, [*by_shape, *((size, lambda r, size=size: r.size == size) for size in SIZES)])
    cells = [(f"{shape}, {size}", lambda r, s=shape, z=size: (r.shape, r.size) == (s, z)) for shape in SHAPES for size in SIZES]
    _table(results, cells)
    print("worst five:")
    for result in sorted(results, key=lambda result: result.refined)[:5]:
        print(
            f"{result.file}: {result.shape}, {', '.join(result.flags) or 'no flag'}: plain {result.plain:.3f}, {result.refined:.3f}"
        )


if __name__ == "__main__":
    main()
