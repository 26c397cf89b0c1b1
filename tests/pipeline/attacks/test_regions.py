"""Regions against brute force over pixels and their distances."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from torch import Tensor

from pipeline.attacks.regions import region_masks
from pipeline.attacks.threat import Region
from pipeline.masks.sources import bounding_boxes


@st.composite
def coverage(draw: st.DrawFn) -> Tensor:
    """Masks (B,1,H,W), all-zero and all-one included, with edge pixels that are partly foreground."""
    shape = (draw(st.integers(1, 3)), 1, draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    levels = draw(st.sampled_from([[0], [255], [0, 255], [0, 1, 100, 255]]))
    return torch.from_numpy(draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from(levels)))).float() / 255


@given(coverage())
@settings(max_examples=50, deadline=None)
def test_foreground_is_every_pixel_with_any_coverage_and_background_the_rest(masks: Tensor) -> None:
    foreground, background = (region_masks(region, masks, radius=1) for region in (Region.FOREGROUND, Region.BACKGROUND))
    assert np.array_equal(foreground.numpy(), masks.numpy() > 0)
    assert (foreground ^ background).all()
    assert region_masks(Region.EVERYWHERE, masks, radius=1).all()
    assert torch.equal(region_masks(Region.OUTSIDE_BOX, masks, radius=1), bounding_boxes(masks) == 0)


@given(coverage(), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_the_boundary_is_every_pixel_near_to_both_sides_of_the_outline(masks: Tensor, radius: int) -> None:
    band = region_masks(Region.BOUNDARY, masks, radius=radius)
    for mask, got in zip(masks.numpy()[:, 0] > 0, band.numpy()[:, 0], strict=True):
        if mask.all() or not mask.any():
            assert not got.any()
            continue
        to_foreground = ndimage.distance_transform_cdt(~mask, metric="chessboard")
        to_background = ndimage.distance_transform_cdt(mask, metric="chessboard")
        assert np.array_equal(got, np.maximum(to_foreground, to_background) <= radius)


def test_every_region_belongs_to_its_image() -> None:
    masks = (torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.6).float()
    for region in Region:
        together = region_masks(region, masks, radius=1)
        for index in range(4):
            assert torch.equal(region_masks(region, masks[index : index + 1], radius=1)[0], together[index])
