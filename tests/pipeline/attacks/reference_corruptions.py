"""The fifteen corruptions a second time, by SciPy, Pillow, matplotlib and torch in place of OpenCV.

The parameters are the published ones of Tiny ImageNet-C (make_tinyimagenet_c.py of https://github.com/hendrycks/robustness), in the
authors' order; what ``pipeline.attacks.corruptions`` says it does otherwise is done otherwise here too. A kernel is never built: a
blur is the mean of the pictures moved to every point under it.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

PUBLISHED: dict[str, list] = {
    "gaussian-noise": [0.04, 0.08, 0.12, 0.15, 0.18],
    "shot-noise": [250, 100, 50, 30, 15],
    "impulse-noise": [0.01, 0.02, 0.05, 0.08, 0.14],
    "defocus-blur": [0.5, 1, 1.5, 2.5, 3],
    "glass-blur": [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
    "motion-blur": [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
    "zoom-blur": [1.06, 1.11, 1.16, 1.21, 1.26],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ],
    "frost": [(1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)],
    "fog": [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
    "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
    "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
    "elastic": [(0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)],
    "pixelate": [0.9, 0.8, 0.7, 0.6, 0.5],
    "jpeg": [65, 58, 50, 40, 25],
}


def reference(name: str, severity: int, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Image and mask, (H,W,4) in [0,1], corrupted."""
    parameters = PUBLISHED[name][severity - 1]
    parameters = parameters if isinstance(parameters, tuple) else (parameters,)
    effect: Callable[..., np.ndarray] = globals()["_" + name.replace("-", "_")]
    if name == "elastic":
        return effect(picture, rng, *parameters).clip(0, 1)
    return np.concatenate([effect(picture[:, :, :3], rng, *parameters).clip(0, 1), picture[:, :, 3:]], axis=2)


def _scale(picture: np.ndarray) -> float:
    return min(picture.shape[:2]) / 64


def _gaussian_noise(picture: np.ndarray, rng: np.random.Generator, deviation: float) -> np.ndarray:
    return picture + deviation * rng.standard_normal(picture.shape)


def _shot_noise(picture: np.ndarray, rng: np.random.Generator, photons: float) -> np.ndarray:
    return rng.poisson(photons * picture) / photons


