"""COCO segmentations to masks: checked before they reach pycocotools, which trusts its input."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask as coco_mask

Runs = Int64[np.ndarray, "_"]


class BadSegmentation(Exception):  # noqa: N818 - it becomes a Reject, not a failure
    """No polygon and no run-length code of this image; the message is one line."""


def run_lengths(segmentation: Any, *, width: int, height: int) -> tuple[Runs, str]:
    """Turn polygons, uncompressed or compressed RLE into run lengths and the name of what it was: ``polygon`` or ``rle``.

    Runs go down the columns, left to right, background first. Several polygons are united, and what lies outside the image is cut
    off. Raises ``BadSegmentation``: a code of the wrong length would otherwise be decoded into whatever the memory held.
    """
    if isinstance(segmentation, list):
        polygons = [_polygon(polygon) for polygon in segmentation]
        if not polygons:
            raise BadSegmentation("there are no polygons")
        united = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return np.array(_decompress(united["counts"].decode()), dtype=np.int64), "polygon"
    if not isinstance(segmentation, dict):
        raise BadSegmentation(f"neither polygons nor RLE: {type(segmentation).__name__}")
    if segmentation.get("size") != [height, width]:
        raise BadSegmentation(f"RLE of size {segmentation.get('size')}, the image has [{height}, {width}]")
    counts = segmentation.get("counts")
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise BadSegmentation(f"the run lengths are not whole numbers that add up to {height * width} pixels")
    return np.array(runs, dtype=np.int64), "rle"


def draw(runs: Runs, *, width: int, height: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask that run lengths stand for; ``pycocotools.mask.decode`` gives the same, with a warning from numpy 2 each time."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def area(runs: Runs) -> int:
    """Foreground pixels."""
    return int(runs[1::2].sum())


def _polygon(polygon: Any) -> Sequence[float]:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise BadSegmentation("a polygon needs at least 3 points of 2 coordinates")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in polygon):
        raise BadSegmentation("a coordinate of a polygon is no finite number")
    if max(map(abs, polygon)) > 1e6:  # pycocotools walks along every edge, pixel by pixel, with 32-bit numbers
        raise BadSegmentation("a coordinate of a polygon is beyond 1,000,000 pixels")
    return polygon


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
            raise BadSegmentation(f"{character!r} cannot stand in a compressed RLE")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise BadSegmentation("a compressed RLE ends within a number")
    return runs
