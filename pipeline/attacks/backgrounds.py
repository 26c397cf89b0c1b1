"""Other backgrounds behind the same object: not an attack, but what a system makes of a world that was not trained for.

In the manner of the backgrounds challenge (Xiao et al. 2020, https://arxiv.org/abs/2006.09994), from the data set's own masks:

- ``same-class``: the object in front of the background of another image of its class (their MIXED-SAME),
- ``other-class``: in front of the background of an image of another class (their MIXED-RAND, which may draw the own class as well),
- ``only-foreground``: in front of black (their ONLY-FG),
- ``only-background``: the object is painted over with what surrounds it (their ONLY-BG-T tiles the background; NO-FG keeps a black
  shape, which gives the class away by its outline).

Same class minus other class is their BG-gap: what the class of the background is worth to a system, freed of what cutting and
pasting itself costs. Donors come from other groups: the same photograph or track behind its own object is no other background.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Int64, Shaped

from pipeline.attacks.measurement import Condition
from pipeline.attacks.measurements import Backdrop, Backgrounds
from pipeline.attacks.measuring import MeasuredBatch, Observation, observed
from pipeline.masks.sources import dilate
from pipeline.shapes import Images, Masks

_INPAINT_RADIUS = 3.0


def choose_donors(
    rows: Int64[np.ndarray, " images"],
    seeds: Int64[np.ndarray, " images"],
    labels: Int64[np.ndarray, " samples"],
    groups: Shaped[np.ndarray, " samples"],
    candidates: Int64[np.ndarray, " candidates"],
    *,
    same_class: bool,
) -> Int64[np.ndarray, " images"]:
    """For each image the row that its new background comes from, by its seed alone; -1 where there is no such row.

    ``labels`` and ``groups`` are the data set's, by row; ``candidates`` are the rows that may be donors, of which those of the
    image's own group are left out.
    """
    chosen = np.full(len(rows), -1, dtype=np.int64)
    for position, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
        alike = labels[candidates] == labels[row]
        fit = candidates[(alike if same_class else ~alike) & (groups[candidates] != groups[row])]
        if len(fit):
            chosen[position] = fit[np.random.default_rng([int(seed), int(same_class)]).integers(len(fit))]
    return chosen


def without_objects(images: Images, masks: Masks) -> Images:
    """The images with their objects painted over by what surrounds them, in steps of 1/255.

    By OpenCV's inpainting (Telea 2004, https://doi.org/10.1080/10867651.2004.10487596) over every pixel that shows any of the
    object and its neighbors, whose colors the object has bled into. Where nothing else is left, the image becomes black.
    """
    objects = dilate((masks > 0).to(images.dtype), 1) > 0
    painted = []
    for image, hole in zip(images, objects, strict=True):
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
        covered = hole[0].to(torch.uint8).cpu().numpy()
        filled = np.zeros_like(pixels) if covered.all() else cv2.inpaint(pixels, covered, _INPAINT_RADIUS, cv2.INPAINT_TELEA)
        painted.append(torch.from_numpy(filled).permute(2, 0, 1))
    return torch.stack(painted).to(images) / 255 if painted else images


def with_backdrop(
    backdrop: Backdrop, images: Images, masks: Masks, donors: Images | None = None, donor_masks: Masks | None = None
) -> Images:
    """The images in front of another background: ``mask * image + (1 - mask) * background``, the object at its place.

    To the bit the image where its mask is 1. Donors lose their own objects first (``without_objects``). Raises ValueError where the
    backdrop needs donors and there are none.
    """
    match backdrop:
        case Backdrop.ONLY_FOREGROUND:
            return torch.lerp(torch.zeros_like(images), images, masks)
        case Backdrop.ONLY_BACKGROUND:
            return without_objects(images, masks)
        case _:
            if donors is None or donor_masks is None:
                raise ValueError(f"the backdrop {backdrop.value!r} needs the images and masks of donors")
            return torch.lerp(without_objects(donors, donor_masks), images, masks)


def observe_backdrop(_spec: Backgrounds, batch: MeasuredBatch, condition: Condition) -> Observation:
    """What the system says of the objects in front of that background, or of the original images; without an object its mask is
    empty."""
    if condition.name == "original":
        return observed(batch, batch.images)
    backdrop = Backdrop(condition.name)
    if not backdrop.needs_donor:
        masks = torch.zeros_like(batch.masks) if backdrop == Backdrop.ONLY_BACKGROUND else batch.masks
        return observed(batch, with_backdrop(backdrop, batch.images, batch.masks), masks=masks)
    donors = batch.donors(backdrop == Backdrop.SAME_CLASS)
    images = with_backdrop(backdrop, batch.images, batch.masks, donors.images, donors.masks)
    return observed(batch, images, counted=donors.found)
