"""The embedded generator: exact masks, draws that depend on nothing but the sample, and two knobs that do what they say."""

import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from pydantic import TypeAdapter, ValidationError
from scipy.stats import binomtest, chi2_contingency, chisquare

from pipeline.data.config import SyntheticConfig
from pipeline.data.polygons import coverage
from pipeline.data.sample import Sample
from pipeline.data.synthetic.backgrounds import KINDS
from pipeline.data.synthetic.glyphs import GLYPHS, SILHOUETTES, STYLES, Pose, area, draw_glyph
from pipeline.data.synthetic.source import Scene, draw_scene, load, plan, render, sample_generator
from pipeline.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"


def draw(config: SyntheticConfig, split: str = "train", stop: int = 40) -> list[Sample]:
    return load(config, (split, 0, stop))


@lru_cache(maxsize=8)
def arrays(config: SyntheticConfig, split: str, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    samples = draw(config, split, stop)
    return (
        np.stack([sample.image for sample in samples]).astype(np.float32),
        np.stack([sample.mask for sample in samples]).astype(np.float32) / 255,
        np.array([sample.label for sample in samples]),
    )


def scenes(config: SyntheticConfig, split: str, stop: int) -> list[Scene]:
    return [draw_scene(config, split, index, sample_generator(config, split, index)) for index in range(stop)]


def brute_force_coverage(outline: np.ndarray, side: int, per_axis: int = 20) -> np.ndarray:
    axis = (np.arange(side * per_axis) + 0.5) / per_axis
    x, y = np.meshgrid(axis, axis)
    inside = Polygon(outline).contains_points(np.stack([x.ravel(), y.ravel()], axis=1))
    return inside.reshape(side, per_axis, side, per_axis).mean(axis=(1, 3))


def nearest_centroid_hits(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> int:
    centroids = np.stack([train[train_labels == label].mean(axis=0) for label in range(train_labels.max() + 1)])
    nearest = ((test[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    return int((nearest == test_labels).sum())


def is_chance(hits: int, total: int, num_classes: int = 10) -> bool:
    return binomtest(hits, total, 1 / num_classes).pvalue > 1e-3


# Geometry


@pytest.mark.parametrize("name", SILHOUETTES)
@pytest.mark.parametrize(("x", "y", "unit", "turn"), [(16.0, 16.0, 18.0, 0.0), (14.3, 17.8, 15.7, 13.0), (2.2, 29.1, 20.0, -9.0)])
def test_coverage_is_the_share_of_subpixels_inside_the_polygon(name: str, x: float, y: float, unit: float, turn: float) -> None:
    outline = Pose(x=x, y=y, unit=unit, turn=turn).place(SILHOUETTES[name].outline)
    expected = brute_force_coverage(outline, 32)
    found = coverage(outline, width=32, height=32)
    assert np.abs(found - expected).max() < 0.06
    assert np.abs(found - expected).mean() < 0.002


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(SILHOUETTES)),
    x=st.floats(14, 18),
    y=st.floats(15, 17),
    unit=st.floats(5, 16),
    turn=st.floats(-20, 20),
)
def test_coverage_sums_to_the_area(name: str, x: float, y: float, unit: float, turn: float) -> None:
    outline = Pose(x=x, y=y, unit=unit, turn=turn).place(SILHOUETTES[name].outline)
    # Only a horizontal edge can lie between two of the 16 lines of a row: at most its length / 32, above and below.
    assert coverage(outline, width=32, height=32).sum() == pytest.approx(unit**2, abs=2 * 1.53 * unit / 32)


@pytest.mark.parametrize(
    ("name", "inner_radius"),
    [("circle", np.pi**-0.5), ("square", 0.5), ("diamond", 0.5), ("triangle", 27**-0.25), ("inverted-triangle", 27**-0.25)],
)
def test_the_inscribed_circle_has_its_closed_form_radius(name: str, inner_radius: float) -> None:
    assert SILHOUETTES[name].inner_radius == pytest.approx(inner_radius, rel=2e-3)


@pytest.mark.parametrize("name", SILHOUETTES)
def test_a_silhouette_has_area_one_and_touches_its_inscribed_circle(name: str) -> None:
    silhouette = SILHOUETTES[name]
    assert area(silhouette.outline) == pytest.approx(1)
    angles = np.linspace(0, 2 * np.pi, 360)
    circle = silhouette.inner_radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert Polygon(silhouette.outline).contains_points(circle * 0.999).all()
    assert not Polygon(silhouette.outline).contains_points(circle * 1.01).all()


def turned_pictures_are_nearest_to_themselves(picture: Callable[[str, float], np.ndarray], names: list[str]) -> bool:
    """Nearest neighbor over all turns up to 20 degrees: the figure itself in another turn must be nearer than any other figure."""
    references = [(name, picture(name, turn)) for name in names for turn in np.arange(-20.0, 20.1, 5.0).tolist()]
    return all(
        min(references, key=lambda reference: np.square(reference[1] - picture(name, turn)).sum())[0] == name
        for name in names
        for turn in (-17.5, -7.5, 2.5, 12.5)
    )


def test_silhouettes_stay_apart_when_turned() -> None:
    def picture(name: str, turn: float) -> np.ndarray:
        return coverage(Pose(x=16.0, y=16.0, unit=16.0, turn=turn).place(SILHOUETTES[name].outline), width=32, height=32)

    assert turned_pictures_are_nearest_to_themselves(lru_cache(maxsize=None)(picture), list(SILHOUETTES))


def test_glyphs_stay_apart_when_turned() -> None:
    def picture(name: str, turn: float) -> np.ndarray:
        canvas = np.zeros((64, 64, 3), np.uint8)
        draw_glyph(canvas, name, Pose(x=8.0, y=8.0, unit=7.0, turn=turn), (255, 255, 255), scale=4)
        return cv2.resize(canvas[:, :, 0], (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)

    assert turned_pictures_are_nearest_to_themselves(lru_cache(maxsize=None)(picture), list(GLYPHS))


def test_a_glyph_stands_out_from_its_fill_in_every_style() -> None:
    luma = np.array([0.299, 0.587, 0.114])
    assert min(abs(np.dot(luma, style.glyph) - np.dot(luma, style.fill)) for style in STYLES) > 100


# Masks and images


@pytest.mark.parametrize(
    "config", [SyntheticConfig(), SyntheticConfig(image_size=48, shape_leak=1.0, max_rotation=20.0, max_scale=0.65)]
)
def test_the_mask_is_the_coverage_of_the_silhouette_which_lies_within_the_image(config: SyntheticConfig) -> None:
    for scene, sample in zip(scenes(config, "test", 30), draw(config, "test", 30), strict=True):
        expected = brute_force_coverage(scene.outline, config.image_size)
        assert np.abs(sample.mask / 255 - expected).max() < 0.07
        assert scene.outline.min() > -1e-6
        assert scene.outline.max() < config.image_size + 1e-6
        assert config.min_scale <= scene.pose.unit / config.image_size <= config.max_scale
        assert sample.mask.mean() / 255 == pytest.approx((scene.pose.unit / config.image_size) ** 2, rel=0.015)


def test_pixels_outside_the_mask_do_not_know_the_sign_and_pixels_inside_do_not_know_the_background() -> None:
    config = SyntheticConfig(max_blur=0.0)
    for index, scene in enumerate(scenes(config, "train", 20)):
        image, mask = render(config, scene, np.random.default_rng(index))
        assert 0 in mask
        assert 255 in mask
        other_sign = replace(scene, glyph="hourglass", style=STYLES[(index + 3) % len(STYLES)], rim=0.3)
        resigned, same_mask = render(config, other_sign, np.random.default_rng(index))
        np.testing.assert_array_equal(mask, same_mask)
        np.testing.assert_array_equal(image[mask == 0], resigned[mask == 0])
        other_background = replace(scene, background=list(KINDS)[index % len(KINDS)], hue=(scene.hue + 0.5) % 1, num_distractors=9)
        moved, _ = render(config, other_background, np.random.default_rng(index))
        np.testing.assert_array_equal(image[mask == 255], moved[mask == 255])
        assert (image[mask == 0] != moved[mask == 0]).mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [16, 32, 57])
def test_every_texture_paints_any_size(kind: str, side: int) -> None:
    config = SyntheticConfig(image_size=side, light=0.0, sensor_noise=0.0)
    for index, scene in enumerate(scenes(config, "val", 3)):
        image, mask = render(config, replace(scene, background=kind), np.random.default_rng(index))
        assert image.shape == (side, side, 3)
        assert image[mask == 0].std() > 2


# Draws


def test_a_sample_depends_on_seed_split_and_index_only() -> None:
    config = SyntheticConfig()
    together = draw(config, stop=70)
    for other in (config, replace(config, num_train=7, num_val=1, num_test=3)):
        alone = [sample for index in (69, 3, 0) for sample in load(other, ("train", index, index + 1))]
        for sample, again in zip((together[69], together[3], together[0]), alone, strict=True):
            assert sample.sample_id == again.sample_id
            np.testing.assert_array_equal(sample.image, again.image)
            np.testing.assert_array_equal(sample.mask, again.mask)


def test_samples_of_other_indices_splits_and_seeds_are_other_pictures() -> None:
    config = SyntheticConfig()
    samples = draw(config) + draw(config, "val") + draw(config, "test") + draw(replace(config, seed=1))
    assert len({sample.image.tobytes() for sample in samples}) == len(samples)
    assert len({sample.mask.tobytes() for sample in samples}) == len(samples)


def test_the_plan_lists_every_sample_once_with_balanced_labels() -> None:
    config = SyntheticConfig(num_train=131, num_val=64, num_test=10, num_classes=7)
    planned = plan(config)
    samples = [sample for item in planned.items for sample in planned.load(item)]
    assert [sample.split for sample in samples] == ["train"] * 131 + ["val"] * 64 + ["test"] * 10
    assert len({sample.sample_id for sample in samples}) == 205
    assert all(sample.group == sample.sample_id and sample.mask_recipe == "exact" for sample in samples)
    counts = np.bincount([sample.label for sample in samples if sample.split == "train"], minlength=7)
    assert counts.max() - counts.min() <= 1
    assert planned.classes == tuple(GLYPHS)[:7]
    assert planned.recipe["num_train"] == 131


@pytest.mark.parametrize(("train", "val", "test", "enough"), [(3, 9, 9, False), (4, 1, 1, False), (4, 4, 1, True), (8, 1, 1, True)])
def test_too_few_images_for_the_classes_are_refused_before_any_is_drawn(train: int, val: int, test: int, enough: bool) -> None:
    config = SyntheticConfig(num_train=train, num_val=val, num_test=test, num_classes=4)
    with nullcontext() if enough else pytest.raises(ConfigError, match=f"num_train: {train} is too few: .*say at least 8"):
        assert plan(config).items


def test_a_process_pool_draws_what_this_process_draws() -> None:
    planned = pickle.loads(pickle.dumps(plan(SyntheticConfig(num_train=100, num_val=20, num_test=20))))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = [sample for samples in pool.map(planned.load, planned.items) for sample in samples]
    here = [sample for item in planned.items for sample in planned.load(item)]
    assert [sample.sample_id for sample in there] == [sample.sample_id for sample in here]
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)


# The two knobs


@pytest.mark.slow
def test_background_correlation_ties_the_texture_to_the_class_in_training_only() -> None:
    tied = scenes(SyntheticConfig(background_correlation=1.0), "train", 300)
    assert len({(scene.label, scene.background) for scene in tied}) == 10
    assert all(scene.label <= scene.hue * 10 <= scene.label + 1 for scene in tied)
    free = scenes(SyntheticConfig(background_correlation=1.0), "val", 600), scenes(SyntheticConfig(), "train", 600)
    for drawn in free:
        table = np.zeros((10, len(KINDS)), int)
        np.add.at(table, ([scene.label for scene in drawn], [list(KINDS).index(scene.background) for scene in drawn]), 1)
        assert chi2_contingency(table).pvalue > 1e-3


def test_background_correlation_is_the_share_of_tied_backgrounds() -> None:
    drawn = scenes(SyntheticConfig(background_correlation=0.25), "train", 600)
    matches = sum(scene.background == list(KINDS)[scene.label % len(KINDS)] for scene in drawn)
    assert binomtest(matches, 600, 0.25 + 0.75 / len(KINDS)).pvalue > 1e-3


def test_background_correlation_leaves_the_sign_as_it_is() -> None:
    free, tied = (draw(SyntheticConfig(background_correlation=value, max_blur=0.0), stop=30) for value in (0.0, 1.0))
    for one, other in zip(free, tied, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.image[one.mask == 255], other.image[one.mask == 255])


@pytest.mark.slow
@pytest.mark.parametrize(("background_correlation", "split"), [(0.0, "train"), (1.0, "val"), (1.0, "train")])
def test_background_color_names_the_class_only_where_it_is_tied(background_correlation: float, split: str) -> None:
    def background_color(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        color = (images * (masks == 0)[..., None]).sum(axis=(1, 2)) / (masks == 0).sum(axis=(1, 2))[:, None]
        return color / color.mean(axis=1, keepdims=True)

    config = SyntheticConfig(background_correlation=background_correlation)
    images, masks, labels = arrays(config, "train", 700)
    centroids = background_color(images[:500], masks[:500]), labels[:500]
    if split == "val":
        images, masks, labels = arrays(config, "val", 200)
    hits = nearest_centroid_hits(*centroids, background_color(images[-200:], masks[-200:]), labels[-200:])
    if background_correlation == 1 and split == "train":
        assert hits > 100
    else:
        assert is_chance(hits, 200)


@pytest.mark.slow
@pytest.mark.parametrize("shape_leak", [0.0, 1.0])
def test_the_mask_alone_names_the_class_only_with_shape_leak(shape_leak: float) -> None:
    def centred(masks: np.ndarray) -> np.ndarray:
        crops = []
        for mask in masks:
            rows, columns = np.nonzero(mask.max(axis=1))[0], np.nonzero(mask.max(axis=0))[0]
            side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
            square = np.zeros((side, side), np.float32)
            inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            square[: inner.shape[0], : inner.shape[1]] = inner
            crops.append(cv2.resize(square, (16, 16), interpolation=cv2.INTER_AREA).ravel())
        return np.stack(crops)

    _, masks, labels = arrays(SyntheticConfig(shape_leak=shape_leak), "train", 700)
    features = centred(masks)
    hits = nearest_centroid_hits(features[:500], labels[:500], features[500:], labels[500:])
    assert hits > 160 if shape_leak else is_chance(hits, 200)


def test_shape_leak_gives_each_class_its_own_silhouette() -> None:
    drawn = scenes(SyntheticConfig(shape_leak=1.0, num_classes=20), "test", 200)
    own = {scene.label: scene.silhouette for scene in drawn}
    assert all(scene.silhouette == own[scene.label] for scene in drawn)
    assert len({own[label] for label in range(10)}) == 10
    assert all(own[label] == own[label + 10] for label in range(10))


@pytest.mark.parametrize("shape_leak", [0.0, 0.5])
def test_the_other_silhouettes_are_drawn_uniformly_for_all_classes(shape_leak: float) -> None:
    drawn = scenes(SyntheticConfig(shape_leak=shape_leak), "train", 1000)
    table = np.zeros((10, 10), int)
    np.add.at(table, ([scene.label for scene in drawn], [list(SILHOUETTES).index(scene.silhouette) for scene in drawn]), 1)
    expected = 100 * ((1 - shape_leak) / 10 + shape_leak * np.eye(10))
    assert chisquare(table.ravel(), expected.ravel(), ddof=9).pvalue > 1e-3


@pytest.mark.slow
def test_colors_say_nothing_about_the_class() -> None:
    images, masks, labels = arrays(SyntheticConfig(shape_leak=1.0), "train", 700)
    weights = (masks == 1)[..., None] / (masks == 1).sum(axis=(1, 2))[:, None, None, None]
    color = (images * weights).sum(axis=(1, 2))
    chroma = color - color.mean(axis=1, keepdims=True)
    assert is_chance(nearest_centroid_hits(chroma[:500], labels[:500], chroma[500:], labels[500:]), 200)


# Configuration


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_classes": 1},
        {"num_classes": len(GLYPHS) + 1},
        {"image_size": 8},
        {"background_correlation": 1.1},
        {"shape_leak": -0.1},
        {"max_scale": 0.7},
        {"min_scale": 0.6, "max_scale": 0.5},
        {"max_rotation": 45},
        {"num_val": 0},
        {"seed": -1},
        {"sensor_noise": "8/0"},
        {"background": 1},
        {"source": "coco"},
    ],
)
def test_a_configuration_out_of_range_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TypeAdapter(SyntheticConfig).validate_python(wrong)


def test_fractions_are_numbers() -> None:
    config = TypeAdapter(SyntheticConfig).validate_python({"sensor_noise": "8/255", "background_correlation": "1/4"})
    assert config.sensor_noise == 8 / 255
    assert config.background_correlation == 0.25


def test_the_shipped_configuration_lists_every_field_with_its_default() -> None:
    shipped = yaml.safe_load((CONFIGS / "data" / "synthetic.yaml").read_text())
    assert shipped == {name: getattr(SyntheticConfig(), name) for name in SyntheticConfig.__dataclass_fields__}
    assert TypeAdapter(SyntheticConfig).validate_python(shipped) == SyntheticConfig()
