"""Fills: what stands where the mask is 0, and the image seen through a mask."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline import randomness
from pipeline.masks.config import Fill, MaskConfig
from pipeline.masks.context import MaskContext, required
from pipeline.shapes import Images, Masks

FILL_STREAM = 2
"""What the image's seed is used for here; ``sources`` draws from another stream."""


def fill_images(
    config: MaskConfig, images: Images, context: MaskContext, *, color: Float[Tensor, "1 3 1 1"]
) -> Float[Tensor, "#batch 3 #height #width"]:
    """What stands where the mask is 0: the constant ``color`` for black, grey and mean, else one fill per image."""
    if config.fill == Fill.NOISE:
        seeds = required(context.sample_seeds, "the fill 'noise'", "sample seeds")
        return randomness.uniform(randomness.derive_seeds(seeds, FILL_STREAM), tuple(images.shape[1:]), dtype=images.dtype)
    if config.fill == Fill.BLUR:
        return blur(images, config.blur_sigma)
    return color


def blur(images: Images, sigma: float) -> Images:
    """Gaussian blur with a standard deviation in pixels, cut off at 3 sigma; the border is repeated. Differentiable."""
    reach = math.ceil(3 * sigma)
    positions = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-0.5 * (positions / sigma) ** 2)
    kernel = (weights / weights.sum()).expand(3, 1, -1)
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(padded, kernel[:, :, None, :], groups=3)
    return functional.conv2d(rows, kernel[:, :, :, None], groups=3)


def apply_mask(images: Images, masks: Masks, fills: Float[Tensor, "#batch 3 #height #width"]) -> Images:
    """``masks * images + (1 - masks) * fills``: to the bit the fill where the mask is 0, and the image where it is 1."""
    return torch.lerp(fills, images, masks)
