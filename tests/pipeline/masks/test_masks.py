"""Masks against brute force and OpenCV, gates against closed forms, fills against SciPy."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage
from torch import Tensor

from pipeline import randomness
from pipeline.masks import fills, sources
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.masks.fills import apply_mask, blur, fill_images
from pipeline.masks.gates import hard_gate, soft_gate
from pipeline.masks.sources import bounding_boxes, dilate, erode, given_masks, random_masks, shift

BATCH, HEIGHT, WIDTH = 3, 9, 12


@st.composite
def coverage(draw: st.DrawFn) -> Tensor:
    """Masks (B,1,H,W) of any small shape: all-zero, all-one, and 8-bit foreground shares as the data sets store them."""
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    levels = draw(st.sampled_from([[0], [255], [0, 255], list(range(256))]))
    shares = draw(arrays.arrays(np.uint8, (batch, 1, height, width), elements=st.sampled_from(levels)))
    return torch.from_numpy(shares).float() / 255


def images_like(masks: Tensor) -> Tensor:
    return torch.rand(len(masks), 3, *masks.shape[2:], generator=torch.Generator().manual_seed(0))


# Gates


def test_the_soft_gate_is_the_logistic_function() -> None:
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64).view(1, 1, 1, 33)
    torch.testing.assert_close(soft_gate(logits), 1 / (1 + torch.exp(-logits)))


@given(threshold=st.floats(0.01, 0.99), surrogate=st.sampled_from(["identity", "sigmoid"]))
@settings(max_examples=50, deadline=None)
def test_the_hard_gate_is_exactly_zero_or_one_by_the_threshold_on_the_probability(threshold: float, surrogate: str) -> None:
    logits = torch.linspace(-9.03, 9.01, 400).view(1, 1, 20, 20)
    masks = hard_gate(logits, threshold=threshold, surrogate=surrogate)
    expected = 1 / (1 + np.exp(-logits.double().numpy())) > threshold
    assert np.array_equal(masks.numpy(), expected.astype(np.float32))


def test_the_hard_gate_hands_the_gradient_on_by_identity_or_as_the_sigmoid_does() -> None:
    logits = torch.linspace(-40, 40, 81, dtype=torch.float64).view(1, 1, 9, 9).requires_grad_()
    upstream = torch.randn(1, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for surrogate, slope in (("identity", 1.0), ("sigmoid", 1 / (2 + 2 * torch.cosh(logits.detach())))):
        masks = hard_gate(logits, threshold=0.3, surrogate=surrogate)
        (gradient,) = torch.autograd.grad(masks, logits, upstream)
        torch.testing.assert_close(gradient, upstream * slope)


# Masks made from the oracle


@given(coverage())
@settings(max_examples=50, deadline=None)
def test_the_box_is_the_smallest_rectangle_around_the_pixels_above_one_half(masks: Tensor) -> None:
    expected = np.zeros(masks.shape, dtype=np.float32)
    for index, mask in enumerate(masks.numpy()[:, 0]):
        rows, columns = np.nonzero(mask > 0.5)
        if len(rows):
            expected[index, 0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
    assert np.array_equal(bounding_boxes(masks).numpy(), expected)


def test_one_half_is_not_above_one_half() -> None:
    assert not bounding_boxes(torch.full((1, 1, 2, 2), 0.5)).any()
    assert bounding_boxes(torch.full((1, 1, 2, 2), 0.501)).all()


@given(coverage(), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_eroded_and_dilated_masks_are_opencvs(masks: Tensor, radius: int) -> None:
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    for ours, theirs in ((erode, cv2.erode), (dilate, cv2.dilate)):
        expected = np.stack([theirs(mask, kernel) for mask in masks.numpy()[:, 0]])[:, None]
        assert np.array_equal(ours(masks, radius).numpy(), expected)


@given(coverage(), st.integers(1, 14), st.sampled_from([("left", 0, -1), ("right", 0, 1), ("up", -1, 0), ("down", 1, 0)]))
@settings(max_examples=50, deadline=None)
def test_a_shifted_mask_loses_what_leaves_the_image_and_nothing_wraps(
    masks: Tensor, pixels: int, way: tuple[str, int, int]
) -> None:
    direction, down, right = way
    height, width = masks.shape[2:]
    expected = torch.zeros_like(masks)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y - down * pixels, x - right * pixels
            if 0 <= from_y < height and 0 <= from_x < width:
                expected[:, :, y, x] = masks[:, :, from_y, from_x]
    assert torch.equal(shift(masks, pixels=pixels, direction=direction), expected)


@given(coverage(), st.integers(-(2**63), 2**63 - 4))
@settings(max_examples=50, deadline=None)
def test_a_random_mask_has_the_oracles_area_to_half_a_pixel(masks: Tensor, seed: int) -> None:
    drawn = random_masks(masks, torch.arange(len(masks)) + seed)
    assert ((drawn == 0) | (drawn == 1)).all()
    assert ((drawn.double() - masks.double()).sum(dim=(1, 2, 3)).abs() <= 0.5 + 1e-3).all()


@pytest.mark.parametrize(("height", "width"), [(6, 9), (3, 2)])
def test_a_random_mask_is_the_highest_part_of_a_field_of_random_numbers_smoothed_around_the_border(height: int, width: int) -> None:
    """By adding up whole windows, twice each way."""
    oracle = torch.rand(4, 1, height, width, generator=torch.Generator().manual_seed(6))
    seeds = torch.tensor([3, -8, 2**40, 5])
    fields = randomness.random_integers(randomness.derive_seeds(seeds, 1), (height, width)).numpy() >> 8
    drawn = random_masks(oracle, seeds).numpy()[:, 0]
    for field, mask, area in zip(fields, drawn, oracle.sum(dim=(1, 2, 3)).tolist(), strict=True):
        smooth = field
        for axis in (0, 1, 0, 1):
            reach = max(1, smooth.shape[axis] // 4)
            smooth = sum(np.roll(smooth, -ahead - 1, axis=axis) for ahead in range(reach))
        order = np.argsort(-smooth.ravel(), kind="stable")
        expected = np.zeros(height * width)
        expected[order[: round(area)]] = 1
        assert np.array_equal(mask.ravel(), expected)


def test_masks_and_fills_are_drawn_apart_though_they_share_the_images_seed() -> None:
    seeds, images = torch.tensor([3, 4]), torch.rand(2, 3, 4, 4)
    noise = fill_images(MaskConfig(fill="noise"), images, MaskContext(sample_seeds=seeds), color=torch.zeros(1, 3, 1, 1))
    assert torch.equal(noise, randomness.uniform(randomness.derive_seeds(seeds, 2), (3, 4, 4), dtype=images.dtype))
    assert sources.MASK_STREAM != fills.FILL_STREAM


def test_a_random_mask_depends_on_the_seed_and_the_area_alone() -> None:
    everywhere = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    moved = everywhere.roll((5, 9), dims=(2, 3)).flip(3)
    seeds = torch.arange(6) * 1000
    assert torch.equal(random_masks(everywhere, seeds), random_masks(moved, seeds))
    for index in range(6):
        alone = random_masks(everywhere[index : index + 1], seeds[index : index + 1])
        assert torch.equal(alone[0], random_masks(everywhere, seeds)[index])


def test_every_pixel_is_equally_likely_to_be_in_a_random_mask() -> None:
    corner = torch.zeros(1, 1, 8, 8)
    corner[..., :4, :4] = 1
    num_masks = 20_000
    share = random_masks(corner.expand(num_masks, 1, 8, 8), torch.arange(num_masks)).mean(dim=0)
    spread = (0.25 * 0.75 / num_masks) ** 0.5
    assert ((share - 0.25).abs() < 4.5 * spread).all()


def test_a_random_mask_is_blobs_and_not_dust() -> None:
    half = torch.full((50, 1, 32, 32), 0.5)
    drawn = random_masks(half, torch.arange(50)).numpy()[:, 0]
    num_blobs = [ndimage.label(np.pad(mask, 0))[1] for mask in drawn]
    assert np.mean(num_blobs) < 8  # independent pixels would give about 60


@pytest.mark.parametrize("source", [source for source in MaskSource if source.needs == "oracle"])
def test_a_source_made_from_the_oracle_says_so_in_one_line_when_there_is_none(source: MaskSource) -> None:
    with pytest.raises(ValueError, match=f"^the mask source '{source}' needs oracle masks") as caught:
        given_masks(MaskConfig(source=source), torch.rand(1, 3, 4, 4), MaskContext())
    assert "\n" not in str(caught.value)


def test_given_masks_are_the_functions_they_name() -> None:
    oracle = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
    context = MaskContext(oracle_masks=oracle, frozen_masks=oracle / 2, substitutes=oracle / 4, sample_seeds=torch.arange(BATCH))
    expected = {
        MaskSource.NONE: torch.ones_like(oracle),
        MaskSource.ORACLE: oracle,
        MaskSource.FROZEN: oracle / 2,
        MaskSource.RANDOM: random_masks(oracle, torch.arange(BATCH)),
        MaskSource.FOREIGN_SAME: oracle / 4,
        MaskSource.FOREIGN_OTHER: oracle / 4,
        MaskSource.RANDOM_ALIKE: oracle / 4,
        MaskSource.BOX: bounding_boxes(oracle),
        MaskSource.ERODED: erode(oracle, 3),
        MaskSource.DILATED: dilate(oracle, 3),
        MaskSource.SHIFTED: shift(oracle, pixels=5, direction="up"),
        MaskSource.INVERTED: 1 - oracle,
    }
    assert {*expected, MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.JOINT} == set(MaskSource)
    for source, masks in expected.items():
        config = MaskConfig(source=source, radius=3, shift=5, direction="up")
        assert torch.equal(given_masks(config, images_like(oracle), context), masks)


# Fills and application


@given(coverage(), st.sampled_from(list(Fill)))
@settings(max_examples=60, deadline=None)
def test_mask_zero_is_the_fill_and_mask_one_the_image_to_the_bit(masks: Tensor, fill: Fill) -> None:
    images = images_like(masks)
    context = MaskContext(sample_seeds=torch.arange(len(masks)))
    fills = fill_images(MaskConfig(fill=fill), images, context, color=torch.tensor([0.1, 0.2, 0.7]).view(1, 3, 1, 1))
    seen = apply_mask(images, masks, fills)
    whole = fills.expand_as(images)
    assert torch.equal(torch.where(masks == 0, seen, whole), whole)
    assert torch.equal(torch.where(masks == 1, seen, images), images)
    torch.testing.assert_close(seen, masks * images + (1 - masks) * whole, rtol=0, atol=2e-7)


def test_a_noise_fill_belongs_to_the_image_and_not_to_its_batch() -> None:
    images = torch.rand(BATCH, 3, HEIGHT, WIDTH)
    seeds = torch.tensor([7, 8, 9])
    noise = fill_images(MaskConfig(fill=Fill.NOISE), images, MaskContext(sample_seeds=seeds), color=torch.zeros(1, 3, 1, 1))
    alone = MaskContext(sample_seeds=seeds).select(torch.tensor([1]))
    again = fill_images(MaskConfig(fill=Fill.NOISE), images[1:2] / 2, alone, color=torch.zeros(1, 3, 1, 1))
    assert torch.equal(noise[1], again[0])
    with pytest.raises(ValueError, match="the fill 'noise' needs sample seeds"):
        fill_images(MaskConfig(fill=Fill.NOISE), images, MaskContext(), color=torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("sigma", [0.5, 2.0, 5.0])
def test_the_blur_is_scipys_gaussian_also_where_it_reaches_beyond_the_image(sigma: float) -> None:
    images = torch.rand(2, 3, HEIGHT, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    expected = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=int(np.ceil(3 * sigma)))
    np.testing.assert_allclose(blur(images, sigma).numpy(), expected, atol=1e-12)


# Context and configuration


def test_a_selected_context_holds_the_chosen_images_in_their_order() -> None:
    context = MaskContext(oracle_masks=torch.rand(4, 1, 2, 2), sample_seeds=torch.arange(4))
    chosen = context.select(torch.tensor([3, 1]))
    assert chosen.sample_seeds.tolist() == [3, 1]
    assert torch.equal(chosen.oracle_masks, context.oracle_masks[[3, 1]])
    assert chosen.frozen_masks is None


def test_a_mask_configuration_is_read_from_plain_values_and_refuses_what_it_does_not_know() -> None:
    adapter = TypeAdapter(MaskConfig)
    assert adapter.validate_python({"source": "learned-hard", "fill": "blur", "blur_sigma": "5/2"}) == MaskConfig(
        source=MaskSource.LEARNED_HARD, fill=Fill.BLUR, blur_sigma=2.5
    )
    for wrong in ({"sourse": "none"}, {"source": "leaned"}, {"threshold": 1.0}, {"radius": 0}, {"surrogate": "none"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
