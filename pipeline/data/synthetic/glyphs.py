"""The figures of the synthetic set: convex silhouettes of unit area, stroke glyphs, color styles, and how they are painted.

Coordinates are x to the right and y downwards; pixel (row, column) covers [column, column + 1] x [row, row + 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Color = tuple[int, int, int]
"""RGB, 0 to 255."""
Points = Float[np.ndarray, "points 2"]
Canvas = UInt8[np.ndarray, "size size 3"]

SUPERSAMPLING = 4
"""Canvas pixels per image pixel, along each axis, where signs are painted."""
_SHIFT = 6  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True, kw_only=True)
class Silhouette:
    """A convex outline of area 1, moved so that its largest inscribed circle is centred on the origin."""

    outline: Points
    inner_radius: float
    """Radius of that circle."""


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A thick polyline with round ends, in the unit circle."""

    points: Points
    width: float
    closed: bool = False


@dataclass(frozen=True, kw_only=True)
class Style:
    """Colors of a sign; fill and glyph always differ strongly in brightness."""

    rim: Color
    fill: Color
    glyph: Color


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a figure lies: origin (pixels), length of the figure's unit (pixels), turn (degrees, clockwise as seen)."""

    x: float
    y: float
    unit: float
    turn: float

    def place(self, points: Points) -> Points:
        """Figure coordinates to pixels."""
        cosine, sine = np.cos(np.radians(self.turn)) * self.unit, np.sin(np.radians(self.turn)) * self.unit
        placed: np.ndarray = points @ np.array([[cosine, sine], [-sine, cosine]])
        placed += (self.x, self.y)
        return placed


def area(outline: Points) -> float:
    """Area of a simple polygon by the shoelace formula, in squared units of its points."""
    x, y = outline.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def fill(canvas: Canvas, outline: Points, color: Color, *, scale: int) -> None:
    """Fill a convex outline; ``scale`` is canvas pixels per unit of the outline's coordinates."""
    cv2.fillConvexPoly(canvas, _fixed_point(outline, scale), color, cv2.LINE_8, _SHIFT)


def draw(canvas: Canvas, points: Points, color: Color, *, width: float, closed: bool, scale: int) -> None:
    """Draw a polyline of ``width``, at least one canvas pixel; ``scale`` as in ``fill``."""
    cv2.polylines(canvas, [_fixed_point(points, scale)], closed, color, max(1, round(width * scale)), cv2.LINE_8, _SHIFT)


def draw_glyph(canvas: Canvas, name: str, pose: Pose, color: Color, *, scale: int) -> None:
    """Draw a glyph of ``GLYPHS``; the pose's unit is the radius of the circle that holds it."""
    for stroke in GLYPHS[name]:
        draw(canvas, pose.place(stroke.points), color, width=stroke.width * pose.unit, closed=stroke.closed, scale=scale)