def _impulse_noise(picture: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    white, hit = rng.random(picture.shape) < 0.5, rng.random(picture.shape) < share
    return np.where(hit & white, 1.0, np.where(hit, 0.0, picture))


def _defocus_blur(picture: np.ndarray, _: np.random.Generator, radius: float) -> np.ndarray:
    radius *= _scale(picture)
    line = np.linspace(-radius, radius, 16 * math.ceil(radius) + 1)
    points = [(y, x) for y in line for x in line if math.hypot(x, y) <= radius * (1 + 1e-12)]
    return _mean_of_moved(picture, points, [1.0] * len(points))


def _glass_blur(picture: np.ndarray, rng: np.random.Generator, sigma: float, distance: int, repeats: int) -> np.ndarray:
    scale = _scale(picture)
    reach = max(1, round(distance * scale))
    glass = _smoothed(picture, sigma * scale)
    for _ in range(repeats):
        moved = np.indices(picture.shape[:2]) + rng.integers(-reach, reach, (2, *picture.shape[:2]))
        glass = _looked_up(glass, moved, order=0, mode="nearest")
    return _smoothed(glass, sigma * scale)


def _motion_blur(picture: np.ndarray, rng: np.random.Generator, radius: float, sigma: float) -> np.ndarray:
    return _streaked(picture, radius, sigma, rng.uniform(-45, 45))


def _zoom_blur(picture: np.ndarray, _: np.random.Generator, largest: float) -> np.ndarray:
    zoomed = [_magnified(picture, percent / 100) for percent in range(100, round(100 * largest))]
    return np.mean([picture, *zoomed], axis=0)


def _snow(
    picture: np.ndarray,
    rng: np.random.Generator,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> np.ndarray:
    flakes = mean + deviation * rng.standard_normal(picture.shape[:2])
    flakes = _magnified(flakes[..., None], zoom * max(1, _scale(picture)))
    flakes = _streaked(flakes.clip(0, 1) * (flakes >= threshold), radius, sigma, rng.uniform(-135, -45), like=picture)
    luma = np.asarray(0.299 * picture[..., :1] + 0.587 * picture[..., 1:2] + 0.114 * picture[..., 2:])
    return kept * picture + (1 - kept) * np.maximum(picture, 1.5 * luma + 0.5) + flakes + flakes[::-1, ::-1]


def _frost(picture: np.ndarray, rng: np.random.Generator, kept: float, ice: float) -> np.ndarray:
    clouds = _clouds(picture, 1.7, rng)
    ridges = np.where(clouds < 0.5, 2 * clouds, 2 - 2 * clouds)
    return kept * picture + ice * (0.25 + 0.75 * ridges**2) * [0.86, 0.93, 1]


def _fog(picture: np.ndarray, rng: np.random.Generator, thickness: float, decay: float) -> np.ndarray:
    return (picture + thickness * _clouds(picture, decay, rng)) / (1 + thickness / picture.max())


def _brightness(picture: np.ndarray, _: np.random.Generator, more: float) -> np.ndarray:
    hsv = rgb_to_hsv(picture)
    hsv[..., 2] = (hsv[..., 2] + more).clip(0, 1)
    return hsv_to_rgb(hsv)


def _contrast(picture: np.ndarray, _: np.random.Generator, kept: float) -> np.ndarray:
    return kept * picture + (1 - kept) * picture.mean(axis=(0, 1))


def _elastic(picture: np.ndarray, rng: np.random.Generator, strength: float, sigma: float, affine: float) -> np.ndarray:
    height, width = picture.shape[:2]
    side, third = min(height, width), min(height, width) // 3
    ones, middle = np.ones((3, 1)), np.array([width // 2, height // 2])
    corners = middle + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-affine * side, affine * side, (3, 2))
    back = np.linalg.solve(np.hstack([moved, ones]), corners)  # from where a pixel went to where it was
    rows, columns = np.indices((height, width))
    was = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back
    warped = _looked_up(picture, was[..., ::-1].transpose(2, 0, 1))
    sideways, down = (strength * side * _smoothed(rng.uniform(-1, 1, (height, width, 1)), sigma * side)[..., 0] for _ in "xy")
    return _looked_up(warped, np.stack([rows + down, columns + sideways]))


def _pixelate(picture: np.ndarray, _: np.random.Generator, share: float) -> np.ndarray:
    for axis in (0, 1):
        full = picture.shape[axis]
        few = int(full * share)
        edges = np.arange(few + 1) * full / few
        ends = np.minimum(edges[1:, None], np.arange(1, full + 1)) - np.maximum(edges[:-1, None], np.arange(full))
        means = np.tensordot(ends.clip(0) * few / full, np.moveaxis(picture, axis, 0), axes=1)
        nearest = (2 * np.arange(full) + 1) * few // (2 * full)
        picture = np.moveaxis(means[nearest], 0, axis)
    return picture


def _jpeg(picture: np.ndarray, _: np.random.Generator, quality: int) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored)) / 255


def _streaked(picture: np.ndarray, radius: float, sigma: float, degrees: float, *, like: np.ndarray | None = None) -> np.ndarray:
    radius, sigma = (length * _scale(picture if like is None else like) for length in (radius, sigma))
    along = np.linspace(0, radius, 8 * math.ceil(radius) + 1)
    slope = np.deg2rad(degrees)
    points = [(far * np.sin(slope), far * np.cos(slope)) for far in along]
    return _mean_of_moved(picture, points, np.exp(-((along / sigma) ** 2) / 2))


def _mean_of_moved(picture: np.ndarray, points: list[tuple[float, float]], weights: list[float] | np.ndarray) -> np.ndarray:
    moved = (ndimage.shift(picture, (-y, -x, 0), order=1, mode="mirror") for y, x in points)
    return sum(weight * one for weight, one in zip(weights, moved, strict=True)) / sum(weights)


def _magnified(picture: np.ndarray, factor: float) -> np.ndarray:
    middle = (np.array(picture.shape) - 1) / 2
    scales = np.array([1 / factor, 1 / factor, 1])
    return ndimage.affine_transform(picture, scales, middle - scales * middle, order=1, mode="mirror")


def _smoothed(picture: np.ndarray, sigma: float) -> np.ndarray:
    if sigma == 0:
        return picture
    radius = (round(8 * sigma + 1) | 1) // 2  # where OpenCV cuts it off
    return ndimage.gaussian_filter(picture, (sigma, sigma, 0), mode="mirror", radius=(radius, radius, 0))


def _looked_up(picture: np.ndarray, places: np.ndarray, *, order: int = 1, mode: str = "mirror") -> np.ndarray:
    channels = [ndimage.map_coordinates(picture[..., one], places, order=order, mode=mode) for one in range(picture.shape[2])]
    return np.stack(channels, axis=-1)


def _clouds(picture: np.ndarray, decay: float, rng: np.random.Generator) -> np.ndarray:
    shape, total = picture.shape[:2], np.zeros(picture.shape[:2])
    for octave in range(int(math.log2(max(shape)))):
        cells = 2 ** (octave + 1)
        coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 1, cells, cells)))
        fine = torch.nn.functional.interpolate(coarse, size=shape, mode="bicubic", align_corners=False)
        total = total + fine[0, 0].numpy() / decay**octave
    return ((total - total.min()) / np.ptp(total))[..., None]
