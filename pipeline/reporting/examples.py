"""Pictures of images as a system was shown them under the conditions of a measurement."""

from collections.abc import Sequence

from pipeline.evaluation.examples import Example
from pipeline.reporting.gallery import Picture

MANY = 6
"""Conditions beyond which the image itself and the mask are left out."""


def example_pictures(examples: Sequence[Example]) -> tuple[Picture, ...]:
    """Of every condition at its largest level: the image, what was shown in its place, and the mask it was seen through."""
    strongest: dict[tuple[str, str], Example] = {}
    for one in examples:
        other = strongest.get((one.measurement, one.condition))
        if other is None or one.level >= other.level:
            strongest[one.measurement, one.condition] = one
    pictures: list[Picture] = []
    for one in strongest.values():
        pictures += _pictures(one, alone=len(strongest) > MANY)
    return tuple(pictures)


def _pictures(one: Example, *, alone: bool) -> list[Picture]:
    what = f"{one.measurement}, {one.condition}{f' {one.level:g}' if one.level else ''}"
    said = one.prediction or "no answer"
    sample = f"image {one.sample_id} of class {one.label}"
    shown = Picture.of(f"{what}: {said}", one.shown, f"The {sample} under {what}, classified as {said}")
    if alone:
        return [shown]
    clean = Picture.of(f"{one.label}, as it is", one.image, f"The {sample} as it is")
    mask = Picture.of("seen through", one.mask, f"Mask that the {sample} is seen through under {what}")
    return [clean, shown, mask]
