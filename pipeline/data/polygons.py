"""Polygons as pixels. Coordinates are continuous: pixel i covers [i, i + 1)."""

import numpy as np
from jaxtyping import Float, Float32

SCANLINES = 16
"""Sub-scanlines per pixel row in ``coverage``."""


def coverage(polygon: Float[np.ndarray, "points 2"], *, width: int, height: int) -> Float32[np.ndarray, "height width"]:
    """Share of each pixel inside a simple polygon, 0 to 1: exact along x, ``SCANLINES`` sub-scanlines a pixel along y."""
    rows = (np.arange(height * SCANLINES) + 0.5) / SCANLINES
    right_edges = np.arange(1, width + 1)
    covered = np.zeros((rows.size, width))
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        first, last = np.searchsorted(rows, sorted((y0, y1)))
        if first == last:  # it crosses no row; its slope may be beyond all numbers
            continue
        crossing = x0 + (rows[first:last] - y0) * ((x1 - x0) / (y1 - y0))
        # Everything to the right of an edge counts, with the sign of its direction: what lies outside cancels.
        covered[first:last] += np.sign(y0 - y1) * np.clip(right_edges - crossing[:, None], 0, 1)
    share = np.abs(covered).reshape(height, SCANLINES, width).mean(axis=1)
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)
