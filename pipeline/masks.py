"""Masks and what they do to an image: gates, fills, mask sources. Written once, for training and for testing.

Everything here is a function of tensors and, where it is random, of one seed per image: the same image gets the same mask and
the same fill in every call and in every batch.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from pipeline import randomness
from pipeline.config import Number

# What the image's seed is used for; two purposes never share numbers.
_MASK_STREAM, _FILL_STREAM = 1, 2


class MaskSource(StrEnum):
    """Where the mask of a system comes from."""

    NONE = "none"
    """All ones: the classifier sees the image as it is."""
    ORACLE = "oracle"
    """The data set's own mask. Held fixed under attack: an upper bound, not a defence."""
    LEARNED = "learned"
    """The segmenter's foreground probability, predicted on the image at hand, attacked or not."""
    LEARNED_HARD = "learned-hard"
    """The same, thresholded to 0 and 1, with a surrogate gradient backwards."""
    FROZEN = "frozen"
    """The segmenter's probability on the clean image, held fixed under attack: what a mask out of reach would be worth."""
    RANDOM = "random"
    """As many pixels as the oracle covers, elsewhere: see ``random_masks``. Needs one seed per image."""
    BOX = "box"
    """The bounding box of the oracle."""
    ERODED = "eroded"
    """The oracle without a rim of ``radius`` pixels."""
    DILATED = "dilated"
    """The oracle with ``radius`` pixels of background around it."""
    SHIFTED = "shifted"
    """The oracle moved by ``shift`` pixels."""
    INVERTED = "inverted"
    """Background only: what can be told from the surroundings alone."""

    @property
    def is_learned(self) -> bool:
        """The mask follows the image under attack, through the segmenter."""
        return self in (MaskSource.LEARNED, MaskSource.LEARNED_HARD)

    @property
    def needs_segmenter(self) -> bool:
        """The mask is a segmenter's, of the image under attack or of the clean one."""
        return self.is_learned or self is MaskSource.FROZEN

    @property
    def needs_oracle(self) -> bool:
        """The mask is made from the data set's own."""
        return not self.needs_segmenter and self is not MaskSource.NONE


class Fill(StrEnum):
    """What stands where the mask is 0."""

    BLACK = "black"
    """0 everywhere."""
    GREY = "grey"
    """0.5 everywhere."""
    MEAN = "mean"
    """One colour: the mean of the data set's training images."""
    NOISE = "noise"
    """Uniform noise in [0,1], fixed per image by its seed."""
    BLUR = "blur"
    """The image itself, blurred. Leaks the background: colours and coarse shapes stay visible and open to attack."""


class MaskContext(NamedTuple):
    """What travels with a batch besides its images: everything per sample, in the order of the batch.

    A named tuple, because Lightning Fabric refuses frozen dataclasses among the arguments of a wrapped module.
    """

    oracle_masks: Tensor | None = None
    """(B,1,H,W), foreground share in [0,1]."""
    frozen_masks: Tensor | None = None
    """(B,1,H,W) in [0,1], predicted on the clean images: ``TwoStage.freeze`` fills it in."""
    sample_seeds: Tensor | None = None
    """(B,), int64: decides random masks and noise fills."""

    def select(self, indices: Int64[Tensor, " kept"]) -> "MaskContext":
        """The context of some images of the batch, in the order of ``indices``."""
        return MaskContext(*(None if value is None else value[indices] for value in self))

    def to(self, device: torch.device) -> "MaskContext":
        """The same on another device."""
        return MaskContext(*(None if value is None else value.to(device, non_blocking=True) for value in self))


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which mask, and what fills the rest."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    source: MaskSource = MaskSource.LEARNED
    """Where the mask comes from: none, oracle, learned, learned-hard, frozen, random, box, eroded, dilated, shifted or inverted."""
    fill: Fill = Fill.GREY
    """What stands where the mask is 0: black, grey, mean (of the training images), noise or blur. Blur leaks the background."""
    radius: Annotated[int, Field(ge=1)] = 2
    """Width in pixels by which eroded and dilated masks differ from the oracle, at least 1."""
    shift: Annotated[int, Field(ge=1)] = 4
    """Distance in pixels by which the shifted mask is moved, at least 1; what leaves the image is lost, zeros follow."""
    direction: Literal["left", "right", "up", "down"] = "right"
    """Where the shifted mask is moved to: left, right, up or down."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Foreground probability above which a learned-hard mask is 1, between 0 and 1."""
    surrogate: Literal["identity", "sigmoid"] = "sigmoid"
    """Gradient of the learned-hard gate: sigmoid as if the gate were soft, identity hands it to the mask logits unchanged. Attacks
    found more through sigmoid (docs/results), hence the default."""
    blur_sigma: Annotated[Number, Field(gt=0)] = 4.0
    """Standard deviation in pixels of the blur fill, above 0."""


