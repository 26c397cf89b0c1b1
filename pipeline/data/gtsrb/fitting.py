"""Fitting the outline of a sign: plain from its ROI box, refined against the image.

How well both do against outlines drawn by hand, and how the constants were chosen: docs/gtsrb-masks.md.
"""

from statistics import NormalDist
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from pipeline.data.gtsrb.shapes import Outline, Shape, shape_of, unit_shape

Roi = tuple[int, int, int, int]
"""x1, y1, x2, y2 as the annotation files give them: pixel indices, the last column and row included."""

Color = Literal["red", "blue", "yellow"]
Params = Float64[np.ndarray, "candidates 5"]
"""Shift in x and y, log scale, log aspect, turn; each in units of its ``_spread``."""

# Gap between the ROI's outer edge and the plate: a constant in pixels and a share of the shorter side of the ROI.
MARGIN, MARGIN_SHARE = 0.5, 0.02

# Where a color begins and ends on the plate, as a share of the shorter side inwards of the outer edge.
RIM: dict[Shape, float] = {"circle": 0.028, "triangle": 0.033, "inverted-triangle": 0.031, "octagon": 0.06, "diamond": 0.157}
RING: dict[Shape, float] = {"circle": 0.147, "triangle": 0.1225, "inverted-triangle": 0.1225}
INWARD = 0.2
"""Pixels that blur moves those color edges further inwards, whatever the size of the sign."""

BLUR = 0.5
"""Standard deviation of the smoothing, pixels."""
REACH, REACH_SHARE = 0.7, 0.01
"""The image is compared this far on both sides of an edge: the larger of pixels and share of the shorter side."""
NUM_POINTS = 72
PRIOR_WEIGHT = 0.004
STEPS = (1.0, 0.5, 0.25)
START_SHIFTS, START_SCALES = (-2, -1, 0, 1, 2), (-1, 0, 1)
NUM_STARTS = 3
MAX_ROUNDS = 8
NUM_NODES, NODE_SPREAD, NUM_MEANS = 200, 0.7, 2
TEMPERATURE = 0.03
"""Scores that differ by this much differ by a factor e in weight when solutions are averaged."""
MIN_EVIDENCE = 0.25
"""Below this mean score per edge (1: every point on a perfect edge) the image shows no outline to follow."""


def plain_outline(roi: Roi, class_number: int) -> Outline:
    """The sign's shape, upright, filling the ROI box but for a margin."""
    x1, y1, x2, y2 = roi
    width, height = x2 + 1 - x1, y2 + 1 - y1
    margin = min(MARGIN + MARGIN_SHARE * min(width, height), 0.25 * min(width, height))
    return Outline(
        shape=shape_of(class_number), x=x1 + width / 2, y=y1 + height / 2, width=width - 2 * margin, height=height - 2 * margin
    )


def refined_outline(image: UInt8[np.ndarray, "height width 3"], roi: Roi, class_number: int) -> Outline | None:
    """Move, scale, stretch and turn the plain outline to where the image has the sign's edges; None where it shows none.

    Maximises, over five parameters with a Gaussian prior around the plain outline: the contrast across the outer edge in any
    color, plus the fall of the sign's own color (red, blue, yellow) at its known distance inside the edge, plus, for signs with a
    red ring, its rise at the ring's inner edge. Pattern search from the three best points of a coarse grid; no randomness.
    """
    plain = plain_outline(roi, class_number)
    evidence = _Evidence(image, roi, plain, class_number)
    score, params = evidence.climb()
    return None if score < MIN_EVIDENCE * len(evidence.edges) else evidence.outline(params)


def _color_of(class_number: int) -> Color | None:
    """The chromatic color that ends near the sign's edge; None for the white signs with grey bars."""
    if class_number in (6, 32, 41, 42):
        return None
    if class_number == 12:
        return "yellow"
    return "blue" if 33 <= class_number <= 40 else "red"


