"""Scores of masks against hand-counted cases, smp, OpenCV and brute force."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.metrics import f1_score, get_stats, iou_score
from torch import Tensor

from segmenter import metrics

METRICS = [metrics.intersection_over_union, metrics.dice_score, metrics.boundary_f]


def rectangle(top: int, left: int, height: int, width: int, *, side: int = 12) -> Tensor:
    mask = torch.zeros(1, 1, side, side)
    mask[..., top : top + height, left : left + width] = 1
    return mask


def draw(batch: int, height: int, width: int, seed: int) -> Tensor:
    """Coverage with blobs: noise that is smoothed, with empty and full masks among them."""
    generator = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(generator.random((height, width)), (0, 0), 1.5) for _ in range(batch)]
    shifts = generator.choice([-1.0, -0.02, 0.0, 0.02, 1.0], size=(batch, 1, 1), p=[0.1, 0.25, 0.3, 0.25, 0.1])
    return torch.from_numpy(np.clip(np.stack(noise) + shifts, 0, 1)).float()[:, None]


def test_scores_of_two_overlapping_squares_are_counted_by_hand() -> None:
    first, second = rectangle(2, 2, 4, 4), rectangle(2, 4, 4, 4)  # 16 pixels each, 8 in both
    torch.testing.assert_close(metrics.intersection_over_union(first, second), torch.tensor([8 / 24]))
    torch.testing.assert_close(metrics.dice_score(first, second), torch.tensor([16 / 32]))
    # 12 boundary pixels each; 4 in common: rows 2 and 5 of columns 4 and 5.
    torch.testing.assert_close(metrics.boundary_f(first, second, tolerance=0), torch.tensor([4 / 12]))


@pytest.mark.parametrize("metric", METRICS)
def test_two_empty_masks_agree_and_an_empty_one_agrees_with_no_other(metric) -> None:  # type: ignore[no-untyped-def]
    empty, full, part = torch.zeros(1, 1, 12, 12), torch.ones(1, 1, 12, 12), rectangle(3, 3, 5, 5)
    first = torch.cat([empty, empty, part, empty, full, full])
    second = torch.cat([empty, part, empty, full, empty, full])
    assert metric(first, second).tolist() == [1, 0, 0, 0, 0, 1]


def test_the_threshold_takes_half_coverage_as_foreground_as_smp_does() -> None:
    masks = torch.tensor([0.49, 0.5, 0.51, 1.0]).view(1, 1, 2, 2)
    reference = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(metrics.intersection_over_union(masks, reference), torch.tensor([2 / 3]))
    torch.testing.assert_close(metrics.intersection_over_union(masks, reference, threshold=0.51), torch.tensor([1 / 3]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(1, 20), width=st.integers(1, 20))
def test_overlap_scores_equal_smp_image_by_image(seed: int, height: int, width: int) -> None:
    masks, references = draw(4, height, width, seed), draw(4, height, width, seed + 5000)
    counts = get_stats(masks, (references >= 0.5).long(), mode="binary", threshold=0.5)
    torch.testing.assert_close(metrics.intersection_over_union(masks, references), iou_score(*counts, zero_division=1.0)[:, 0])
    torch.testing.assert_close(metrics.dice_score(masks, references), f1_score(*counts, zero_division=1.0)[:, 0])


def brute_force_boundary_f(mask: np.ndarray, reference: np.ndarray, tolerance: float) -> float:
    """The definition, pixel by pixel."""

    def boundary(foreground: np.ndarray) -> list[tuple[int, int]]:
        height, width = foreground.shape
        return [
            (y, x)
            for y in range(height)
            for x in range(width)
            if foreground[y, x]
            and any(
                0 <= y + dy < height and 0 <= x + dx < width and not foreground[y + dy, x + dx]
                for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1))
            )
        ]

    def near(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> float:
        hits = sum(any((y - v) ** 2 + (x - u) ** 2 <= tolerance**2 for v, u in those) for y, x in these)
        return hits / len(these)

    first, second = boundary(mask), boundary(reference)
    if not first and not second:
        return float(np.array_equal(mask, reference))
    if not first or not second:
        return 0.0
    precision, recall = near(first, second), near(second, first)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(1, 14), width=st.integers(1, 14), tolerance=st.integers(0, 3))
def test_boundary_f_equals_its_definition_pixel_by_pixel(seed: int, height: int, width: int, tolerance: int) -> None:
    masks, references = draw(3, height, width, seed), draw(3, height, width, seed + 5000)
    pairs = zip(masks[:, 0].numpy() >= 0.5, references[:, 0].numpy() >= 0.5, strict=True)
    expected = torch.tensor([brute_force_boundary_f(mask, reference, tolerance) for mask, reference in pairs])
    torch.testing.assert_close(metrics.boundary_f(masks, references, tolerance=tolerance), expected)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_boundary_f_forgives_a_shift_up_to_its_tolerance(shift: int) -> None:
    moved = metrics.boundary_f(rectangle(2, 2, 6, 6), rectangle(2, 2 + shift, 6, 6), tolerance=shift)
    assert moved.tolist() == [1.0]
    assert metrics.boundary_f(rectangle(2, 2, 6, 6), rectangle(2, 2 + shift, 6, 6), tolerance=shift - 1).item() < 1


def test_a_ragged_outline_beats_a_small_shift_in_overlap_but_not_in_boundary_f() -> None:
    disk, ragged, shifted = np.zeros((3, 64, 64), np.uint8)
    cv2.circle(disk, (32, 32), 24, 1, -1)
    cv2.circle(shifted, (33, 32), 24, 1, -1)
    cv2.circle(ragged, (32, 32), 24, 1, -1)
    for angle in np.arange(0, 2 * np.pi, np.pi / 4):
        cv2.circle(ragged, (int(32 + 24 * np.cos(angle)), int(32 + 24 * np.sin(angle))), 2, 0, -1)
    reference, notched, moved = (torch.from_numpy(mask).float()[None, None] for mask in (disk, ragged, shifted))
    assert metrics.intersection_over_union(notched, reference) > metrics.intersection_over_union(moved, reference)
    assert metrics.boundary_f(notched, reference).item() < metrics.boundary_f(moved, reference).item() == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(1, 16), width=st.integers(1, 16))
def test_every_score_is_symmetric_in_range_and_1_for_a_mask_with_itself(seed: int, height: int, width: int) -> None:
    masks, references = draw(3, height, width, seed), draw(3, height, width, seed + 5000)
    for metric in METRICS:
        scores = metric(masks, references)
        assert scores.shape == (3,)
        assert ((scores >= 0) & (scores <= 1)).all()
        torch.testing.assert_close(metric(references, masks), scores)
        assert metric(masks, masks).tolist() == [1, 1, 1]


def test_a_share_that_is_not_a_number_is_background() -> None:
    unknown = torch.full((1, 1, 4, 4), torch.nan)
    assert all(metric(unknown, torch.zeros(1, 1, 4, 4)).item() == 1 for metric in METRICS)
    assert all(metric(unknown, torch.ones(1, 1, 4, 4)).item() == 0 for metric in METRICS)
