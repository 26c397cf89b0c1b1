"""Masks that stand in place of a sample's own: another image's, or a random one. They show what an outline is worth by itself.

A substitute is a function of the data set and of the sample's identity: the same in every batch, epoch and process. Other images'
masks are those of training images, for every split, so that no mask of a test image teaches a classifier.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from pipeline.data.dataset import PreparedDataset
from pipeline.data.sample import NO_CLASS
from pipeline.data.seeds import sample_seed
from pipeline.errors import DataError

AREA_TOLERANCE = 0.1
"""Another image's mask differs in area by at most this share; where no image's is so near, the nearest is taken."""
ALIKE_AREA, ALIKE_PERIMETER = 0.02, 0.1
"""A random mask is drawn again until its area and its perimeter differ by at most these shares."""
_DRAWS = 12
_STEEPEST, _FLATTEST = 4.0, 1.0
"""Slopes of the spectrum of a random field, from smooth to ragged."""
Masks = UInt8[np.ndarray, "rows side side"]
Maker = Callable[[Int64[np.ndarray, " rows"]], Masks]
"""From rows of a data set to masks in place of theirs."""


def with_substitutes(dataset: PreparedDataset, kind: str | None) -> PreparedDataset:
    """The data set with a substitute for every mask beside it, of a kind that ``MAKERS`` lists; None leaves it as it is.

    Raises KeyError for another kind, DataError where a class has no other training image to take a mask from, or there is no
    other class.
    """
    if kind is None:
        return dataset
    return dataclasses.replace(dataset, substitutes=MAKERS[kind](dataset), substitute_kind=kind)


def foreign_rows(dataset: PreparedDataset, *, same: bool) -> Int64[np.ndarray, " samples"]:
    """For each sample the row whose mask stands in place of its own: a training image of another group, of the same class or not.

    Of those whose area differs by at most ``AREA_TOLERANCE`` one is drawn by the sample's id, else the nearest is taken. Raises
    DataError where there is none.
    """
    samples = dataset.samples.select("sample_id", "group", "foreground_share")
    areas, groups = samples["foreground_share"].to_numpy(), samples["group"].to_numpy()
    pool = dataset.indices("train")
    chosen = np.empty(len(dataset), dtype=np.int64)
    for row, sample_id in enumerate(samples["sample_id"].to_list()):
        if dataset.labels[row] == NO_CLASS:
            chosen[row] = row  # no classifier ever sees it
            continue
        of_class = (dataset.labels[pool] == dataset.labels[row]) == same
        eligible = pool[of_class & (groups[pool] != groups[row])]
        if not len(eligible):
            what = "no other training image of its class" if same else "no training image of another class"
            raise DataError(f"{dataset.path}: there is {what} for {sample_id!r} to have the mask of; leave these masks out")
        differences = np.abs(areas[eligible] - areas[row])
        near = eligible[differences <= AREA_TOLERANCE * areas[row]]
        drawn = sample_seed("foreign", sample_id)
        chosen[row] = near[drawn % len(near)] if len(near) else eligible[differences.argmin()]
    return chosen


def _foreign(dataset: PreparedDataset, *, same: bool) -> Maker:
    chosen = foreign_rows(dataset, same=same)
    return lambda rows: dataset.masks[chosen[rows]]


def _random_alike(dataset: PreparedDataset) -> Maker:
    ids = dataset.samples["sample_id"].to_list()
    made: dict[int, UInt8[np.ndarray, "side side"]] = {}

    def of(row: int) -> UInt8[np.ndarray, "side side"]:
        if row not in made:
            own = dataset.masks[row] > 127
            made[row] = random_alike(own, np.random.default_rng(sample_seed("alike", ids[row]))).astype(np.uint8) * 255
        return made[row]

    return lambda rows: np.stack([of(int(row)) for row in rows])


MAKERS: Mapping[str, Callable[[PreparedDataset], Maker]] = {
    "foreign-same": partial(_foreign, same=True),
    "foreign-other": partial(_foreign, same=False),
    "random-alike": _random_alike,
}
"""By the names that mask sources have: another image's mask, of the same class or of another; a random one like the own."""


def random_alike(mask: Bool[np.ndarray, "side side"], rng: np.random.Generator) -> Bool[np.ndarray, "side side"]:
    """A random mask with as many pixels, components and edges as a given one, of which it knows nothing else.

    Components are those of four neighbors, and the perimeter counts the edges between a pixel inside and one outside. The mask is
    made of the largest components of a level set of a random field, periodic at the borders, whose spectrum falls as a power of the
    frequency: the steeper, the shorter the perimeter. Of several draws the first that is near enough is taken, else the nearest.
    """
    if not mask.any() or mask.all():
        return mask.copy()
    area, parts, edges = int(mask.sum()), num_components(mask), perimeter(mask)
    best, least = mask, np.inf
    for _ in range(_DRAWS):
        spectrum = np.fft.rfft2(rng.standard_normal(mask.shape))
        steep, flat = _STEEPEST, _FLATTEST
        for _ in range(6):  # halving: a steeper spectrum has a shorter perimeter
            slope = (steep + flat) / 2
            found = _level_set(_field(spectrum, mask.shape, slope), area, parts)
            off = (abs(found.sum() / area - 1) / ALIKE_AREA, abs(perimeter(found) / edges - 1) / ALIKE_PERIMETER)
            distance = max(off) + 10 * abs(num_components(found) - parts)
            if distance < least:
                best, least = found, distance
            if least <= 1:
                return best
            steep, flat = (slope, flat) if perimeter(found) < edges else (steep, slope)
    return best


def perimeter(mask: Bool[np.ndarray, "side side"]) -> int:
    """Edges between a pixel inside and a pixel outside; the image border is none."""
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())


def num_components(mask: Bool[np.ndarray, "side side"]) -> int:
    """Components of four neighbors."""
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0]) - 1


def _field(spectrum: np.ndarray, shape: tuple[int, ...], slope: float) -> Float[np.ndarray, "side side"]:
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    return np.fft.irfft2(spectrum * frequency**-slope, s=shape)


def _level_set(field: Float[np.ndarray, "side side"], area: int, parts: int) -> Bool[np.ndarray, "side side"]:
    """The largest ``parts`` components of the level set at which they cover about ``area`` pixels."""
    heights = np.sort(field, axis=None)[::-1]
    fewest, most = area, min(len(heights), 3 * area)
    found = np.zeros(field.shape, dtype=bool)
    least = np.inf
    for _ in range(8):  # halving: a lower level has larger components
        count = (fewest + most) // 2
        _, labels, stats, _ = cv2.connectedComponentsWithStats((field >= heights[count - 1]).astype(np.uint8), connectivity=4)
        sizes = stats[1:, cv2.CC_STAT_AREA]
        largest = 1 + np.argsort(-sizes, kind="stable")[:parts]
        covered = int(sizes[largest - 1].sum())
        if abs(covered - area) < least:
            found, least = np.isin(labels, largest), abs(covered - area)
        fewest, most = (count, most) if covered < area else (fewest, count)
    return found
