"""What the values of a mask file mean: a foreground share, two classes, or something that is no mask of one object.

The rules, in this order:

1. An alpha channel that varies is the mask, unless its opaque pixels show 2 to 16 flat colors: then it is a map of classes.
2. A palette is an index, unless all its colors in use are different greys: then it is a grey picture, but for two greys in the
   contrary order of their indices (other than white, black) and for a few indices 0, 1, 2 ... of greys that are other numbers.
3. Channels that differ are colors of classes (``color-mask``). Lossy formats may differ by a little.
4. Exactly two values, 0 and any other, are background and object; in lossy formats the other is at least 128. One value other
   than 0 is foreground throughout.
5. 16-bit and floating-point masks are scaled by the range of their mode.
6. More values are a foreground share if the largest reaches half of the range (``faint-mask``) and if they are no index
   (``index-mask``). An index has **plateaus**: areas of one value with abrupt borders. A soft mask has at most one, its foreground;
   its other values lie on edges, between two areas, or change little by little.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from PIL import Image, ImageChops, ImageFilter

from pipeline.data.rules import Rejected

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
FOREGROUND = 128
"""From this value on a pixel of a mask counts as foreground when its box is sought."""
LOSSY_CHANNELS = 12
"""How far channels of a grey picture may lie apart after lossy compression."""
NEAR, CRISP = 16, 8
"""A step of at most ``NEAR`` values is smooth. In a mask of at most ``CRISP`` values, stored without loss, no step is."""
EXTREME = 32
"""Noise of lossy compression at both ends of the range."""
FEW = 32
DARK = 2**13
"""A 16-bit picture that is darker throughout holds pictures of 8 or 12 bits: scaled by its mode it would be black."""
_STRIP = 2**22


class Plateau(NamedTuple):
    """What makes an area of one value, other than an edge."""

    min_flat: int
    """Pixels whose four neighbors have their value."""
    flat_share: float
    """Of all pixels of the value."""
    abrupt_share: float
    """Of its borders."""


EXACT = Plateau(min_flat=4, flat_share=0.25, abrupt_share=0.8)
LOSSY = Plateau(min_flat=64, flat_share=0.5, abrupt_share=0.2)
"""After compression: more than one block, and edges that ring (measured on JPEG of quality 15 to 95 and WebP)."""


class StoredMask(NamedTuple):
    """A mask as it was found."""

    weights: Image.Image
    """Mode L: 0 is background, 255 foreground."""
    recipe: str
    """Which rule it was read by."""


def read_weights(image: Image.Image, *, lossy: bool) -> StoredMask:
    """The foreground share of a decoded mask. Raises ``Rejected``."""
    if image.mode in DEEP_MODES:
        return _deep_mask(image)
    if image.has_transparency_data and image.mode not in ("1", "L"):  # one grey called transparent says nothing of a mask
        clear = image.convert("RGBA")
        alpha = clear.getchannel("A")
        if alpha.getextrema() == (0, 0):
            raise Rejected("empty-mask", "every pixel is transparent")
        if alpha.getextrema()[0] != alpha.getextrema()[1]:
            _check_one_color(clear, alpha)
            return _grey_mask(alpha, lossy=lossy, recipe="file-alpha")
        image = image if image.mode == "P" else clear.convert("RGB")
    if image.mode == "P":
        return _palette_mask(image)
    if image.mode in ("1", "L"):
        return _grey_mask(image.convert("L"), lossy=lossy)
    if image.mode not in ("RGB", "RGBX", "CMYK", "YCbCr"):
        raise Rejected("unsupported-mode", f"mode {image.mode} has no agreed meaning as a grey mask")
    return _grey_mask(_grey_channel(image.convert("RGB"), LOSSY_CHANNELS if lossy else 0), lossy=lossy)


def _check_one_color(clear: Image.Image, alpha: Image.Image) -> None:
    """A cut-out shows a picture, of many colors, or one flat color; a few flat colors are classes."""
    opaque = alpha.point([0] * 255 + [255], "1")
    shown = Image.new("RGB", clear.size)
    shown.paste(clear.convert("RGB"), mask=opaque)
    found = {color for _, color in shown.getcolors(18) or ()}
    if not _any_black(clear, opaque):
        found.discard((0, 0, 0))  # the canvas, and no opaque pixel
    if 2 <= len(found) <= 16:
        names = ", ".join(str(color) for color in sorted(found))
        raise Rejected("color-mask", f"its opaque pixels have {len(found)} colors, as for several classes: {names}")


def _any_black(clear: Image.Image, opaque: Image.Image) -> bool:
    lit = ImageChops.lighter(ImageChops.lighter(clear.getchannel("R"), clear.getchannel("G")), clear.getchannel("B"))
    dark = lit.point([255] + [0] * 255, "1")
    return ImageChops.logical_and(dark, opaque).getbbox() is not None


def _palette_mask(image: Image.Image) -> StoredMask:
    palette = image.getpalette("RGB") or []
    used = [index for index, count in enumerate(image.histogram()[:256]) if count]
    colors = {index: tuple(palette[3 * index : 3 * index + 3]) for index in used}
    shown = ", ".join(f"{index} {colors[index]}" for index in used[:FEW])
    greys = [colors[index][0] for index in used if len(set(colors[index])) == 1]
    if len(set(greys)) == len(used):
        _check_grey_palette(used, greys, shown)
        if len(used) != 2 or not 0 < greys[0] < greys[1]:
            return _grey_mask(image.convert("L"), lossy=False)
    if len(used) > 2 or (len(used) == 2 and used[0] != 0):
        raise Rejected("index-mask", f"palette indices {shown}: more than background (0) and one object")
    return _grey_mask(Image.fromarray(np.asarray(image)), lossy=False, recipe="file-index")


def _check_grey_palette(used: list[int], greys: list[int], shown: str) -> None:
    """Refuse a grey palette where index and color tell different things. White before black is how programs reduce a picture."""
    if len(used) == 2 and greys[0] > greys[1] and greys != [255, 0]:
        raise Rejected(
            "index-mask", f"palette indices {shown}: by the index the darker one is the object, by the colors the lighter"
        )
    if 2 < len(used) <= CRISP and used == list(range(len(used))) and greys != used:
        raise Rejected("index-mask", f"palette indices {shown}: more than background (0) and one object")


def _grey_channel(image: Image.Image, tolerance: int) -> Image.Image:
    """The one channel of a grey picture. Raises ``Rejected`` where channels differ by more than ``tolerance``."""
    red, green, blue = image.split()
    apart = max(int(np.flatnonzero(ImageChops.difference(red, other).histogram())[-1]) for other in (green, blue))
    if apart > tolerance:
        colors = sorted(image.getcolors(2**16) or [], reverse=True)
        shown = ", ".join(str(color) for _, color in colors[:6]) if colors else "more than 65,536"
        raise Rejected("color-mask", f"its channels differ, so it is no grey mask; colors, the commonest first: {shown}")
    return image.convert("L") if apart else green


def _grey_mask(grey: Image.Image, *, lossy: bool, recipe: str = "") -> StoredMask:
    """Rules 4 and 6 for 8 bits."""
    used = [value for value, count in enumerate(grey.histogram()) if count]
    if used == [0]:
        raise Rejected("empty-mask", "all pixels are 0")
    if len(used) == 1 or (len(used) == 2 and used[0] == 0):
        value = used[-1]
        if lossy and value < FOREGROUND:  # 0 and 1 in a JPEG: whole blocks are the one or the other
            raise Rejected("faint-mask", f"the largest value is {value} of 255, in a format that loses such differences")
        table = [0] * 256
        table[value] = 255
        plain = {1: "file-0-1", 255: "file-0-255"}.get(value, "file-two-values")
        return StoredMask(grey if value == 255 else grey.point(table), recipe or plain)
    _check_share(grey, used, 255, lossy=lossy)
    return StoredMask(grey, recipe or "file-0-255")


def _check_share(grey: Image.Image, values: list[int], full: int, *, lossy: bool) -> None:
    """Refuse what is no foreground share. ``values``: those in use, at the depth of the file, of 0 to ``full``."""
    shown = ", ".join(map(str, values[:FEW])) + (f" ... {values[-1]}" if len(values) > FEW else "")
    if values[-1] <= full // 2:
        if len(values) <= FEW and not lossy:
            raise Rejected("index-mask", f"values {shown}: more than background (0) and one object")
        raise Rejected("faint-mask", f"the largest value is {values[-1]} of {full}: neither a foreground share nor two values")
    if len(values) == 2 and not (values[0] < EXTREME * full // 255 and values[1] > full - EXTREME * full // 255):
        raise Rejected("index-mask", f"values {shown}: neither is 0, the background")
    if lossy:
        _check_lossy(grey, shown)
    noisy = lossy or len(values) > FEW
    crisp = len(values) <= CRISP and not lossy
    found = _plateaus(grey, fold=noisy, near=0 if crisp else NEAR)
    least, largest = values[0] * 255 // full, values[-1] * 255 // full
    background = least if least <= NEAR and not crisp else 0
    objects = [value for value in found if value > background]
    if len(objects) > 1 or any(value < largest - NEAR for value in objects):
        plateaus = ", ".join(map(str, objects))
        raise Rejected("index-mask", f"values {shown}: areas of one value with abrupt borders ({plateaus}) are an index")


def _check_lossy(grey: Image.Image, shown: str) -> None:
    """Refuse areas that are neither black nor white. Compression spreads values: those of a step of 16 are one."""
    calm = grey.filter(ImageFilter.MedianFilter(3))
    found = [
        value for shift in (0, NEAR // 2) for value in _plateaus(calm, fold=True, near=NEAR, kind=LOSSY, step=NEAR, shift=shift)
    ]
    middle = sorted({value for value in found if 0 < value < 255})
    if middle:
        rule = "faint-mask" if max(found) - middle[0] <= NEAR else "index-mask"
        areas = ", ".join(map(str, middle))
        raise Rejected(rule, f"values {shown}: areas of about {areas} of 255 with abrupt borders are no foreground share")


def _plateaus(grey: Image.Image, *, fold: bool, near: int, kind: Plateau = EXACT, step: int = 1, shift: int = 0) -> list[int]:
    """The values that stand in areas with abrupt borders, steps over ``near``. ``fold``: those near both ends are the ends. Values
    are told apart by steps of ``step``, from ``shift`` on."""
    count, flat, borders, abrupt = (np.zeros(256, dtype=np.int64) for _ in range(4))
    table = ((np.arange(256) + shift) // step * step - shift + step // 2).clip(0, 255).astype(np.uint8)
    if fold:
        table[:EXTREME], table[-EXTREME:] = 0, 255
    for strip in _strips(grey, overlap=1):
        values = table[strip]
        count += _counts(values)
        flat += _counts(values[1:-1, 1:-1][_is_flat(values)])
        for one, other in ((values[:, 1:], values[:, :-1]), (values[1:], values[:-1])):
            apart = np.abs(one.astype(np.int16) - other)
            for where, into in ((apart > 0, borders), (apart > near, abrupt)):
                into += _counts(one[where]) + _counts(other[where])
    plateau = (flat >= np.maximum(kind.min_flat, kind.flat_share * count)) & (abrupt >= kind.abrupt_share * borders) & (borders > 0)
    return [int(value) for value in np.flatnonzero(plateau)]


def _is_flat(values: UInt8[np.ndarray, "height width"]) -> Bool[np.ndarray, "inner_height inner_width"]:
    inner = values[1:-1, 1:-1]
    flat: np.ndarray = (inner == values[:-2, 1:-1]) & (inner == values[2:, 1:-1])
    flat &= (inner == values[1:-1, :-2]) & (inner == values[1:-1, 2:])
    return flat


def _counts(values: UInt8[np.ndarray, "..."]) -> Int64[np.ndarray, "256"]:
    return np.bincount(values.ravel(), minlength=256).astype(np.int64)


def _strips(image: Image.Image, *, overlap: int = 0) -> Iterator[np.ndarray]:
    """Rows from top to bottom, a few at a time: a large mask is never copied whole."""
    rows = max(16, _STRIP // image.width)
    for start in range(0, image.height, rows):
        yield np.asarray(image.crop((0, max(start - overlap, 0), image.width, min(start + rows + overlap, image.height))))


def _deep_mask(image: Image.Image) -> StoredMask:
    """Rules 4 to 6 for 16, 32 and floating-point bits."""
    depth = "float" if image.mode == "F" else "16-bit"
    used = _some_values(image)
    if not np.isfinite(used).all():
        raise Rejected("unsupported-mode", f"mode {image.mode} with values that are no numbers")
    if used.tolist() == [0]:
        raise Rejected("empty-mask", "all pixels are 0")
    if len(used) == 1 or (len(used) == 2 and used[0] == 0):
        drawn = np.concatenate([(strip == used[-1]).astype(np.uint8) * 255 for strip in _strips(image)])
        return StoredMask(Image.fromarray(drawn), f"file-{depth}")
    grey = _eight_bits(image)
    least, most = float(used[0]), float(used[-1])
    if image.mode == "F" and most <= 0.5:
        raise Rejected("faint-mask", f"mode F whose largest value is {most:g} of 1")
    assert least >= 0
    values = sorted({int(value) for value in used}) if image.mode != "F" else sorted(set(np.asarray(grey).ravel().tolist()))
    _check_share(grey, values, 255 if image.mode == "F" else 65535, lossy=False)
    return StoredMask(grey, f"file-{depth}")


def _some_values(image: Image.Image) -> np.ndarray:
    """The values in use, ascending; where they are many, the least and the largest are among those returned."""
    found = np.empty(0)
    for strip in _strips(image):
        found = np.unique(np.concatenate([found, np.unique(strip).astype(np.float64)]))
        if len(found) > 4 * FEW:
            found = np.concatenate([found[: 2 * FEW], found[-1:]])
    return found


def check_deep_picture(image: Image.Image) -> None:
    """Of several channels of 16 bits Pillow keeps the upper 8. Raises ``Rejected`` where the lower ones are all that there is."""
    most = max(place % 256 for place, count in enumerate(image.convert("RGB").histogram()) if count)
    if most < DARK >> 8:
        what = f"mode {image.mode} of 16 bits a channel whose largest value is below {(most + 1) << 8} of 65535"
        raise Rejected("unsupported-mode", f"{what}: scaled by its range it would be black")


def check_deep_mask(image: Image.Image) -> None:
    """Of several channels of 16 bits only black and white can be told. Raises ``Rejected``."""
    used = {place % 256 for place, count in enumerate(image.histogram()) if count}
    if not {255} <= used <= {0, 255}:
        raise Rejected("unsupported-mode", f"mode {image.mode} of 16 bits a channel with values other than 0 and 65535")


def deep_picture(image: Image.Image) -> Image.Image:
    """A grey picture of 16 or more bits as 8 bits, scaled by the range of its mode. Raises ``Rejected``."""
    most = max(float(strip.max()) for strip in _strips(image))
    if image.mode != "F" and most < DARK:
        what = f"mode {image.mode} whose largest value is {most:g} of 65535"
        raise Rejected("unsupported-mode", f"{what}: scaled by its range it would be black")
    return _eight_bits(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """0 to 65535, or 0 to 1 for floating point, to 0 to 255. Raises ``Rejected`` for values beyond."""
    strips = []
    full = 1.0 if image.mode == "F" else 65535.0
    for strip in _strips(image):
        least, most = float(strip.min()), float(strip.max())
        if not (least >= 0 and most <= full):  # NaN is neither
            raise Rejected("unsupported-mode", f"mode {image.mode} with values from {least:g} to {most:g}, expected 0 to {full:g}")
        strips.append(np.rint(strip.astype(np.float64) * (255.0 / full)).astype(np.uint8))
    return Image.fromarray(np.concatenate(strips))
