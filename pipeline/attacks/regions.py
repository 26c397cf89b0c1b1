"""Which pixels an attack may change, per image, from the data set's own masks."""

from pipeline.attacks.threat import Region
from pipeline.masks.sources import bounding_boxes, dilate
from pipeline.shapes import Masks, Regions


def region_masks(region: Region, oracle_masks: Masks, *, radius: int) -> Regions:
    """True where the attack may change the image.

    Foreground (mask above 0) and background (mask 0) are each other's complement. ``radius`` is the reach of the
    boundary band in pixels, at least 1: it holds the pixels that have both foreground and background within that distance (in
    the maximum norm), and is empty for an all-zero mask and one without a pixel of pure background.
    """
    foreground = oracle_masks > 0
    match region:
        case Region.EVERYWHERE:
            return foreground | True
        case Region.FOREGROUND:
            return foreground
        case Region.BACKGROUND:
            return ~foreground
        case Region.BOUNDARY:
            shown = foreground.to(oracle_masks.dtype)
            return (dilate(shown, radius) > 0) & (dilate(1 - shown, radius) > 0)
        case Region.OUTSIDE_BOX:
            return bounding_boxes(oracle_masks) == 0
