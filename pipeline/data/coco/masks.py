"""COCO segmentations to masks: checked before they reach pycocotools, which trusts its input."""

import json
import math
import re
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask as coco_mask

from pipeline.data.images import Box
from pipeline.data.rules import Rejected

Runs = Int64[np.ndarray, "_"]


WITHIN = 0.95
"""Share of a polygon within a larger one from which on it may be a hole: 3 of 10,000 objects of COCO have such a polygon."""
CROSSED = 0.25
"""How far what polygons cover may be from what they enclose: 2 of 13,000 objects of COCO are farther, of a few pixels each."""
LONGEST_OUTLINE = 2_000_000
"""Pixels that pycocotools may walk along: it keeps ten numbers for each."""


class Outline(NamedTuple):
    """A segmentation that was checked."""

    runs: Runs
    """Lengths down the columns, left to right, background first."""
    recipe: str
    """What it was made from: ``polygon`` or ``rle``."""
    fills_hole: bool = False
    """One of its polygons lies within a larger one: united it adds nothing, so that a hole may have been meant."""
    crosses: bool = False
    """It crosses itself: what is covered is far from what its lines enclose."""


def read_outline(segmentation: Any, *, width: int, height: int) -> Outline:
    """Turn polygons, uncompressed or compressed RLE into run lengths.

    Polygons may be one flat list, or lists of points. Several are united, and what lies outside the image is cut off. Raises
    ``Rejected``: a code of the wrong length would otherwise be decoded into whatever the memory held, and coordinates far outside
    the image would be walked along pixel by pixel.
    """
    segmentation = _unwrapped(segmentation)
    if isinstance(segmentation, list):
        polygons, _ = _polygons(segmentation, width, height)
        parts = coco_mask.frPyObjects(polygons, height, width)
        united = np.array(_decompress(coco_mask.merge(parts)["counts"].decode()), dtype=np.int64)
        crosses = _crosses(polygons, float(coco_mask.area(parts).sum()), width, height)
        return Outline(united, "polygon", len(parts) > 1 and _any_within(parts), crosses)
    if not isinstance(segmentation, dict):
        raise _bad(
            "there is none"
            if segmentation is None
            else f"neither polygons nor RLE: {type(segmentation).__name__} {str(segmentation)[:40]!r}"
        )
    size = segmentation.get("size")
    if not isinstance(size, list) or [*map(number, size)] != [height, width]:
        what = "; height and width are exchanged" if isinstance(size, list) and [*map(number, size)] == [width, height] else ""
        raise _bad(f"RLE of size {str(size)[:60]}, the image has [{height}, {width}]{what}")
    counts = segmentation.get("counts")
    runs = _decompress(_code(counts)) if isinstance(counts, str) else counts
    if isinstance(runs, list):
        runs = [int(run) if isinstance(run, float) and run.is_integer() else run for run in runs]
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise _bad(f"the run lengths are not whole numbers that add up to {height * width} pixels")
    return Outline(np.array(runs, dtype=np.int64), "rle")


def _crosses(polygons: list[list[float]], covered: float, width: int, height: int) -> bool:
    """Whether polygons that cover so many pixels enclose another area by their corners, which count once a turn around it."""
    enclosed = 0.0
    for polygon in polygons:
        x, y = np.array(polygon).reshape(-1, 2).clip(0, (width, height)).T
        enclosed += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return abs(enclosed - covered) > CROSSED * max(enclosed, covered)


def _any_within(parts: list[dict[str, Any]]) -> bool:
    areas = coco_mask.area(parts)
    shares = coco_mask.iou(parts, parts, [True] * len(parts))  # of the area of the one, what lies in the other
    return bool(((shares >= WITHIN) & (areas[:, None] < WITHIN * areas) & (areas[:, None] > 0)).any())


class Extent(NamedTuple):
    """Where an outline lies."""

    visible: Box | None
    """Around what it covers of the image; None where it covers nothing."""
    drawn: Box | None
    """The same with what lies outside of the image."""
    num_dropped: int
    """Polygons that were left out."""


def extent(segmentation: Any, *, width: int, height: int) -> Extent:
    """The boxes around an outline. Of polygons they are those around their points, which takes no drawing. Raises ``Rejected`` as
    ``read_outline`` does."""
    segmentation = _unwrapped(segmentation)
    if not isinstance(segmentation, list):
        outline = read_outline(segmentation, width=width, height=height)
        around = extent_of_runs(outline.runs, height)
        return Extent(around, around, 0)
    polygons, num_dropped = _polygons(segmentation, width, height)
    points = np.concatenate([np.array(polygon).reshape(-1, 2) for polygon in polygons])
    return Extent(_around(points.clip(0, (width, height))), _around(points), num_dropped)


