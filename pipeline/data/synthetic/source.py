"""The embedded source: procedural traffic-sign-like figures with exact masks on cluttered backgrounds.

A class is a glyph. Colors say nothing about it; ``shape_leak`` decides what the silhouette says about it, and
``background_correlation`` what the background says about it in the training split.
"""

from dataclasses import asdict, dataclass
from functools import partial

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.data.config import SyntheticConfig
from pipeline.data.polygons import coverage
from pipeline.data.sample import Plan, Reject, Sample
from pipeline.data.splits import SPLITS, Split
from pipeline.data.synthetic.backgrounds import KINDS, paint_background
from pipeline.data.synthetic.glyphs import GLYPHS, SILHOUETTES, STYLES, Color, Points, Pose, Style, paint_sign
from pipeline.errors import ConfigError

VERSION = 1
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything about one image that is not texture."""

    label: int
    glyph: str
    silhouette: str
    pose: Pose
    rim: float
    """Width of the rim in inner radii of the silhouette."""
    style: Style
    background: str
    """One of ``backgrounds.KINDS``."""
    hue: float
    """Of the background, 0 to 1."""
    num_distractors: int
    brightness: float
    slope: tuple[float, float]
    """How much brighter it gets over one image width and height, as a share."""
    blur: float
    """Standard deviation, pixels."""

    @property
    def outline(self) -> Points:
        """The silhouette in pixels."""
        return self.pose.place(SILHOUETTES[self.silhouette].outline)


def plan(config: SyntheticConfig) -> Plan:
    """List the samples in ranges of one split; nothing is drawn yet. Raises ConfigError for fewer than every class needs."""
    counts: dict[Split, int] = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    fewest = [count // config.num_classes for count in counts.values()]
    if not fewest[0] or sum(fewest) < 2:
        needed = f"each of {config.num_classes} classes (data.num_classes) needs 2 images, one of them for training"
        raise ConfigError(f"data.num_train: {config.num_train} is too few: {needed}; say at least {2 * config.num_classes}")
    items = [(split, start, min(start + _CHUNK, count)) for split, count in counts.items() for start in range(0, count, _CHUNK)]
    return Plan(
        classes=tuple(GLYPHS)[: config.num_classes],
        recipe={**asdict(config), "version": VERSION},
        files=(),
        items=items,
        load=partial(load, config),
    )


def load(config: SyntheticConfig, item: tuple[Split, int, int]) -> list[Sample | Reject]:
    """Draw samples start (inclusive) to stop (exclusive) of a split; see ``render`` for what image and mask mean."""
    split, start, stop = item
    return [_sample(config, split, index) for index in range(start, stop)]


def sample_generator(config: SyntheticConfig, split: Split, index: int) -> np.random.Generator:
    """The generator of one sample: a function of (seed, split, index), whatever else is drawn and in which order."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(SPLITS.index(split), index)))


def draw_scene(config: SyntheticConfig, split: Split, index: int, generator: np.random.Generator) -> Scene:
    """Draw everything but texture and noise.

    The number of draws does not depend on the knobs. Samples of two configurations that differ in ``background_correlation``
    therefore have the same sign to the bit, in the same place and light.
    """
    label = index % config.num_classes
    tied, own, shrink, turn, across, down, rim, bright, slope_x, slope_y, blur, hue, clutter = generator.random(13).tolist()
    any_shape, any_style, any_kind = generator.integers(0, (len(SILHOUETTES), len(STYLES), len(KINDS))).tolist()
    silhouette = tuple(SILHOUETTES)[label % len(SILHOUETTES) if own < config.shape_leak else any_shape]
    background_is_tied = split == "train" and tied < config.background_correlation
    scale = config.min_scale + shrink * (config.max_scale - config.min_scale)
    return Scene(
        label=label,
        glyph=tuple(GLYPHS)[label],
        silhouette=silhouette,
        pose=_pose(silhouette, scale * config.image_size, (2 * turn - 1) * config.max_rotation, (across, down), config.image_size),
        rim=0.14 + 0.1 * rim,
        style=_jittered(STYLES[any_style], generator.integers(-14, 15, (3, 3))),
        background=tuple(KINDS)[label % len(KINDS) if background_is_tied else any_kind],
        hue=(label + hue) / config.num_classes if background_is_tied else hue,
        num_distractors=int(clutter * (config.max_distractors + 1)),
        brightness=1 + (2 * bright - 1) * config.light,
        slope=((2 * slope_x - 1) * config.light, (2 * slope_y - 1) * config.light),
        blur=blur * config.max_blur,
    )