def paint_sign(silhouette: str, glyph: str, style: Style, pose: Pose, *, rim: float, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Colors of a sign, to be laid over a background with ``coverage`` of its outline as opacity.

    The rim's color reaches beyond the outline, so that no other color bleeds into edge pixels. The pose's unit is the
    square root of the sign's area; ``rim`` is the rim's width in inner radii of the silhouette.
    """
    figure = SILHOUETTES[silhouette]
    canvas = np.empty((side * SUPERSAMPLING, side * SUPERSAMPLING, 3), np.uint8)
    canvas[:] = style.rim
    fill(canvas, pose.place(figure.outline * (1 - rim)), style.fill, scale=SUPERSAMPLING)
    held = Pose(x=pose.x, y=pose.y, unit=pose.unit * figure.inner_radius * (1 - rim) * 0.95, turn=pose.turn)
    draw_glyph(canvas, glyph, held, style.glyph, scale=SUPERSAMPLING)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)


def _fixed_point(points: Points, scale: int) -> np.ndarray:
    # OpenCV counts from pixel centers, we count from pixel corners.
    return np.rint((points * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _regular(corners: int, first: float) -> Points:
    angles = np.radians(first + 360 / corners * np.arange(corners))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _silhouette(points: Points) -> Silhouette:
    """Scale a mirror-symmetric outline to area 1 and center it on its largest inscribed circle."""
    points = points / np.sqrt(area(points))
    edges = np.roll(points, -1, axis=0) - points
    normals = np.stack([-edges[:, 1], edges[:, 0]], axis=1) / np.linalg.norm(edges, axis=1, keepdims=True)
    if np.dot(normals[0], points.mean(axis=0) - points[0]) < 0:
        normals = -normals
    # Mirror symmetry puts the circle's center on the vertical axis, where the distance to the nearest edge is concave.
    heights = np.linspace(points[:, 1].min(), points[:, 1].max(), 2001)
    centers = np.stack([np.zeros_like(heights), heights], axis=1)
    radii = ((centers[:, None] - points) * normals).sum(axis=2).min(axis=1)
    best = int(radii.argmax())
    return Silhouette(outline=points - centers[best], inner_radius=float(radii[best]))


def _arch() -> Points:
    angles = np.radians(np.linspace(180, 360, 25))
    return np.concatenate([np.stack([np.cos(angles), np.sin(angles)], axis=1), [[1.0, 1.2], [-1.0, 1.2]]])


SILHOUETTES: Mapping[str, Silhouette] = {
    "circle": _silhouette(_regular(96, 0.0)),
    "triangle": _silhouette(_regular(3, -90.0)),
    "inverted-triangle": _silhouette(_regular(3, 90.0)),
    "square": _silhouette(_regular(4, 45.0)),
    "diamond": _silhouette(_regular(4, 0.0)),
    "octagon": _silhouette(_regular(8, 22.5)),
    "arch": _silhouette(_arch()),
    "shield": _silhouette(np.array([[-0.9, -1], [0.9, -1], [0.9, 0.25], [0, 1.15], [-0.9, 0.25]])),
    "rectangle": _silhouette(np.array([[-1.5, -1.0], [1.5, -1.0], [1.5, 1.0], [-1.5, 1.0]])),
    "trapezoid": _silhouette(np.array([[-0.65, -1], [0.65, -1], [1.25, 1], [-1.25, 1]])),
}
"""Ten outlines that stay apart when turned by up to 20 degrees."""


def _line(*points: tuple[float, float], width: float = 0.36, closed: bool = False) -> Stroke:
    return Stroke(points=np.array(points), width=width, closed=closed)


def _dot(x: float, y: float, width: float) -> Stroke:
    return _line((x, y), (x, y), width=width)


def _arrow(quarter_turns: int) -> tuple[Stroke, ...]:
    turn = np.linalg.matrix_power(np.array([[0.0, 1.0], [-1.0, 0.0]]), quarter_turns)
    shaft, head = np.array([[0.0, 0.8], [0.0, -0.7]]) @ turn, np.array([[-0.62, -0.1], [0.0, -0.75], [0.62, -0.1]]) @ turn
    return Stroke(points=shaft, width=0.36), Stroke(points=head, width=0.36)


GLYPHS: Mapping[str, tuple[Stroke, ...]] = {
    "bar": (_line((-0.7, 0.0), (0.7, 0.0), width=0.5),),
    "arrow-up": _arrow(0),
    "cross": (_line((-0.6, -0.6), (0.6, 0.6)), _line((-0.6, 0.6), (0.6, -0.6))),
    "dot": (_dot(0.0, 0.0, 1.0),),
    "arrow-right": _arrow(1),
    "columns": (_line((-0.42, -0.65), (-0.42, 0.65)), _line((0.42, -0.65), (0.42, 0.65))),
    "ring": (Stroke(points=_regular(24, 0.0) * 0.68, width=0.34, closed=True),),
    "seven": (_line((-0.5, -0.7), (0.55, -0.7), (-0.15, 0.8)),),
    "arrow-left": _arrow(3),
    "zigzag": (_line((-0.75, 0.45), (-0.25, -0.45), (0.25, 0.45), (0.75, -0.45), width=0.32),),
    "plus": (_line((-0.75, 0.0), (0.75, 0.0)), _line((0.0, -0.75), (0.0, 0.75))),
    "arrow-down": _arrow(2),
    "dots": (_dot(0.0, -0.5, 0.6), _dot(-0.5, 0.42, 0.6), _dot(0.5, 0.42, 0.6)),
    "bars": (_line((-0.65, -0.42), (0.65, -0.42)), _line((-0.65, 0.42), (0.65, 0.42))),
    "slash": (_line((-0.55, 0.55), (0.55, -0.55), width=0.4),),
    "four": (_line((0.25, 0.8), (0.25, -0.75), (-0.6, 0.25), (0.7, 0.25), width=0.3),),
    "backslash": (_line((-0.55, -0.55), (0.55, 0.55), width=0.4),),
    "tee": (_line((-0.7, -0.6), (0.7, -0.6)), _line((0.0, -0.6), (0.0, 0.8))),
    "hook": (_line((-0.5, 0.75), (-0.5, -0.3), (-0.3, -0.65), (0.3, -0.65), (0.5, -0.3), (0.5, 0.3)),),
    "hourglass": (_line((-0.55, -0.7), (0.55, -0.7), (-0.55, 0.7), (0.55, 0.7), width=0.26, closed=True),),
}
"""What decides the class. The first ``num_classes`` are used; they stay apart when turned by up to 20 degrees."""

_BLACK, _WHITE, _RED, _BLUE, _GREEN = (20, 20, 24), (240, 240, 238), (200, 28, 36), (30, 70, 180), (24, 120, 70)
STYLES: tuple[Style, ...] = (
    Style(rim=_RED, fill=_WHITE, glyph=_BLACK),
    Style(rim=_RED, fill=(246, 208, 40), glyph=_BLACK),
    Style(rim=_WHITE, fill=_RED, glyph=_WHITE),
    Style(rim=_WHITE, fill=_BLUE, glyph=_WHITE),
    Style(rim=_BLUE, fill=_WHITE, glyph=_BLUE),
    Style(rim=_WHITE, fill=_GREEN, glyph=_WHITE),
    Style(rim=_BLACK, fill=(246, 190, 40), glyph=_BLACK),
    Style(rim=_BLACK, fill=_WHITE, glyph=_BLACK),
)
"""Drawn independently of the class: colors never give it away."""