def _around(points: np.ndarray) -> Box | None:
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def runs_along_rows(segmentation: Any, *, width: int, height: int) -> bool:
    """Whether a readable RLE makes a whole along rows, and down columns, as COCO has it, scattered stripes.

    Read the way that was meant, neighboring lines are alike: they differ in far fewer pixels than the other way. Of a square
    image both ways are as good.
    """
    segmentation = _unwrapped(segmentation)
    if isinstance(segmentation, list):
        return False
    columns = draw(read_outline(segmentation, width=width, height=height).runs, width=width, height=height).T
    rows = columns.reshape(height, width)
    along_rows, down_columns = (int(np.count_nonzero(lines[1:] != lines[:-1])) for lines in (rows, columns))
    return 2 * along_rows < down_columns


def _unwrapped(segmentation: Any) -> Any:
    """Without the text, or the list of one, into which some programs put it."""
    if isinstance(segmentation, str) and segmentation[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            segmentation = json.loads(segmentation)
    alone = isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict)
    return segmentation[0] if alone else segmentation


def _code(counts: str) -> str:
    """Without what Python puts around bytes that somebody took for text; neither quote can stand in a code."""
    quoted = re.fullmatch(r"b(['\"])(.*)\1", counts)
    return quoted[2].replace("\\\\", "\\") if quoted else counts


def extent_of_runs(runs: Runs, height: int) -> Box | None:
    """The box around run lengths; None where they cover nothing."""
    ends = np.cumsum(runs)
    first, last = ends[0:-1:2], ends[1::2] - 1  # of each foreground run
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return None
    if ((first // height) != (last // height)).any():  # a run goes on in the next column
        top, bottom = 0, height
    else:
        top, bottom = int((first % height).min()), int((last % height).max()) + 1
    return float(first[0] // height), float(top), float(last[-1] // height + 1), float(bottom)


def number(value: Any) -> float | None:
    """A finite number, or None: for text, null, NaN, and whole numbers of hundreds of digits."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _bad(detail: str) -> Rejected:
    return Rejected("bad-segmentation", detail)


def draw(runs: Runs, *, width: int, height: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask that run lengths stand for; ``pycocotools.mask.decode`` gives the same, with a warning from numpy 2 each time."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def area(runs: Runs) -> int:
    """Foreground pixels."""
    return int(runs[1::2].sum())


def _polygons(segmentation: list[Any], width: int, height: int) -> tuple[list[list[float]], int]:
    """The polygons with at least 3 points as flat lists of coordinates near the image, and how many others there were."""
    if any(isinstance(item, dict) and "counts" in item for item in segmentation):
        raise _bad(f"a list of {len(segmentation)} run lengths, and an object has one: unite them")
    flat = [segmentation] if segmentation and not isinstance(segmentation[0], list) else segmentation
    if len(flat) >= 3 and all(_is_point(item) for item in flat):
        flat = [flat]
    polygons = [_polygon(item) for item in flat]
    if not polygons:
        raise _bad("there are no polygons")
    kept = [polygon for polygon in polygons if len(polygon) >= 6]
    if not kept:
        raise _bad("a polygon needs at least 3 points of 2 coordinates")
    reach = max(width, height)
    corners = [np.array(polygon).reshape(-1, 2) for polygon in kept]
    if any(points.min() < -reach or points.max() > 2 * reach for points in corners):
        raise _bad(f"a coordinate of a polygon lies far outside the image of {width} x {height}")
    length = sum(float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()) for points in corners)
    if length > LONGEST_OUTLINE:
        raise _bad(f"an outline of {length:.0f} pixels in an image of {width} x {height}")
    return kept, len(polygons) - len(kept)


def _polygon(item: Any) -> list[float]:
    if not isinstance(item, list):
        raise _bad(f"a polygon is a list of coordinates, not {type(item).__name__}")
    if item and all(_is_point(point) for point in item):
        item = [coordinate for point in item for coordinate in point]
    if any(isinstance(value, dict) for value in item):
        raise _bad(f"a polygon is a list of coordinates and no objects: {str(item)[:60]}")
    coordinates = [number(value) for value in item]
    if None in coordinates:
        raise _bad(f"a coordinate of a polygon is no finite number: {str(item[coordinates.index(None)])[:60]!r}")
    if len(coordinates) % 2:
        raise _bad("a polygon needs at least 3 points of 2 coordinates, it has an odd number of them")
    return [value for value in coordinates if value is not None]


def _is_point(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(number(value) is not None for value in item)


def _decompress(code: str) -> list[int]:
    """Run lengths of a compressed RLE: https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (rleToString).

    Each number is written in groups of 5 bits, the lowest first, one character (48 + group) each; 32 marks that more follow, and
    the highest bit of the last group is the sign. From the fourth number on they are differences to the number two before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in code:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise _bad(f"{character!r} cannot stand in a compressed RLE")
        value |= (group & 31) << shift
        shift += 5
        if shift > 60:
            raise _bad("a number of a compressed RLE is too large")
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise _bad("a compressed RLE ends within a number")
    return runs