def render(
    config: SyntheticConfig, scene: Scene, generator: np.random.Generator
) -> tuple[UInt8[np.ndarray, "side side 3"], UInt8[np.ndarray, "side side"]]:
    """Paint a scene: RGB image and mask, both 0 to 255.

    The mask is the share of each pixel that the silhouette covers, from its geometry. It is the opacity with which the sign
    lies over the background, before light, blur and noise: blur (at most ``max_blur`` pixels) carries some foreground beyond
    the mask and some background into it.
    """
    side = config.image_size
    noise = generator.standard_normal((side, side, 3), dtype=np.float32) * np.float32(255 * config.sensor_noise)
    mask = np.rint(coverage(scene.outline, width=side, height=side) * 255).astype(np.uint8)
    sign = paint_sign(scene.silhouette, scene.glyph, scene.style, scene.pose, rim=scene.rim, side=side)
    background = paint_background(
        scene.background, scene.hue, num_distractors=scene.num_distractors, side=side, generator=generator
    ).astype(np.float32)
    opacity = mask.astype(np.float32)[:, :, None] / np.float32(255)
    image = background * (1 - opacity) + sign * opacity
    image *= _lighting(scene, side)[:, :, None]
    if scene.blur > 0.1:  # below, the kernel is one pixel to within rounding
        image = cv2.GaussianBlur(image, (0, 0), scene.blur, borderType=cv2.BORDER_REPLICATE)
    image += noise
    return np.rint(image).clip(0, 255).astype(np.uint8), mask


def _sample(config: SyntheticConfig, split: Split, index: int) -> Sample:
    generator = sample_generator(config, split, index)
    scene = draw_scene(config, split, index, generator)
    image, mask = render(config, scene, generator)
    name, side = f"{split}-{index:07d}", float(config.image_size)
    return Sample(
        sample_id=name,
        source_file="",
        group=name,
        label=scene.label,
        split=split,
        box=(0.0, 0.0, side, side),
        mask_recipe="exact",
        image=image,
        mask=mask,
    )


def _pose(silhouette: str, unit: float, turn: float, share: tuple[float, float], side: int) -> Pose:
    """Put a silhouette at ``share`` (0 to 1, across and down) of the room that it leaves within the image."""
    placed = Pose(x=0.0, y=0.0, unit=unit, turn=turn).place(SILHOUETTES[silhouette].outline)
    low, high = placed.min(axis=0), placed.max(axis=0)
    x, y = (np.array(share) * (side - (high - low)) - low).tolist()
    return Pose(x=x, y=y, unit=unit, turn=turn)


def _jittered(style: Style, offsets: np.ndarray) -> Style:
    def shifted(color: Color, offset: np.ndarray) -> Color:
        red, green, blue = np.clip(np.array(color) + offset, 0, 255).tolist()
        return red, green, blue

    return Style(rim=shifted(style.rim, offsets[0]), fill=shifted(style.fill, offsets[1]), glyph=shifted(style.glyph, offsets[2]))


def _lighting(scene: Scene, side: int) -> Float32[np.ndarray, "side side"]:
    """Factor of each pixel: ``brightness`` in the middle of the image, changing linearly by ``slope``."""
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side) - np.float32(0.5)
    across, down = scene.slope
    factor: np.ndarray = 1 + axis[None, :] * np.float32(across) + axis[:, None] * np.float32(down)
    return factor * np.float32(scene.brightness)
