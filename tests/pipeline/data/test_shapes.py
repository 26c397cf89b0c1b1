"""Sign geometry in closed form, fitting on drawn signs, and the recipe against outlines drawn by hand."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon

from pipeline.data.gtsrb.fitting import plain_outline, refined_outline
from pipeline.data.gtsrb.shapes import SHAPES, Outline, Shape, shape_of, unit_shape
from pipeline.data.polygons import coverage

CLASS_OF: dict[Shape, int] = {"circle": 1, "triangle": 18, "inverted-triangle": 13, "octagon": 14, "diamond": 12}


def outline(shape: Shape, **changes: float) -> Outline:
    placed = {"x": 30.3, "y": 28.6, "width": 40.0, "height": 36.0, "angle": 0.0} | changes
    return Outline(shape=shape, x=placed["x"], y=placed["y"], width=placed["width"], height=placed["height"], angle=placed["angle"])


def area(polygon: np.ndarray) -> float:
    """Shoelace formula."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


# Area of each shape over that of its box. A regular polygon of n corners and circumradius 1 whose corners are rounded with radius r
# loses r^2 (n tan(pi / n) - pi); stretching to the box keeps the ratio.
def rounded_share(num_corners: int, radius: float, width: float, height: float) -> float:
    whole = num_corners / 2 * np.sin(2 * np.pi / num_corners)
    return float((whole - radius**2 * (num_corners * np.tan(np.pi / num_corners) - np.pi)) / (width * height))