class _Evidence:
    """What the image says for an outline, for many candidates at once."""

    def __init__(self, image: UInt8[np.ndarray, "height width 3"], roi: Roi, plain: Outline, class_number: int) -> None:
        self.plain = plain
        self.side = min(plain.width, plain.height)
        self.reach = max(REACH, REACH_SHARE * self.side)
        self.color = _color_of(class_number)
        self.features = _features(image, roi, self.color)
        self.unit = unit_shape(plain.shape, NUM_POINTS) * (plain.width, plain.height)
        along = np.roll(self.unit, -1, axis=0) - np.roll(self.unit, 1, axis=0)
        self.normals = np.stack([along[:, 1], -along[:, 0]], axis=1)
        # Each edge: how far inside the outline in pixels, and whether the color falls (+1) or rises (-1) outwards there.
        self.edges = [(0.0, 0.0)]
        if self.color is not None:
            self.edges.append((RIM[plain.shape] * self.side + INWARD, 1.0))
        # Around a white field: neither the stop sign nor no-entry, which are red throughout.
        if self.color == "red" and class_number not in (14, 17):
            self.edges.append((RING[plain.shape] * self.side + INWARD, -1.0))
        shift = 0.8 + 0.015 * self.side
        turn = 0.0 if plain.shape == "circle" else 0.06
        self.spread = np.array([shift, shift, 0.05, 0.04, turn])
        self.moves = _moves(turns=turn > 0)

    def climb(self) -> tuple[float, Float64[np.ndarray, "5"]]:
        """Pattern search: the best score found and its parameters."""
        grid = np.array([(x, y, scale, 0, 0) for x in START_SHIFTS for y in START_SHIFTS for scale in START_SCALES], dtype=float)
        best = grid[np.argsort(-self.score(grid), kind="stable")[:NUM_STARTS]]
        scores = self.score(best)
        for step in STEPS:
            for _ in range(MAX_ROUNDS):
                trials = best[:, None] + step * self.moves
                trial_scores = self.score(trials.reshape(-1, 5)).reshape(len(best), -1)
                chosen, rows = trial_scores.argmax(axis=1), np.arange(len(best))
                better = trial_scores[rows, chosen] > scores + 1e-6
                if not better.any():
                    break
                best = np.where(better[:, None], trials[rows, chosen], best)
                scores = np.where(better, trial_scores[rows, chosen], scores)
        winner = int(scores.argmax())
        return float(scores[winner]), self._averaged(best[winner])

    def _averaged(self, params: Float64[np.ndarray, "5"]) -> Float64[np.ndarray, "5"]:
        """The mean of the solutions around one, weighted by score: steadier than the single best of a rough function."""
        for _ in range(NUM_MEANS):
            trials = params + np.where(self.spread > 0, NODE_SPREAD * NODES, 0)
            scores = self.score(trials)
            params = np.average(trials, axis=0, weights=np.exp((scores - scores.max()) / TEMPERATURE))
        return np.asarray(params)

    def outline(self, params: Float64[np.ndarray, "5"]) -> Outline:
        x, y, scale, aspect, angle = params * self.spread
        return Outline(
            shape=self.plain.shape,
            x=float(self.plain.x + x),
            y=float(self.plain.y + y),
            width=float(self.plain.width * np.exp(scale + aspect / 2)),
            height=float(self.plain.height * np.exp(scale - aspect / 2)),
            angle=float(angle),
        )

    def score(self, params: Params) -> Float64[np.ndarray, " candidates"]:
        points, normals = self._place(params * self.spread)
        samples = [points + (side * self.reach - inside) * normals for inside, _ in self.edges for side in (-1, 1)]
        values = self._sample(np.stack(samples))
        falls = values[0::2] - values[1::2]  # edge, candidate, point, channel: inside minus outside
        contrast = np.sqrt((falls[0, ..., :3] ** 2).sum(axis=-1))
        total = _saturate(contrast).mean(axis=-1)
        for (_, sign), fall in zip(self.edges[1:], falls[1:, ..., 3], strict=True):
            total += _saturate(sign * fall).mean(axis=-1)
        return np.asarray(total - PRIOR_WEIGHT * (params**2).sum(axis=1), dtype=np.float64)

    def _place(
        self, offsets: Params
    ) -> tuple[Float64[np.ndarray, "candidates points 2"], Float64[np.ndarray, "candidates points 2"]]:
        """Outline points and outward unit normals of each candidate."""
        x, y, scale, aspect, angle = offsets.T
        stretch = np.exp(np.stack([scale + aspect / 2, scale - aspect / 2], axis=1))[:, None]
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.stack([np.stack([cosine, sine], axis=1), np.stack([-sine, cosine], axis=1)], axis=1)
        points = (self.unit * stretch) @ turn + np.stack([self.plain.x + x, self.plain.y + y], axis=1)[:, None]
        normals = (self.normals / stretch) @ turn  # a stretch turns normals the other way than tangents
        return points, normals / np.linalg.norm(normals, axis=-1, keepdims=True)

    def _sample(
        self, positions: Float64[np.ndarray, "lines candidates points 2"]
    ) -> Float32[np.ndarray, "lines candidates points 4"]:
        """Bilinear values of the features; beyond the image its border repeats."""
        flat = (positions.reshape(-1, positions.shape[2], 2) - 0.5).astype(np.float32)
        values = cv2.remap(self.features, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(values.reshape(*positions.shape[:3], 4))


def _moves(*, turns: bool) -> Float64[np.ndarray, "moves 5"]:
    """One parameter at a time, and one side of the box at a time (a shift together with a scale), both ways."""
    single = np.eye(5)[: 5 if turns else 4]
    sides = np.zeros((4, 5))
    sides[:, 2] = 0.7
    sides[[0, 1, 2, 3], [0, 0, 1, 1]] = (0.7, -0.7, 0.7, -0.7)
    return np.concatenate([single, -single, sides, -sides])


def _nodes(count: int) -> Float64[np.ndarray, "{count} 5"]:
    """Points spread evenly under a Gaussian: Roberts' generalised golden-ratio sequence, so no random numbers are drawn."""
    ratios = 1.1673039782614187 ** -np.arange(1.0, 6.0)  # the root of x^6 = x + 1
    even = (0.5 + np.outer(np.arange(count), ratios)) % 1
    return np.vectorize(NormalDist().inv_cdf)(np.clip(even, 1e-6, 1 - 1e-6))  # type: ignore[no-any-return]


NODES = _nodes(NUM_NODES)


def _saturate(difference: np.ndarray) -> np.ndarray:
    """From -1 to 1: a strong edge counts little more than a clear one, so that one bright patch decides nothing."""
    return np.asarray(difference / (1 + np.abs(difference)))


def _features(image: UInt8[np.ndarray, "height width 3"], roi: Roi, color: Color | None) -> Float32[np.ndarray, "height width 4"]:
    """Square-root RGB and the share of the sign's color, smoothed, each in units of its spread in the ROI."""
    linear = image.astype(np.float32) / 255
    red, green, blue = np.moveaxis(linear, -1, 0)
    share = {
        "red": red - 0.5 * (green + blue),
        "blue": blue - 0.5 * (red + green),
        "yellow": 0.5 * (red + green) - blue,
        None: np.zeros_like(red),
    }[color] / (red + green + blue + 0.06)
    features = cv2.GaussianBlur(np.dstack([np.sqrt(linear + 0.002), share]), (0, 0), BLUR, borderType=cv2.BORDER_REPLICATE)
    x1, y1, x2, y2 = roi
    inside = features[y1 : y2 + 1, x1 : x2 + 1]
    light, share_spread = max(float(inside[..., :3].std()), 0.03), max(float(inside[..., 3].std()), 0.02)
    return np.asarray(features / np.array([light, light, light, share_spread], dtype=np.float32))
