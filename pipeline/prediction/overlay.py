"""A mask drawn over its image, for people."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from pipeline.data.images import resize
from pipeline.data.preview import draw_outline

MIN_SIDE, MAX_SIDE = 256, 512
_BACKGROUND = 0.3
"""Brightness that is left where the mask is 0."""


def drawn_side(side: int) -> int:
    """Width in pixels of the drawing of a square of ``side`` pixels."""
    return int(np.clip(side, MIN_SIDE, MAX_SIDE))


def overlay(
    square: UInt8[np.ndarray, "side side 3"], mask: Float[np.ndarray, "mask_side mask_side"]
) -> UInt8[np.ndarray, "drawn drawn 3"]:
    """The image with its background darkened in proportion to the mask, and an outline where the mask crosses one half.

    ``mask`` is in [0,1], of any resolution. The drawing is 256 to 512 pixels wide.
    """
    side = drawn_side(square.shape[0])
    weights = cv2.resize(np.ascontiguousarray(mask, dtype=np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    brightness = cv2.merge([_BACKGROUND + (1 - _BACKGROUND) * weights] * 3)
    drawn = cv2.multiply(resize(square, side), brightness, dtype=cv2.CV_8U)
    draw_outline(drawn, weights >= 0.5)
    return drawn
