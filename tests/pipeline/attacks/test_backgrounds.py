"""Backgrounds of known colors: what was exchanged and what was kept can be said pixel by pixel."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.attacks.backgrounds import choose_donors, observe_backdrop, with_backdrop, without_objects
from pipeline.attacks.measurements import Backdrop, Backgrounds
from pipeline.attacks.measuring import Donors, MeasuredBatch
from pipeline.masks.context import MaskContext
from pipeline.system import as_system

SIDE = 12
INPAINTING = 2.5 / 255  # by how much OpenCV misses even a background of one color


def scene(background: float, thing: float, *, left: int = 3) -> tuple[Tensor, Tensor]:
    """A square object of one color on a background of another, both multiples of 1/255."""
    masks = torch.zeros(1, 1, SIDE, SIDE)
    masks[:, :, 4:9, left : left + 5] = 1
    images = torch.full((1, 3, SIDE, SIDE), background / 255)
    return torch.where(masks > 0, thing / 255, images), masks


def test_an_exchanged_background_is_the_donors_without_its_object_and_the_object_stays_to_the_bit() -> None:
    images, masks = scene(20, 200)
    donors, donor_masks = scene(90, 240, left=6)
    for backdrop in (Backdrop.SAME_CLASS, Backdrop.OTHER_CLASS):
        swapped = with_backdrop(backdrop, images, masks, donors, donor_masks)
        assert torch.equal(swapped[(masks > 0).expand_as(images)], images[(masks > 0).expand_as(images)])
        background = swapped[(masks == 0).expand_as(images)]
        torch.testing.assert_close(background, torch.full_like(background, 90 / 255), rtol=0, atol=INPAINTING)


@pytest.mark.parametrize(("backdrop", "level"), [(Backdrop.SAME_CLASS, 90), (Backdrop.OTHER_CLASS, 150)])
def test_a_background_is_borrowed_from_the_class_that_its_name_says(backdrop: Backdrop, level: int) -> None:
    images, masks = scene(20, 200)

    def donors(same_class: bool) -> Donors:
        return Donors(*scene(90 if same_class else 150, 240), found=torch.tensor([True]))

    (spec,) = (condition for condition in Backgrounds().conditions() if condition.name == backdrop)
    numbers, system = torch.tensor([0]), as_system(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, 2)))
    context = MaskContext(oracle_masks=masks, sample_seeds=numbers)
    batch = MeasuredBatch(system=system, images=images, labels=numbers, context=context, seeds=numbers, donors=donors)
    shown = observe_backdrop(Backgrounds(), batch, spec).images
    assert shown[0, :, 0, 0] * 255 == pytest.approx([level] * 3, abs=INPAINTING * 255)


def test_a_half_covered_pixel_is_half_object_and_half_new_background() -> None:
    images, masks = scene(20, 200)
    donors, donor_masks = scene(90, 240)
    masks[0, 0, 4, 3:8] = 0.5
    swapped = with_backdrop(Backdrop.OTHER_CLASS, images, masks, donors, donor_masks)
    torch.testing.assert_close(swapped[0, :, 4, 3:8], torch.full((3, 5), (200 + 90) / 2 / 255), rtol=0, atol=INPAINTING)


def test_only_the_foreground_is_the_object_on_black_and_only_the_background_has_no_trace_of_the_object() -> None:
    images, masks = scene(20, 200)
    alone = with_backdrop(Backdrop.ONLY_FOREGROUND, images, masks)
    assert torch.equal(alone, images * masks)
    gone = with_backdrop(Backdrop.ONLY_BACKGROUND, images, masks)
    torch.testing.assert_close(gone, torch.full_like(gone, 20 / 255), rtol=0, atol=INPAINTING)


def test_the_background_itself_is_not_touched_by_painting_the_object_over() -> None:
    random = torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).float() / 255
    masks = torch.zeros(2, 1, SIDE, SIDE)
    masks[0, :, 4:7, 4:7] = 1
    painted = without_objects(random, masks)
    far = torch.ones(SIDE, SIDE, dtype=torch.bool)
    far[3:8, 3:8] = False  # the object and its neighbors
    assert torch.equal(painted[0][:, far], random[0][:, far])
    assert not torch.equal(painted[0][:, 4:7, 4:7], random[0][:, 4:7, 4:7])
    assert torch.equal(painted[1], random[1])
    assert (without_objects(random, torch.ones_like(masks)) == 0).all()


def test_donors_are_of_the_class_that_was_asked_for_and_of_another_group() -> None:
    random = np.random.default_rng(0)
    labels, groups = random.integers(0, 4, 300), random.integers(0, 60, 300).astype(str)
    candidates = np.flatnonzero(random.random(300) < 0.5)
    rows, seeds = np.arange(300), np.arange(300) * 7
    for same_class in (True, False):
        donors = choose_donors(rows, seeds, labels, groups, candidates, same_class=same_class)
        assert (donors >= 0).all()
        assert ((labels[donors] == labels) == same_class).all()
        assert (groups[donors] != groups).all()
        assert set(donors.tolist()) <= set(candidates.tolist())
        assert len(set(donors.tolist())) > 50  # not one background for all
        part = choose_donors(rows[40:50], seeds[40:50], labels, groups, candidates, same_class=same_class)
        assert np.array_equal(part, donors[40:50])


def test_an_image_without_a_donor_is_told_apart() -> None:
    labels, groups = np.array([0, 0, 1]), np.array(["a", "a", "b"])
    rows = np.arange(3)
    assert choose_donors(rows, rows, labels, groups, rows, same_class=True).tolist() == [-1, -1, -1]
    assert choose_donors(rows, rows, labels, groups, rows, same_class=False)[:2].tolist() == [2, 2]
    with pytest.raises(ValueError, match="'same-class' needs the images and masks of donors"):
        with_backdrop(Backdrop.SAME_CLASS, torch.rand(1, 3, 4, 4), torch.ones(1, 1, 4, 4))


def test_objects_are_painted_over_by_opencv_with_a_rim_of_one_pixel_and_a_reach_of_three() -> None:
    images = torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(5)).float() / 255
    masks = torch.zeros(1, 1, SIDE, SIDE)
    masks[0, 0, 3:6, 2:7] = 0.01  # any trace of the object
    hole = np.zeros((SIDE, SIDE), np.uint8)
    hole[2:7, 1:8] = 1
    pixels = (images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    expected = cv2.inpaint(pixels, hole, 3, cv2.INPAINT_TELEA)
    assert np.array_equal((without_objects(images, masks)[0].permute(1, 2, 0).numpy() * 255).round(), expected)
    assert without_objects(images[:0], masks[:0]).shape == (0, 3, SIDE, SIDE)


def test_a_donor_is_drawn_by_the_images_seed_and_the_kind_of_background_alone() -> None:
    labels, groups, rows = np.repeat([0, 1], 20), np.arange(40), np.arange(40)
    for same_class in (True, False):
        donors = choose_donors(rows[3:4], np.array([77]), labels, groups, rows, same_class=same_class)
        fit = [row for row in range(40) if (labels[row] == 0) == same_class and row != 3]
        assert donors[0] == fit[np.random.default_rng([77, int(same_class)]).integers(len(fit))]
