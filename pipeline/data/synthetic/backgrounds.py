"""What lies behind the signs of the synthetic set: five kinds of texture, and distractors that resemble parts of signs."""

import colorsys
from collections.abc import Callable, Mapping
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.data.synthetic.glyphs import GLYPHS, SILHOUETTES, STYLES, Canvas, Pose, draw, draw_glyph, fill

SUPERSAMPLING = 2
"""Canvas pixels per image pixel, along each axis, where backgrounds are painted."""

Tone = Float32[np.ndarray, "size size"]
"""0 is the dark color of a background, 1 its light color; values outside are cut off."""


def paint_background(
    kind: str, hue: float, *, num_distractors: int, side: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "side side 3"]:
    """A cluttered background.

    ``kind`` is one of ``KINDS``; ``hue`` in [0, 1] (a color circle) is that of the texture. Distractors take the colors, outlines
    and glyphs of signs, whatever kind and hue are.
    """
    size = side * SUPERSAMPLING
    tone = KINDS[kind](size, generator) + _noise(size, 5, 0.12, generator) + _noise(size, size // 3, 0.08, generator)
    np.clip(tone, 0, 1, out=tone)
    dark, light = _colors(hue, generator)
    canvas: np.ndarray = (dark + tone[:, :, None] * (light - dark)).astype(np.uint8)
    for _ in range(num_distractors):
        _add_distractor(canvas, side, generator)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)


def _colors(hue: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    saturation, value, contrast, drift = generator.random(4)
    middle, spread = 0.35 + 0.3 * value, 0.12 + 0.18 * contrast
    colors = (
        colorsys.hsv_to_rgb((hue + sign * 0.04 * (drift - 0.5)) % 1, 0.3 + 0.4 * saturation, middle + sign * spread)
        for sign in (-1, 1)
    )
    dark, light = (np.array(color, np.float32) * 255 for color in colors)
    return dark, light


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(axis, axis)
    return x, y


def _noise(size: int, cells: int, strength: float, generator: np.random.Generator) -> Tone:
    coarse = generator.standard_normal((cells, cells), dtype=np.float32) * np.float32(strength)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)


def _along(size: int, degrees: float) -> Tone:
    """Coordinate along a direction, 0 in the middle, about -0.7 to 0.7."""
    x, y = _grid(size)
    angle = np.radians(degrees)
    along: np.ndarray = (x - 0.5) * np.float32(np.cos(angle)) + (y - 0.5) * np.float32(np.sin(angle))
    return along


def _gradient(size: int, generator: np.random.Generator) -> Tone:
    tone: np.ndarray = _along(size, generator.uniform(0, 360)) * np.float32(1.2) + np.float32(0.5)
    return tone


def _stripes(size: int, generator: np.random.Generator) -> Tone:
    turns = np.float32(2 * np.pi * generator.uniform(3, 8))
    wave: np.ndarray = np.sin(_along(size, generator.uniform(0, 180)) * turns + np.float32(generator.uniform(0, 6.3)))
    return wave * np.float32(1.5) + np.float32(0.5)


def _bricks(size: int, generator: np.random.Generator) -> Tone:
    x, y = _grid(size)
    rows, offset = generator.uniform(5, 9), generator.random(2)
    down = y * np.float32(rows) + np.float32(offset[0])
    row = down.astype(np.int32)
    across = x * np.float32(rows / 2) + np.float32(offset[1]) + row * np.float32(0.5)
    column = across.astype(np.int32)
    shades = generator.uniform(0.45, 1.0, (16, 16)).astype(np.float32)
    joint = (down - row < 0.18) | (across - column < 0.09)
    return np.where(joint, np.float32(0.05), shades[row % 16, column % 16])


def _blobs(size: int, generator: np.random.Generator) -> Tone:
    cells = int(generator.integers(4, 8))
    coarse = generator.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) * np.float32(1.5) + np.float32(0.5)


def _leaves(size: int, generator: np.random.Generator) -> Tone:
    canvas = np.full((size, size), 40, np.uint8)
    count = 28
    centers = generator.integers(0, size, (count, 2)).tolist()
    lengths = (generator.uniform(0.05, 0.13, count) * size).astype(int).tolist()
    angles, shades = generator.uniform(0, 180, count).tolist(), generator.integers(0, 256, count).tolist()
    for center, length, angle, shade in zip(centers, lengths, angles, shades, strict=True):
        cv2.ellipse(canvas, center, (length, length // 3 + 1), angle, 0, 360, shade, -1)
    return canvas.astype(np.float32) / np.float32(255)


KINDS: Mapping[str, Callable[[int, np.random.Generator], Tone]] = {
    "gradient": _gradient,
    "stripes": _stripes,
    "bricks": _bricks,
    "blobs": _blobs,
    "leaves": _leaves,
}


def _add_distractor(canvas: Canvas, side: int, generator: np.random.Generator) -> None:
    """One part of a sign: an outline with or without filling, a lone glyph, a pole, or an arc of a rim."""
    what, style, outline, glyph = (int(number) for number in generator.integers(0, (5, len(STYLES), len(SILHOUETTES), len(GLYPHS))))
    x, y, size, turn = generator.random(4).tolist()
    colors = STYLES[style]
    pose = Pose(x=x * side, y=y * side, unit=(0.1 + 0.14 * size) * side, turn=360 * turn)
    placed = pose.place(list(SILHOUETTES.values())[outline].outline)
    if what == 0:
        fill(canvas, placed, colors.rim, scale=SUPERSAMPLING)
        fill(canvas, pose.place(list(SILHOUETTES.values())[outline].outline * 0.7), colors.fill, scale=SUPERSAMPLING)
    elif what == 1:
        draw(canvas, placed, colors.rim, width=0.03 * side, closed=True, scale=SUPERSAMPLING)
    elif what == 2:
        draw_glyph(canvas, list(GLYPHS)[glyph], pose, colors.glyph, scale=SUPERSAMPLING)
    elif what == 3:
        pole = np.array([[-6.0, 0.0], [6.0, 0.0]])
        draw(canvas, pose.place(pole), colors.fill, width=pose.unit / 4, closed=False, scale=SUPERSAMPLING)
    else:
        arc = SILHOUETTES["circle"].outline[:24] * 3
        draw(canvas, pose.place(arc), colors.rim, width=0.05 * side, closed=False, scale=SUPERSAMPLING)