def soft_gate(mask_logits: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Foreground probability: the sigmoid. In float32 it is exactly 1, without a gradient, above logits of about 17."""
    return mask_logits.sigmoid()


def hard_gate(
    mask_logits: Float[Tensor, "batch 1 height width"], *, threshold: float, surrogate: Literal["identity", "sigmoid"]
) -> Float[Tensor, "batch 1 height width"]:
    """Exactly 0 or 1 forwards (probability above ``threshold``), a straight-through gradient backwards.

    Backwards the gate is the identity on the logits (Bengio et al. 2013, https://arxiv.org/abs/1308.3432), which never vanishes, or
    the sigmoid, which weighs pixels by their doubt. The surrogate sits here, in the system, so that every attack has it (the idea
    of BPDA: Athalye et al. 2018, https://arxiv.org/abs/1802.00420). The logits are finite.
    """
    hard = (mask_logits > math.log(threshold / (1 - threshold))).to(mask_logits.dtype)
    smooth = mask_logits if surrogate == "identity" else mask_logits.sigmoid()
    return hard + (smooth - smooth.detach())  # the bracket is exactly 0, so the sum is exactly hard


def bounding_boxes(masks: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """1 in the smallest upright rectangle that holds every pixel above 0.5, else 0; all zero where there is no such pixel."""
    inside = masks > 0.5
    rows, columns = _between(inside.any(3)), _between(inside.any(2))
    return (rows[..., :, None] & columns[..., None, :]).to(masks.dtype)


def _between(marks: Tensor) -> Tensor:
    """True from the first to the last True of the last axis."""
    return (marks.cumsum(-1) > 0) & (marks.flip(-1).cumsum(-1).flip(-1) > 0)


def dilate(masks: Float[Tensor, "batch 1 height width"], radius: int) -> Float[Tensor, "batch 1 height width"]:
    """Each pixel becomes the largest of its (2 radius + 1) x (2 radius + 1) neighbourhood inside the image."""
    return functional.max_pool2d(masks, 2 * radius + 1, stride=1, padding=radius)


def erode(masks: Float[Tensor, "batch 1 height width"], radius: int) -> Float[Tensor, "batch 1 height width"]:
    """Each pixel becomes the smallest of its neighbourhood inside the image: an object is not eroded at the image's border."""
    return -dilate(-masks, radius)


def shift(
    masks: Float[Tensor, "batch 1 height width"], *, pixels: int, direction: Literal["left", "right", "up", "down"]
) -> Float[Tensor, "batch 1 height width"]:
    """Move by whole pixels. What leaves the image is lost, zeros follow: nothing wraps around."""
    axis = 3 if direction in ("left", "right") else 2
    side = masks.shape[axis]
    kept = max(side - pixels, 0)
    forward = direction in ("right", "down")
    moved = torch.zeros_like(masks)
    moved.narrow(axis, side - kept if forward else 0, kept).copy_(masks.narrow(axis, 0 if forward else side - kept, kept))
    return moved


def random_masks(
    oracle_masks: Float[Tensor, "batch 1 height width"], sample_seeds: Int64[Tensor, " batch"]
) -> Float[Tensor, "batch 1 height width"]:
    """Random blobs of the oracle's area: 0 or 1, and the number of ones is the oracle's sum rounded to a whole pixel.

    The blobs are where a smooth random field, periodic at the borders, is highest. The field knows nothing of the
    object: given the area, shape and place carry no information about it, and every pixel is equally likely to be covered. (The
    oracle's own mask at a random place would still show the class by its outline.)
    """
    batch, _, height, width = oracle_masks.shape
    field = randomness.random_integers(randomness.derive_seeds(sample_seeds, _MASK_STREAM), (height, width)) >> 8
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


def given_masks(
    config: MaskConfig, images: Float[Tensor, "batch 3 height width"], context: MaskContext
) -> Float[Tensor, "batch 1 height width"]:
    """The mask of every source that needs no segmenter. Raises ValueError where the context lacks what the source needs."""
    if config.source is MaskSource.NONE:
        return images.new_ones(len(images), 1, *images.shape[2:])
    if config.source is MaskSource.FROZEN:
        return _required(context.frozen_masks, config.source, "frozen masks (TwoStage.freeze)").to(images.dtype)
    oracle = _required(context.oracle_masks, config.source, "oracle masks").to(images.dtype)
    match config.source:
        case MaskSource.ORACLE:
            return oracle
        case MaskSource.RANDOM:
            return random_masks(oracle, _required(context.sample_seeds, config.source, "sample seeds"))
        case MaskSource.BOX:
            return bounding_boxes(oracle)
        case MaskSource.ERODED:
            return erode(oracle, config.radius)
        case MaskSource.DILATED:
            return dilate(oracle, config.radius)
        case MaskSource.SHIFTED:
            return shift(oracle, pixels=config.shift, direction=config.direction)
        case MaskSource.INVERTED:
            return 1 - oracle
        case _:
            raise ValueError(f"the mask source {config.source.value!r} needs a segmenter")


def _required(value: Tensor | None, needed_by: MaskSource | Fill, what: str) -> Tensor:
    if value is None:
        kind = "mask source" if isinstance(needed_by, MaskSource) else "fill"
        raise ValueError(f"the {kind} {needed_by.value!r} needs {what}, and the context has none")
    return value


def fill_images(
    config: MaskConfig,
    images: Float[Tensor, "batch 3 height width"],
    context: MaskContext,
    *,
    colour: Float[Tensor, "1 3 1 1"],
) -> Float[Tensor, "#batch 3 #height #width"]:
    """What stands where the mask is 0: the constant ``colour`` for black, grey and mean, else one fill per image."""
    if config.fill is Fill.NOISE:
        seeds = _required(context.sample_seeds, config.fill, "sample seeds")
        return randomness.uniform(randomness.derive_seeds(seeds, _FILL_STREAM), tuple(images.shape[1:]), dtype=images.dtype)
    if config.fill is Fill.BLUR:
        return blur(images, config.blur_sigma)
    return colour


def blur(images: Float[Tensor, "batch 3 height width"], sigma: float) -> Float[Tensor, "batch 3 height width"]:
    """Gaussian blur with a standard deviation in pixels, cut off at 3 sigma; the border is repeated. Differentiable."""
    reach = math.ceil(3 * sigma)
    positions = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-0.5 * (positions / sigma) ** 2)
    kernel = (weights / weights.sum()).expand(3, 1, -1)
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(padded, kernel[:, :, None, :], groups=3)
    return functional.conv2d(rows, kernel[:, :, :, None], groups=3)


def apply_mask(
    images: Float[Tensor, "batch 3 height width"],
    masks: Float[Tensor, "batch 1 height width"],
    fills: Float[Tensor, "#batch 3 #height #width"],
) -> Float[Tensor, "batch 3 height width"]:
    """``masks * images + (1 - masks) * fills``: to the bit the fill where the mask is 0, and the image where it is 1."""
    return torch.lerp(fills, images, masks)