def shares() -> dict[Shape, float]:
    triangle_radius, diamond_radius = 0.06 * np.sqrt(3), 0.05 * np.sqrt(2)
    # The top of the triangle sinks from the corner to the arc, the foot stays; its sides move in likewise.
    triangle = rounded_share(3, triangle_radius, np.sqrt(3) - 2 * triangle_radius * (np.sqrt(3) - 1), 1.5 - triangle_radius)
    diamond_side = 2 - 2 * diamond_radius * (np.sqrt(2) - 1)
    return {
        "circle": np.pi / 4,
        "octagon": 2 * (np.sqrt(2) - 1),
        "triangle": triangle,
        "inverted-triangle": triangle,
        "diamond": rounded_share(4, diamond_radius, diamond_side, diamond_side),
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_fills_its_box_to_the_share_known_in_closed_form(shape: Shape) -> None:
    polygon = unit_shape(shape, 400)
    np.testing.assert_allclose(polygon.min(axis=0), -0.5, atol=1e-4)
    np.testing.assert_allclose(polygon.max(axis=0), 0.5, atol=1e-4)
    assert area(polygon) == pytest.approx(shares()[shape], rel=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_adds_up_to_the_area_of_the_shape_wherever_it_lies(shape: Shape) -> None:
    for placed in (outline(shape), outline(shape, angle=0.3), outline(shape, x=31.77, width=17.2)):
        polygon = placed.points()
        assert coverage(polygon, width=64, height=60).sum() == pytest.approx(
            area(polygon), rel=2e-3
        )  # a level edge is rounded to 1/16 px


def test_a_turned_outline_keeps_its_area_and_the_inverted_triangle_is_the_triangle_upside_down() -> None:
    assert area(outline("triangle", angle=0.7).points()) == pytest.approx(area(outline("triangle").points()))
    upright = coverage(outline("triangle", x=20, y=20).points(), width=40, height=40)
    inverted = coverage(outline("inverted-triangle", x=20, y=20).points(), width=40, height=40)
    np.testing.assert_allclose(inverted, upright[::-1], atol=1e-5)
    assert upright[5].sum() < upright[34].sum()


def test_a_turn_is_clockwise_as_seen() -> None:
    top = min(Outline(shape="triangle", x=0, y=0, width=2, height=2, angle=0.2).points(), key=lambda point: point[1])
    assert top[0] > 0


def test_coverage_of_a_box_is_exact_and_what_lies_outside_the_image_is_not_counted() -> None:
    box = np.array([[-3.0, 1.25], [2.5, 1.25], [2.5, 9.0], [-3.0, 9.0]])
    expected = np.outer([0, 0.75, 1, 1], [1, 1, 0.5, 0])
    np.testing.assert_allclose(coverage(box, width=4, height=4), expected, atol=1e-6)
    np.testing.assert_allclose(coverage(box[::-1], width=4, height=4), expected, atol=1e-6)


@given(st.lists(st.tuples(st.floats(-2, 14), st.floats(-2, 14)), min_size=3, max_size=3))
@example([(0.0, 0.0), (0.0, 2.3e-309), (1.0, 0.0)])  # an edge as steep as none can be
@settings(max_examples=40, deadline=None)
def test_coverage_of_any_triangle_agrees_with_counting_points_inside(corners: list[tuple[float, float]]) -> None:
    polygon = np.array(corners)
    grid = (np.arange(12 * 8) + 0.5) / 8
    inside = Polygon(np.vstack([polygon, polygon[:1]])).contains_points(np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2))
    counted = inside.reshape(12, 8, 12, 8).mean(axis=(1, 3))
    assert np.abs(coverage(polygon, width=12, height=12) - counted).max() <= 0.2
    assert np.abs(coverage(polygon, width=12, height=12) - counted).mean() <= 0.02


def soft_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Of two coverages: sum of minima over sum of maxima."""
    return float(np.minimum(first, second).sum()) / float(np.maximum(first, second).sum())


def test_every_class_has_the_shape_that_the_highway_code_gives_it() -> None:
    shapes = [shape_of(number) for number in range(43)]
    assert [shapes.index(shape) for shape in ("diamond", "inverted-triangle", "octagon")] == [12, 13, 14]
    assert [number for number, shape in enumerate(shapes) if shape == "triangle"] == [11, *range(18, 32)]
    assert shapes.count("circle") == 43 - 3 - 15
    for wrong in (-1, 43):
        with pytest.raises(ValueError, match="0 to 42"):
            shape_of(wrong)


def test_the_plain_outline_is_centred_on_an_inclusive_box_and_stays_inside_it() -> None:
    placed = plain_outline((5, 6, 24, 29), 1)
    assert (placed.x, placed.y) == (15.0, 18.0)
    assert 16 < placed.width < 20
    assert 20 < placed.height < 24
    tiny = plain_outline((3, 3, 4, 4), 13)
    assert tiny.width > 0
    assert tiny.height > 0


def painted(placed: Outline, *, seed: int) -> np.ndarray:
    """A sign in its colors on a noisy grey background, edges anti-aliased."""
    background = np.full((60, 64, 3), (90.0, 95.0, 88.0)) + np.random.default_rng(seed).normal(0, 4, (60, 64, 3))
    red_ring: list[tuple[float, tuple[int, int, int]]] = [
        (0, (235, 235, 235)),
        (0.03, (190, 20, 30)),
        (0.11 if "triangle" in placed.shape else 0.147, (235, 235, 235)),
    ]
    layers = {"octagon": [red_ring[0], (0.06, (180, 20, 30))], "diamond": [red_ring[0], (0.155, (240, 180, 0))]}
    inradius = {
        "circle": 0.5,
        "octagon": 0.5,
        "diamond": np.sqrt(1 / 8),
        "triangle": np.sqrt(1 / 12),
        "inverted-triangle": np.sqrt(1 / 12),
    }
    image, polygon = background, placed.points()
    for inside, color in layers.get(placed.shape, red_ring):
        layer = polygon.mean(axis=0) + (1 - inside / inradius[placed.shape]) * (polygon - polygon.mean(axis=0))
        alpha = coverage(layer, width=64, height=60)[..., None]
        image = alpha * np.array(color, dtype=float) + (1 - alpha) * image
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_refining_finds_a_painted_sign_that_the_box_misses_by_pixels(shape: Shape) -> None:
    height = 33.0 if "triangle" in shape else 37.0  # upright plates: an equilateral triangle is wider than high
    truth = outline(shape, x=32.0, y=29.0, width=38.0, height=height, angle=0.0 if shape == "circle" else 0.05)
    roi = (11, 12, 53, round(height) + 13)  # off center by more than a pixel, and too large
    target = coverage(truth.points(), width=64, height=60)
    for seed in range(3):
        refined = refined_outline(painted(truth, seed=seed), roi, CLASS_OF[shape])
        assert refined is not None
        found = soft_iou(coverage(refined.points(), width=64, height=60), target)
        plain = soft_iou(coverage(plain_outline(roi, CLASS_OF[shape]).points(), width=64, height=60), target)
        assert found > max(plain, 0.9)  # the white rim leaves about a pixel in doubt


def test_refining_is_deterministic_and_gives_up_on_an_image_without_edges() -> None:
    image = painted(outline("circle"), seed=0)
    assert refined_outline(image, (10, 10, 51, 47), 1) == refined_outline(image, (10, 10, 51, 47), 1)
    for level in (0, 128, 255):
        assert refined_outline(np.full((60, 64, 3), level, np.uint8), (10, 10, 51, 47), 1) is None


@pytest.fixture(scope="module")
def measurement() -> ModuleType:
    """The script that prints the published table, so that what is published is what is tested."""
    spec = importlib.util.spec_from_file_location("gtsrb_masks", Path(__file__).parents[3] / "benchmarks" / "gtsrb_masks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_masks_agree_with_outlines_drawn_by_hand(measurement: ModuleType, gtsrb_mini: Path) -> None:
    results = measurement.measure(gtsrb_mini)
    assert len(results) >= 60
    assert np.mean([result.refined for result in results]) >= 0.92
    assert np.mean([result.refined for result in results if result.half == "reporting"]) >= 0.92
    groups: list[Callable[..., str]] = [lambda r: r.shape, lambda r: r.size, lambda r: f"{r.shape} {r.size}", lambda r: r.half]
    for group_of in groups:
        for group in {group_of(result) for result in results}:
            members = [result for result in results if group_of(result) == group]
            plain, refined = (np.mean([getattr(member, recipe) for member in members]) for recipe in ("plain", "refined"))
            assert refined >= plain, group


def test_the_hand_drawn_outlines_cover_all_shapes_sizes_and_hard_cases(measurement: ModuleType) -> None:
    entries = json.loads(measurement.OUTLINES.read_text())
    for file, entry in entries.items():
        assert entry["shape"] == shape_of(entry["class_number"]), file
        assert area(measurement.hand_polygon(entry)) > 60, file
    cells = {(entry["shape"], entry["size"]) for entry in entries.values()}
    assert cells == {(shape, size) for shape in SHAPES for size in ("small", "medium", "large")}
    assert sum("dark" in entry["flags"] for entry in entries.values()) >= 10
    assert sum("blurred" in entry["flags"] for entry in entries.values()) >= 10
