"""The one reader of pixels, for all sources and for predict, and the cutting of squares.

What a file holds is decided by its mode, pages and EXIF orientation before anything is converted. Memory is bounded: a picture
that takes more than ``LIMIT`` bytes is refused, JPEG is decoded at reduced size where a small square is wanted, and large squares
are shrunk strip by strip.
"""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

from pipeline.data.file_kinds import describe
from pipeline.data.mask_values import DEEP_MODES, StoredMask, check_deep_mask, check_deep_picture, deep_picture, read_weights
from pipeline.data.rules import Rejected
from pipeline.errors import said

Box = tuple[float, float, float, float]

LIMIT = 200 * 2**20
"""Bytes that one decoded picture may take: 52 million pixels in color, 209 million in grey."""
EXACT_PIXELS = 2**24
"""Squares up to this size are cut and resized in one piece."""
STRIP_PIXELS = 2**21
BLOCK, LOST = 8, 128
"""Pixels along a side of what JPEG encodes together, and the value of each where the file holds nothing for them."""
PAPER = (255, 255, 255)
"""What transparent pixels of a picture are laid on."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a stored picture upright, by its EXIF orientation."""
# EPS runs another program, and the others are containers that Pillow names but cannot decode.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# One photograph with a preview, one drawing with its layers, one icon in several sizes: the first is what is meant.
_ONE_PICTURE = {"ICNS", "ICO", "MPO", "PSD"}


