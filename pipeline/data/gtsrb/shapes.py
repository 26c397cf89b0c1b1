"""Which shape each of the 43 GTSRB classes has, and that shape as an outline.

Coordinates are continuous: pixel i covers [i, i + 1). Shapes are drawn in a unit box and stretched, so that a sign seen at an
angle keeps its straight edges and touches all four sides of its box.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

Shape = Literal["circle", "triangle", "inverted-triangle", "octagon", "diamond"]
SHAPES: tuple[Shape, ...] = ("circle", "triangle", "inverted-triangle", "octagon", "diamond")
NUM_CLASSES = 43

# Corner radius over side length of the plates, as German plates are made (VzKat); the stop sign has sharp corners.
TRIANGLE_CORNER = 0.06
DIAMOND_CORNER = 0.05


def shape_of(class_number: int) -> Shape:
    """The outline of a GTSRB class. Raises ValueError outside 0 to 42."""
    if not 0 <= class_number < NUM_CLASSES:
        raise ValueError(f"GTSRB has classes 0 to {NUM_CLASSES - 1}, not {class_number}")
    if class_number in (12, 13, 14):
        return {12: "diamond", 13: "inverted-triangle", 14: "octagon"}[class_number]  # type: ignore[return-value]
    return "triangle" if class_number == 11 or 18 <= class_number <= 31 else "circle"


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A shape placed in an image: center and size of its upright box in pixels, turned about the center."""

    shape: Shape
    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0
    """Radians, clockwise as seen (the y axis points down)."""

    def points(self) -> Float64[np.ndarray, "points 2"]:
        """About a hundred points around the outline, evenly spaced by turn of the eye; x to the right, y down."""
        unit = unit_shape(self.shape, 96) * (self.width, self.height)
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        turned = unit @ np.array([[cosine, sine], [-sine, cosine]]) + (self.x, self.y)
        return np.asarray(turned)


def unit_shape(shape: Shape, num_points: int) -> Float64[np.ndarray, "points 2"]:
    """The shape with bounding box [-0.5, 0.5] in x and y, as a closed polygon without repeated end point."""
    if shape == "circle":
        turn = np.arange(num_points) * (2 * np.pi / num_points)
        return np.asarray(0.5 * np.stack([np.cos(turn), np.sin(turn)], axis=1))
    corners, radius = _regular(shape)
    points = _densify(_round_corners(corners, radius), num_points)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - low) / (high - low) - 0.5)


def _regular(shape: Shape) -> tuple[Float64[np.ndarray, "corners 2"], float]:
    """Corners of the regular polygon and the radius that its corners are rounded with."""
    num_corners, start, share = {
        "triangle": (3, -np.pi / 2, TRIANGLE_CORNER),
        "inverted-triangle": (3, np.pi / 2, TRIANGLE_CORNER),
        "diamond": (4, 0.0, DIAMOND_CORNER),
        "octagon": (8, np.pi / 8, 0.0),
    }[shape]
    turn = start + np.arange(num_corners) * (2 * np.pi / num_corners)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1), share * 2 * np.sin(np.pi / num_corners)


def _round_corners(corners: Float64[np.ndarray, "corners 2"], radius: float) -> Float64[np.ndarray, "points 2"]:
    """Replace each corner of a regular polygon about the origin by an arc of the radius, tangent to both edges."""
    if radius == 0:
        return corners
    half_turn = np.pi / len(corners)
    centers = corners * (1 - radius / np.cos(half_turn) / np.linalg.norm(corners[0]))
    arcs = []
    for corner, center in zip(corners, centers, strict=True):
        turn = np.arctan2(corner[1], corner[0]) + np.linspace(-half_turn, half_turn, 7)
        arcs.append(center + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1))
    return np.concatenate(arcs)


def _densify(polygon: Float64[np.ndarray, "corners 2"], num_points: int) -> Float64[np.ndarray, "points 2"]:
    """Add points on the edges, evenly by length, and keep every corner."""
    following = np.roll(polygon, -1, axis=0)
    lengths = np.linalg.norm(following - polygon, axis=1)
    pieces = np.maximum(1, np.round(lengths / lengths.sum() * num_points)).astype(int)
    steps = [
        start + (stop - start) * (np.arange(count) / count)[:, None]
        for start, stop, count in zip(polygon, following, pieces, strict=True)
    ]
    return np.concatenate(steps)
