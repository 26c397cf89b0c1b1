"""Masks that need no segmenter: shapes of the data set's own mask, and the functions that ``MaskSource`` names."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline import randomness
from pipeline.masks.config import MaskConfig
from pipeline.masks.context import MaskContext, required
from pipeline.shapes import Images, Masks, Seeds

MASK_STREAM = 1
"""What the image's seed is used for here; ``fills`` draws from another stream."""


def bounding_boxes(masks: Masks) -> Masks:
    """1 in the smallest upright rectangle that holds every pixel above 0.5, else 0; all zero where there is no such pixel."""
    inside = masks > 0.5
    rows, columns = _between(inside.any(3)), _between(inside.any(2))
    return (rows[..., :, None] & columns[..., None, :]).to(masks.dtype)


def _between(marks: Tensor) -> Tensor:
    """True from the first to the last True of the last axis."""
    return (marks.cumsum(-1) > 0) & (marks.flip(-1).cumsum(-1).flip(-1) > 0)


def dilate(masks: Masks, radius: int) -> Masks:
    """Each pixel becomes the largest of its (2 radius + 1) x (2 radius + 1) neighborhood inside the image."""
    return functional.max_pool2d(masks, 2 * radius + 1, stride=1, padding=radius)


def erode(masks: Masks, radius: int) -> Masks:
    """Each pixel becomes the smallest of its neighborhood inside the image: an object is not eroded at the image's border."""
    return -dilate(-masks, radius)


def shift(masks: Masks, *, pixels: int, direction: Literal["left", "right", "up", "down"]) -> Masks:
    """Move by whole pixels. What leaves the image is lost, zeros follow: nothing wraps around."""
    sideways = direction in ("left", "right")
    reach = min(pixels, masks.shape[3 if sideways else 2])  # moved by its side, a mask is empty already
    before = reach if direction in ("right", "down") else -reach
    return functional.pad(masks, (before, -before) if sideways else (0, 0, before, -before))


def random_masks(oracle_masks: Masks, sample_seeds: Seeds) -> Masks:
    """Random blobs of the oracle's area: 0 or 1, and the number of ones is the oracle's sum rounded to a whole pixel.

    The blobs are where a smooth random field, periodic at the borders, is highest. The field knows nothing of the
    object: given the area, shape and place carry no information about it, and every pixel is equally likely to be covered. (The
    oracle's own mask at a random place would still show the class by its outline.)
    """
    batch, _, height, width = oracle_masks.shape
    field = randomness.random_integers(randomness.derive_seeds(sample_seeds, MASK_STREAM), (height, width)) >> 8
    for axis in (1, 2, 1, 2):  # twice each way, so that the outlines are not square
        field = _periodic_sums(field, axis=axis, width=max(1, field.shape[axis] // 4))
    # Counted in integers: a float sum may round differently in another batch.
    area = ((oracle_masks * 2**16).round().long().sum(dim=(1, 2, 3)) + 2**15) >> 16
    order = field.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(height * width, device=order.device).expand_as(order)
    covered = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, rank < area[:, None])
    return covered.view(batch, 1, height, width).to(oracle_masks.dtype)


def _periodic_sums(field: Tensor, *, axis: int, width: int) -> Tensor:
    """Sums over windows of ``width``, from each position onwards, around the border. Integers, hence exact."""
    sums = torch.cat([field, field.narrow(axis, 0, width)], dim=axis).cumsum(axis)
    length = field.shape[axis]
    return sums.narrow(axis, width, length) - sums.narrow(axis, 0, length)


def given_masks(config: MaskConfig, images: Images, context: MaskContext) -> Masks:
    """The mask of every source that does not follow the image. Raises ValueError where the context lacks what the source needs."""
    source, needed_by = config.source, f"the mask source {config.source.value!r}"
    masks: Tensor
    match source.needs:
        case "nothing":
            masks = source.function()(config, images, context)
        case "oracle":
            oracle_masks = required(context.oracle_masks, needed_by, "oracle masks").to(images.dtype)
            masks = source.function()(config, oracle_masks, context)
        case "substitute":
            given = required(context.substitutes, needed_by, "masks in place of the oracle's (data.substitutes)")
            masks = source.function()(config, given.to(images.dtype), context)
        case "frozen":
            masks = required(context.frozen_masks, needed_by, "frozen masks (TwoStage.freeze)").to(images.dtype)
        case "segmenter":
            raise ValueError(f"{needed_by} needs a segmenter")
    return masks


def everything(_config: MaskConfig, images: Images, _context: MaskContext) -> Masks:
    """The source ``none``."""
    return images.new_ones(len(images), 1, *images.shape[2:])


def unchanged(_config: MaskConfig, given: Masks, _context: MaskContext) -> Masks:
    """The source ``oracle``, and those of masks in its place."""
    return given


def random(config: MaskConfig, oracle_masks: Masks, context: MaskContext) -> Masks:
    """The source ``random``."""
    return random_masks(oracle_masks, required(context.sample_seeds, f"the mask source {config.source.value!r}", "sample seeds"))


def box(_config: MaskConfig, oracle_masks: Masks, _context: MaskContext) -> Masks:
    """The source ``box``."""
    return bounding_boxes(oracle_masks)


def eroded(config: MaskConfig, oracle_masks: Masks, _context: MaskContext) -> Masks:
    """The source ``eroded``."""
    return erode(oracle_masks, config.radius)


def dilated(config: MaskConfig, oracle_masks: Masks, _context: MaskContext) -> Masks:
    """The source ``dilated``."""
    return dilate(oracle_masks, config.radius)


def shifted(config: MaskConfig, oracle_masks: Masks, _context: MaskContext) -> Masks:
    """The source ``shifted``."""
    return shift(oracle_masks, pixels=config.shift, direction=config.direction)


def inverted(_config: MaskConfig, oracle_masks: Masks, _context: MaskContext) -> Masks:
    """The source ``inverted``."""
    return 1 - oracle_masks
