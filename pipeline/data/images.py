"""Reading, cropping and resizing of image files: the part that all sources share."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

Box = tuple[float, float, float, float]


class UnreadableImage(Exception):  # noqa: N818 - it becomes a Reject, not a failure
    """The file is missing, truncated or no image; the message is one line."""


def read_image(path: Path, *, upright: bool = False) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a file to RGB.

    PIL and not OpenCV, because OpenCV fills the missing part of a truncated JPEG with grey and returns it as an image.
    ``upright`` applies the EXIF orientation; leave it off where annotations refer to the stored pixels (COCO).
    Raises ``UnreadableImage``.
    """
    return _decode(path, mode="RGB", upright=upright)


def read_mask(path: Path, *, upright: bool = False) -> UInt8[np.ndarray, "height width"]:
    """Decode a mask file to one 8-bit channel as it is stored (no scaling). Raises ``UnreadableImage``."""
    return _decode(path, mode="L", upright=upright)


def _decode(path: Path, *, mode: str, upright: bool) -> np.ndarray:
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image) if upright else image
            return np.asarray(turned.convert(mode))
    except FileNotFoundError as error:
        raise UnreadableImage("the file does not exist") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error


def square_around(box: Box, *, context: float, width: int, height: int) -> tuple[int, int, int]:
    """Square crop around a box: left, top and side in whole pixels.

    The side is the longer side of the box times ``1 + 2 * context``, at least 1. The square is centred on the box and then shifted
    into the image where it fits; it only reaches beyond the image where it is larger than the image.
    """
    x0, y0, x1, y1 = box
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + 2 * context)))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    return _shift_inside(left, side, width), _shift_inside(top, side, height), side


def _shift_inside(start: int, side: int, length: int) -> int:
    if side > length:  # larger than the image: centre it, so that both borders are padded alike
        return (length - side) // 2
    return min(max(start, 0), length - side)


def crop(
    array: UInt8[np.ndarray, "height width *channels"], left: int, top: int, side: int, *, replicate: bool
) -> UInt8[np.ndarray, "side side *channels"]:
    """Cut a square that may reach beyond the array: filled by repeating the border (images) or with zeros (masks)."""
    height, width = array.shape[:2]
    inner = array[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    before_y, after_y = max(-top, 0), max(top + side - height, 0)
    before_x, after_x = max(-left, 0), max(left + side - width, 0)
    if not (before_y or after_y or before_x or after_x):
        return np.ascontiguousarray(inner)
    padding = [(before_y, after_y), (before_x, after_x)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(inner, padding, mode="edge" if replicate else "constant")


def resize(array: UInt8[np.ndarray, "height width *channels"], side: int) -> UInt8[np.ndarray, "side side *channels"]:
    """Resize to a square: area interpolation where it shrinks (no aliasing), bilinear where it grows."""
    if array.shape[0] == side and array.shape[1] == side:
        return array
    shrinks = array.shape[0] >= side and array.shape[1] >= side
    return cv2.resize(array, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