@cache
def readable_formats() -> tuple[str, ...]:
    """Every format that Pillow decodes on this machine."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NOT_DECODED))


@cache
def image_suffixes() -> frozenset[str]:
    """The endings of their files, in small letters, with the dot."""
    known = {*readable_formats(), "MPO"}  # which begins as a JPEG, and is opened as one
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


@dataclass(frozen=True)
class Raster:
    """Upright pixels of a file, perhaps fewer than it holds."""

    image: Image.Image
    kind: Literal["RGB", "L"]
    """What its pixels are read as: pictures in color, masks as foreground share."""
    scale: int
    """Pixels of the file, along each side, in one pixel of ``image``. One at the end of the stored lines may have fewer."""
    width: int
    """Of the file, upright."""
    height: int
    """Of the file, upright."""
    turn: int
    """EXIF orientation of the file: which end of a line was stored last."""
    notes: frozenset[str] = frozenset()
    """What else is to be said of it, by the names of ``rules.NOTES``."""
    recipe: str = ""
    """How a mask was read; empty for a picture."""

    def array(self) -> UInt8[np.ndarray, "height width *channels"]:
        """All pixels."""
        return self._array((0, 0, *self.image.size))

    def square(self, left: int, top: int, side: int, size: int) -> UInt8[np.ndarray, "size size *channels"]:
        """A square of the file at ``size`` x ``size`` pixels, by area interpolation where it shrinks.

        Beyond the file a picture repeats its border, and a mask is background.
        """
        if self.scale > 1 or side * side > EXACT_PIXELS:
            return self._shrunk(left, top, side, size)
        x, y = max(left, 0), max(top, 0)
        inner = self._array((x, y, min(left + side, self.width), min(top + side, self.height)))
        return resize(crop(inner, left - x, top - y, side, replicate=self.kind == "RGB"), size)

    def _array(self, box: tuple[int, int, int, int]) -> UInt8[np.ndarray, "height width *channels"]:
        """A part of the pixels, strip by strip: Pillow would hold it four times on the way."""
        left, top, right, bottom = box
        rows = max(1, STRIP_PIXELS // (right - left))
        array = np.empty((bottom - top, right - left, *((3,) if self.kind == "RGB" else ())), dtype=np.uint8)
        for start in range(top, bottom, rows):
            strip = self.image.crop((left, start, right, min(start + rows, bottom)))
            array[start - top : start - top + rows] = np.asarray(strip.convert(self.kind))
        return array

    def _shrunk(self, left: int, top: int, side: int, size: int) -> UInt8[np.ndarray, "size size *channels"]:
        """The same without ever holding the square: strips of rows, each shrunk along both axes and added up."""
        width, height = self.image.size
        replicate, num_channels = self.kind == "RGB", len(self.kind)
        x = left + (width * self.scale - self.width if self.turn in (2, 3, 6, 7) else 0)
        y = top + (height * self.scale - self.height if self.turn in (3, 4, 7, 8) else 0)
        across = _area_weights(x / self.scale, side / self.scale, width, size, replicate=replicate)
        down = _area_weights(y / self.scale, side / self.scale, height, size, replicate=replicate)
        total = np.zeros((size, num_channels * size), dtype=np.float32)
        rows = max(1, STRIP_PIXELS // width)
        for start in range(0, height, rows):
            weights = down[:, start : start + rows]
            if weights.any():
                strip = self.image.crop((0, start, width, min(start + rows, height))).convert(self.kind)
                pixels = np.asarray(strip, dtype=np.float32).reshape(strip.height, width, num_channels)
                narrow = np.tensordot(pixels, across, axes=(1, 1))  # rows, channels, size
                total += weights @ narrow.reshape(strip.height, -1)
        square = np.rint(total).clip(0, 255).astype(np.uint8).reshape(size, num_channels, size)
        return np.ascontiguousarray(square.transpose(0, 2, 1) if num_channels > 1 else square[:, 0])


class ImageFile:
    """An opened file whose pixels are not decoded yet. ``open_image`` makes it; it is good within its context only."""

    def __init__(self, image: Image.Image, name: str) -> None:
        self._image, self._name = image, name
        self._deep = image.mode in ("LA", "RGB", "RGBA") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        self.turn = _orientation(image)  # which loads a PNG
        """EXIF orientation, 1 to 8: 1 is upright."""
        width, height = image.size
        # Pillow turns TIFF by itself, and announces the upright size.
        swapped = self.turn >= 5 and image.format != "TIFF"
        self.width, self.height = (height, width) if swapped else (width, height)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height without the EXIF orientation."""
        return (self.height, self.width) if self.turn >= 5 else (self.width, self.height)

    def picture(self, *, shrink: float = 1.0) -> Raster:
        """The picture in 8-bit color. ``shrink``: pixels of the file, along each side, that become one pixel in the end.

        Transparent pixels are laid on white; 16-bit and floating-point pixels are scaled by their range. Raises ``Rejected``.
        """
        with _in_own_words(self._name):
            image, scale = self._decoded(shrink)
            notes = {"turned"} if self.turn > 1 else set()
            if self._image.format in ("JPEG", "MPO") and _ends_in_grey(self._image, scale):
                notes.add("grey-end")
            if self._deep:
                check_deep_picture(image)
                notes.add("scaled")
            if image.mode in DEEP_MODES:
                image = deep_picture(image)
                notes.add("scaled")
            elif image.has_transparency_data:
                image, composited = _on_paper(image)
                notes |= {"composited"} if composited else set()
            elif image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
                raise Rejected("unsupported-mode", f"mode {image.mode} has no agreed meaning as 8-bit color")
            kept = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
            return Raster(kept, "RGB", scale, self.width, self.height, self.turn, frozenset(notes))

    def mask(self) -> Raster:
        """The foreground share of each pixel, by the rules of ``mask_values``. Raises ``Rejected``."""
        with _in_own_words(self._name):
            image, _ = self._decoded(1.0)
            if self._deep:
                check_deep_mask(image)
            stored: StoredMask = read_weights(image, lossy=self._image.format in ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000"))
            return Raster(stored.weights, "L", 1, self.width, self.height, self.turn, recipe=stored.recipe)

    def _decoded(self, shrink: float) -> tuple[Image.Image, int]:
        """The upright pixels, and how many pixels of the file lie along the side of one."""
        image = self._image
        stored = image.size
        if (pages := getattr(image, "n_frames", 1)) > 1 and image.format not in _ONE_PICTURE:
            raise Rejected("several-pages", f"{pages} pages or frames, and one picture is wanted")
        if stored[0] * stored[1] > EXACT_PIXELS and shrink >= 2 * 2:  # at least two pixels are left to average over
            image.draft(None, (round(stored[0] * 2 / shrink), round(stored[1] * 2 / shrink)))
        width, height = image.size
        needed = width * height * {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}.get(image.mode, 4)
        if needed > LIMIT:
            what = f"{stored[0]} x {stored[1]} pixels of {image.format}, which cannot be decoded in parts, take {needed >> 20} MiB"
            raise Rejected("too-many-pixels", f"{what}, at most {LIMIT >> 20} MiB are read")
        image.load()
        if image.format == "PNG":  # decoding takes no notice of changed bytes, which the file's own checksums tell
            with Image.open(self._name) as stored_file:
                stored_file.verify()
        _check_tiff(image)
        turn = _orientation(image)  # 1 by now where the reader has turned it
        scale = round(stored[0] / width) if width < stored[0] else 1
        return (image.transpose(TURNS[turn]) if turn > 1 else image), scale


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """Open a file of any format that Pillow reads. Raises ``Rejected``: missing, no image, damaged."""
    with _in_own_words(str(path)):
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for ever
            raise Rejected("unreadable-image", "it is no file")
        image = Image.open(path, formats=readable_formats())
    with image:
        with _in_own_words(str(path)):
            opened = ImageFile(image, str(path))
        yield opened


def read_picture(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """All pixels of a picture, upright, 8-bit RGB. Raises ``Rejected``."""
    with open_image(path) as opened:
        return opened.picture().array()


@contextmanager
def _in_own_words(path: str) -> Iterator[None]:
    """Whatever a reader says becomes ``Rejected`` with one line; its warnings are dropped, and the limit on size is ours."""
    former, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Rejected:
        raise
    except FileNotFoundError as error:
        raise Rejected("unreadable-image", "the file does not exist") from error
    except UnidentifiedImageError as error:
        raise Rejected("unreadable-image", describe(Path(path))) from error
    except Exception as error:  # a damaged file meets struct.error, IndexError, KeyError, RuntimeError ... in Pillow's readers
        words = said(error, 200) or type(error).__name__
        raise Rejected("unreadable-image", f"it is damaged or cut short ({words})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = former


def _ends_in_grey(image: Image.Image, scale: int) -> bool:
    """Whether the last block of a decoded JPEG is grey as one that was lost, and the first pixel is not: no grey background."""
    width, height = image.size
    side = max(1, BLOCK // scale)
    last, first = (width - side, height - side, width, height), (0, 0, 1, 1)
    if image.mode not in ("L", "RGB") or min(last) < 0:
        return False
    at_end, at_start = ({*np.ravel(image.crop(box).convert("RGB").getextrema())} for box in (last, first))
    return at_end == {LOST} != at_start


def _check_tiff(image: Image.Image) -> None:
    """Raises ``Rejected`` for two kinds of TIFF that Pillow decodes as if they were the usual ones."""
    tags = getattr(image, "tag_v2", {})
    if image.mode in DEEP_MODES and tags.get(PHOTOMETRIC_INTERPRETATION) == 0:
        raise Rejected("unsupported-mode", f"mode {image.mode} in which 0 is white")
    if image.mode == "L" and tags.get(SAMPLEFORMAT) == (2,) and image.getextrema()[1] >= 128:  # type: ignore[operator]
        raise Rejected("unsupported-mode", "8 bits with a sign, and values below 0")


def _orientation(image: Image.Image) -> int:
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF data beside sound pixels are common, and viewers ignore them
        return 1
    return turn if turn in TURNS else 1


def _on_paper(image: Image.Image) -> tuple[Image.Image, bool]:
    """A picture with its transparent pixels laid on white, and whether there were any."""
    clear = image.convert("RGBA")
    least, most = clear.getchannel("A").getextrema()
    if most == 0:
        raise Rejected("transparent-image", "every pixel is transparent")
    colors = clear.convert("RGB")
    if least == 255:
        return colors, False
    paper = Image.new("RGB", image.size, PAPER)
    paper.paste(colors, mask=clear.getchannel("A"))
    return paper, True


def _area_weights(start: float, side: float, length: int, size: int, *, replicate: bool) -> Float32[np.ndarray, "{size} {length}"]:
    """Which share of each of ``size`` equal parts of [start, start + side] every pixel of a line of ``length`` pixels covers.

    What lies beyond the line counts for its end pixel with ``replicate``, and for none without.
    """
    step = side / size
    low = start + step * np.arange(size)[:, None]
    high = low + step
    pixels = np.arange(length)
    weights = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    if replicate:
        weights[:, :1] += np.clip(np.minimum(high, 0) - low, 0, None)
        weights[:, -1:] += np.clip(high - np.maximum(low, length), 0, None)
    return np.asarray(weights / step, dtype=np.float32)


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
    if side > length:  # larger than the image: center it, so that both borders are padded alike
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
