"""The fifteen common corruptions of Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, at five severities.

Not an attack: nobody chooses the worst noise, and accuracy under it is no bound on anything. The parameters are those that the
authors published for 64 pixels (Tiny ImageNet-C); lengths in pixels are scaled by the side over 64, all else stays. Everything
random follows from the image's seed, so every system meets the same corrupted images. Results are rounded to steps of 1/255.

Our own and not the authors' code, because the kept packages bring in numba, scikit-image and a second OpenCV. Where it differs:
motion blur and the streaks of snow are a kernel and not ImageMagick's; fog is a sum of octaves of smooth noise in place of the
diamond-square fractal, and rougher: its octaves weaken by the published factor, those of the fractal by its square; frost is drawn
(ridges of such noise, bluish white) in place of the authors' photographs; a disk that is smaller than a pixel still blurs; a pixel
of glass blur takes the value of a random neighbor (as in the authors' code, whose swap copies). Figures compare arms with each
other and not with a leaderboard.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from jaxtyping import Float

from pipeline.attacks.measurement import Condition
from pipeline.attacks.measurements import Corruption, Corruptions
from pipeline.attacks.measuring import MeasuredBatch, Observation, observed
from pipeline.shapes import Images, Masks, Seeds

_SIDE = 64  # of the images that the parameters were published for
_ICE = np.array([0.86, 0.93, 1.0])


Picture = Float[np.ndarray, "height width channels"]
"""In [0,1]."""
Effect = Callable[..., Picture]
"""(picture, *parameters, scale, rng) to the corrupted picture, before clipping; ``scale`` is the side over 64."""


def corrupt(corruption: Corruption, severity: int, images: Images, masks: Masks, seeds: Seeds) -> tuple[Images, Masks]:
    """Corrupted images, and the masks of their objects: only the elastic one moves the object, and its mask with it.

    Raises ValueError for a severity that is none of 1 to 5.
    """
    if severity not in range(1, 6):
        raise ValueError(f"severities are 1 to 5, not {severity}")
    changed, moved = [], []
    for image, mask, seed in zip(images, masks, seeds.tolist(), strict=True):
        picture = np.concatenate([image.cpu().numpy(), mask.cpu().numpy()]).transpose(1, 2, 0).astype(np.float64)
        rng = np.random.default_rng([seed % 2**64, list(Corruption).index(corruption), severity])
        result = _corrupted(corruption, severity, picture, rng)
        changed.append(torch.from_numpy(np.rint(result[:, :, :3] * 255).astype(np.uint8)).permute(2, 0, 1))
        moved.append(torch.from_numpy(result[:, :, 3:]).permute(2, 0, 1))
    if not changed:
        return images, masks
    return torch.stack(changed).to(images) / 255, torch.stack(moved).to(masks)


def observe_corrupted(_spec: Corruptions, batch: MeasuredBatch, condition: Condition) -> Observation:
    """What the system says of the corrupted images, or of the clean ones at level 0."""
    if condition.level == 0:
        return observed(batch, batch.images)
    images, masks = corrupt(Corruption(condition.name), int(condition.level), batch.images, batch.masks, batch.seeds)
    return observed(batch, images, masks=masks)


def _corrupted(corruption: Corruption, severity: int, picture: Picture, rng: np.random.Generator) -> Picture:
    """Image and mask, as four channels."""
    effect, parameters = _EFFECTS[corruption]
    chosen = parameters[severity - 1]
    chosen = chosen if isinstance(chosen, tuple) else (chosen,)
    scale = min(picture.shape[:2]) / _SIDE
    if corruption == Corruption.ELASTIC:
        return np.clip(effect(picture, *chosen, scale=scale, rng=rng), 0, 1)
    changed = effect(picture[:, :, :3], *chosen, scale=scale, rng=rng)
    return np.concatenate([np.clip(changed, 0, 1), picture[:, :, 3:]], axis=2)


def _gaussian_noise(picture: Picture, deviation: float, *, rng: np.random.Generator, **_: object) -> Picture:
    return np.asarray(picture + rng.normal(0, deviation, picture.shape))


def _shot_noise(picture: Picture, photons: float, *, rng: np.random.Generator, **_: object) -> Picture:
    return np.asarray(rng.poisson(picture * photons) / photons)


def _impulse_noise(picture: Picture, share: float, *, rng: np.random.Generator, **_: object) -> Picture:
    salt = rng.random(picture.shape) < 0.5
    return np.where(rng.random(picture.shape) < share, salt.astype(np.float64), picture)


def _defocus_blur(picture: Picture, radius: float, *, scale: float, **_: object) -> Picture:
    return _filtered(picture, _disk(radius * scale))


def _glass_blur(picture: Picture, sigma: float, distance: int, repeats: int, *, scale: float, rng: np.random.Generator) -> Picture:
    blurred = _gaussian(picture, sigma * scale)
    reach = max(1, round(distance * scale))
    height, width = blurred.shape[:2]
    for _ in range(repeats):
        rows, columns = np.mgrid[:height, :width] + rng.integers(-reach, reach, (2, height, width))
        blurred = blurred[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return _gaussian(blurred, sigma * scale)


def _motion_blur(picture: Picture, radius: float, sigma: float, *, scale: float, rng: np.random.Generator) -> Picture:
    return _filtered(picture, _streak(radius * scale, sigma * scale, rng.uniform(-45, 45)))


def _zoom_blur(picture: Picture, largest: float, **_: object) -> Picture:
    factors = 1 + 0.01 * np.arange(round((largest - 1) / 0.01))
    return np.asarray((picture + sum(_zoomed(picture, factor) for factor in factors)) / (len(factors) + 1))


def _snow(picture: Picture, *parameters: float, scale: float, rng: np.random.Generator) -> Picture:
    mean, deviation, zoom, threshold, radius, sigma, kept = parameters
    flakes = _zoomed(rng.normal(mean, deviation, picture.shape[:2])[..., None], zoom * max(1.0, scale))
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _filtered(flakes, _streak(radius * scale, sigma * scale, rng.uniform(-135, -45)))
    grey = picture @ np.array([0.299, 0.587, 0.114])
    whitened = kept * picture + (1 - kept) * np.maximum(picture, (1.5 * grey + 0.5)[..., None])
    return np.asarray(whitened + flakes + np.rot90(flakes, 2))


def _frost(picture: Picture, kept: float, ice: float, *, rng: np.random.Generator, **_: object) -> Picture:
    ridges = 1 - np.abs(2 * _clouds(picture.shape[:2], 1.7, rng) - 1)
    return np.asarray(kept * picture + ice * (0.25 + 0.75 * ridges[..., None] ** 2) * _ICE)


def _fog(picture: Picture, thickness: float, decay: float, *, rng: np.random.Generator, **_: object) -> Picture:
    brightest = picture.max()
    foggy = picture + thickness * _clouds(picture.shape[:2], decay, rng)[..., None]
    return np.asarray(foggy * brightest / (brightest + thickness))


def _brightness(picture: Picture, more: float, **_: object) -> Picture:
    """The value of HSV is raised, hue and saturation stay."""
    value = picture.max(axis=2, keepdims=True)
    brighter = np.minimum(value + more, 1)
    return np.asarray(np.where(value > 0, picture * brighter / np.maximum(value, 1e-12), brighter))


def _contrast(picture: Picture, kept: float, **_: object) -> Picture:
    means = picture.mean(axis=(0, 1))
    return np.asarray((picture - means) * kept + means)


def _elastic(picture: Picture, strength: float, sigma: float, affine: float, *, scale: float, rng: np.random.Generator) -> Picture:
    """A random affine map, then smooth random displacements; all three lengths are shares of the side."""
    side = scale * _SIDE
    height, width = picture.shape[:2]
    center, third = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = np.array([center + third, center + np.array([third, -third]), center - third], dtype=np.float32)
    moved = corners + rng.uniform(-affine * side, affine * side, corners.shape).astype(np.float32)
    warped = cv2.warpAffine(picture, cv2.getAffineTransform(corners, moved), (width, height), borderMode=cv2.BORDER_REFLECT_101)
    shifts = [_gaussian(rng.uniform(-1, 1, (height, width, 1)), sigma * side)[..., 0] * strength * side for _ in range(2)]
    rows, columns = np.mgrid[:height, :width]
    map_x, map_y = (columns + shifts[0]).astype(np.float32), (rows + shifts[1]).astype(np.float32)
    return np.asarray(cv2.remap(warped, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def _pixelate(picture: Picture, share: float, **_: object) -> Picture:
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(1, int(width * share)), max(1, int(height * share))), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _jpeg(picture: Picture, quality: int, **_: object) -> Picture:
    pixels = np.ascontiguousarray(np.rint(picture[:, :, ::-1] * 255).astype(np.uint8))
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.float64)[:, :, ::-1] / 255


_EFFECTS: dict[Corruption, tuple[Effect, tuple[float | tuple[float, ...], ...]]] = {
    Corruption.GAUSSIAN_NOISE: (_gaussian_noise, (0.04, 0.08, 0.12, 0.15, 0.18)),
    Corruption.SHOT_NOISE: (_shot_noise, (250, 100, 50, 30, 15)),
    Corruption.IMPULSE_NOISE: (_impulse_noise, (0.01, 0.02, 0.05, 0.08, 0.14)),
    Corruption.DEFOCUS_BLUR: (_defocus_blur, (0.5, 1, 1.5, 2.5, 3)),
    Corruption.GLASS_BLUR: (_glass_blur, ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2))),
    Corruption.MOTION_BLUR: (_motion_blur, ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3))),
    Corruption.ZOOM_BLUR: (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    Corruption.SNOW: (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
    ),
    Corruption.FROST: (_frost, ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55))),
    Corruption.FOG: (_fog, ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75))),
    Corruption.BRIGHTNESS: (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    Corruption.CONTRAST: (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    Corruption.ELASTIC: (_elastic, ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02))),
    Corruption.PIXELATE: (_pixelate, (0.9, 0.8, 0.7, 0.6, 0.5)),
    Corruption.JPEG: (_jpeg, (65, 58, 50, 40, 25)),
}
"""What each does, and with which parameters at each severity."""


def _filtered(picture: Picture, kernel: np.ndarray) -> Picture:
    return np.asarray(cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REFLECT_101)).reshape(picture.shape)


def _gaussian(picture: Picture, sigma: float) -> Picture:
    if sigma == 0:
        return picture
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)).reshape(picture.shape)


def _disk(radius: float) -> np.ndarray:
    """A kernel of equal weights within the radius, of sum 1."""
    line = np.linspace(-radius, radius, 16 * math.ceil(radius) + 1)
    x, y = (axis.ravel() for axis in np.meshgrid(line, line))
    return _kernel(x, y, (x**2 + y**2 <= radius**2).astype(np.float64))


def _streak(radius: float, sigma: float, degrees: float) -> np.ndarray:
    """A kernel along a line from the center, with a Gaussian fall-off, of sum 1."""
    along = np.linspace(0, radius, 8 * math.ceil(radius) + 1)
    angle = math.radians(degrees)
    return _kernel(along * math.cos(angle), along * math.sin(angle), np.exp(-0.5 * (along / sigma) ** 2))


def _kernel(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Points around the center as a kernel of odd size: each is shared among the four pixels around it."""
    reach = math.ceil(max(np.abs(x).max(), np.abs(y).max())) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    columns, rows = np.floor(x).astype(int), np.floor(y).astype(int)
    for row, row_share in ((rows, 1 - (y - rows)), (rows + 1, y - rows)):
        for column, column_share in ((columns, 1 - (x - columns)), (columns + 1, x - columns)):
            np.add.at(kernel, (row + reach, column + reach), weights * row_share * column_share)
    return np.asarray(kernel / kernel.sum())


def _zoomed(picture: Picture, factor: float) -> Picture:
    """The middle of the picture, magnified to its size."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, factor)
    zoomed = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(zoomed).reshape(picture.shape)


def _clouds(shape: tuple[int, ...], decay: float, rng: np.random.Generator) -> Float[np.ndarray, "height width"]:
    """Octaves of smooth noise, each half as wide as the last and weaker by ``decay``, in [0,1]."""
    height, width = shape
    total, weight, cells = np.zeros((height, width)), 1.0, 2
    while cells <= max(height, width):
        total += weight * cv2.resize(rng.uniform(-1, 1, (cells, cells)), (width, height), interpolation=cv2.INTER_CUBIC)
        weight, cells = weight / decay, 2 * cells
    total -= total.min()
    return np.asarray(total / total.max())
