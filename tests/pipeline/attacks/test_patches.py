"""Patches against counts by hand and a linear model whose best place and best content are known in closed form."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.attacks.objectives import ModelObjective, margin
from pipeline.attacks.patch_attack import PatchAttack, patch_side
from pipeline.attacks.patches import (
    allowed_corners,
    patch_masks,
    patch_share,
    promising_corners,
    random_corners,
    start_corners,
)
from pipeline.attacks.pgd import pgd_linf
from pipeline.attacks.regions import region_masks
from pipeline.attacks.runner import run_attack, skipped_attacks
from pipeline.attacks.specs import ClassAttack
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import Region, ThreatModel
from pipeline.errors import ConfigError
from pipeline.masks.config import Fill, MaskSource
from pipeline.randomness import derive_seeds
from pipeline.system import TwoStage, attacked


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear:
    """Scores <weights, image>, one weight for every value."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, images: Tensor) -> Tensor:
        return (images * self.weights).flatten(1).sum(1)

    def select(self, _: Tensor) -> "Linear":
        return self


@given(side=st.integers(1, 40), height=st.integers(1, 60), width=st.integers(1, 60), more=st.floats(0, 0.999))
def test_a_patch_has_the_largest_side_whose_area_is_within_its_share(side: int, height: int, width: int, more: float) -> None:
    side = min(side, height, width)
    assert patch_side(side**2 / (height * width), height, width) == side
    between = (side**2 + more * (2 * side + 1)) / (height * width)
    found = patch_side(min(1.0, between), height, width)
    assert found in (side, side + 1)
    assert found**2 <= min(1.0, between) * height * width * (1 + 1e-9)


def test_a_share_below_one_pixel_has_no_patch_and_one_that_is_no_share_is_refused() -> None:
    assert patch_side(0.99 / 64, 8, 8) == patch_side(0, 8, 8) == 0
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share of the image between 0 and 1"):
            patch_side(share, 8, 8)
    with pytest.raises(ValueError, match="does not lie in an image of 8 x 8"):
        allowed_corners(9, (8, 8), None, 1)


@given(side=st.integers(1, 6), row=st.integers(0, 4), column=st.integers(0, 6))
def test_a_patch_covers_exactly_the_pixels_of_its_square(side: int, row: int, column: int) -> None:
    masks = patch_masks(torch.tensor([[row, column], [-1, -1]]), side, (10, 12))
    expected = np.zeros((10, 12), dtype=bool)
    expected[row : row + side, column : column + side] = True
    assert np.array_equal(masks[0, 0].numpy(), expected)
    assert masks[0].sum() == side**2
    assert not masks[1].any()


def test_allowed_corners_are_those_whose_every_pixel_is_in_the_region() -> None:
    region = torch.rand(3, 1, 9, 11, generator=seeded(0)) < 0.9
    region[2] = False
    for side in (1, 2, 3):
        found = allowed_corners(side, (9, 11), region, 3)
        for image in range(3):
            for row in range(9 - side + 1):
                for column in range(11 - side + 1):
                    window = region[image, 0, row : row + side, column : column + side]
                    assert found[image, row, column] == bool(window.all())
    assert allowed_corners(3, (9, 11), None, 2).all()


def test_random_places_are_uniform_over_the_allowed_ones_and_follow_the_seed_alone() -> None:
    allowed = torch.zeros(1, 4, 5, dtype=torch.bool)
    allowed[0, [0, 2, 3], [4, 1, 0]] = True
    seeds = torch.arange(3000)
    corners = random_corners(allowed.expand(3000, -1, -1), seeds)
    counts = {
        tuple(corner): int(n) for corner, n in zip(*(x.tolist() for x in corners.unique(dim=0, return_counts=True)), strict=True)
    }
    assert set(counts) == {(0, 4), (2, 1), (3, 0)}
    assert all(abs(count - 1000) < 5 * np.sqrt(3000 * 2 / 9) for count in counts.values())
    assert torch.equal(random_corners(allowed.expand(7, -1, -1), seeds[5:12]), corners[5:12])
    assert (random_corners(torch.zeros_like(allowed), seeds[:1]) == -1).all()


def _best_place_by_hand(weights: np.ndarray, image: np.ndarray, side: int, allowed: np.ndarray) -> tuple[float, tuple[int, int]]:
    """On a linear model every pixel of a patch goes to 1 where its weight is positive, else to 0."""
    gain = np.where(weights > 0, weights * (1 - image), -weights * image).sum(0)
    places = [(row, column) for row, column in zip(*np.nonzero(allowed), strict=True)]
    gains = [gain[row : row + side, column : column + side].sum() for row, column in places]
    best = int(np.argmax(gains))
    return float(gains[best]), (int(places[best][0]), int(places[best][1]))


@pytest.mark.parametrize("seed", range(5))
def test_on_a_linear_model_the_most_promising_place_and_its_content_are_the_optimum(seed: int) -> None:
    images = torch.rand(4, 3, 9, 10, generator=seeded(seed), dtype=torch.float64)
    weights = torch.randn(3, 9, 10, generator=seeded(seed + 100), dtype=torch.float64)
    region = torch.rand(4, 1, 9, 10, generator=seeded(seed + 200)) < 0.95
    side = 3
    allowed = allowed_corners(side, (9, 10), region, 4)
    assert allowed.flatten(1).any(dim=1).all()
    objective = Linear(weights)
    corners = promising_corners(objective, images, allowed, side=side, rank=0)
    masks = patch_masks(corners, side, (9, 10))
    points = pgd_linf(objective, images, epsilon=1.0, num_steps=10, region=masks, seeds=torch.arange(4))
    for image in range(4):
        gain, place = _best_place_by_hand(weights.numpy(), images[image].numpy(), side, allowed[image].numpy())
        assert tuple(corners[image].tolist()) == place
        assert (objective(points) - objective(images))[image].item() == pytest.approx(gain, rel=1e-9)


class Roots(Linear):
    """Scores the roots of the values: at 0 their slope is infinite, as behind a correction of gamma."""

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images.sqrt())


def test_black_pixels_of_infinite_slope_take_no_place_away() -> None:
    images, weights = torch.ones(2, 3, 6, 6), torch.ones(3, 6, 6)
    images[0, :, 1, 4] = images[1, 0, 5, 5] = 0
    weights[:, 5, 5] = -1  # what is black there cannot be lowered
    allowed = allowed_corners(2, (6, 6), None, 2)
    first, second = (promising_corners(Roots(weights), images, allowed, side=2, rank=rank) for rank in (0, 1))
    assert patch_masks(first, 2, (6, 6))[0, 0, 1, 4]
    for corners in (first, second):
        assert (corners >= 0).all()


def test_later_places_do_not_overlap_earlier_ones_as_long_as_there_is_room_and_never_repeat() -> None:
    images = torch.rand(2, 3, 8, 8, generator=seeded(1))
    objective = Linear(torch.randn(3, 8, 8, generator=seeded(2)))
    allowed = allowed_corners(4, (8, 8), None, 2)
    taken = [promising_corners(objective, images, allowed, side=4, rank=rank) for rank in range(26)]
    for image in range(2):
        corners = [tuple(corner[image].tolist()) for corner in taken]
        assert len(set(corners[:25])) == 25  # every place once
        assert corners[25] == (-1, -1)
        first, second = corners[:2]
        if any(max(abs(row - first[0]), abs(column - first[1])) >= 4 for row in range(5) for column in range(5)):
            assert max(abs(first[0] - second[0]), abs(first[1] - second[1])) >= 4


def test_the_share_of_a_patch_is_that_of_the_smallest_square_around_what_changed() -> None:
    clean = torch.rand(4, 3, 8, 10, generator=seeded(3))
    images = clean.clone()
    images[1, 0, 2, 3] = 2
    images[2, 1, 1:4, 5] = 2
    images[3, 2, [0, 7], [0, 9]] = 2
    np.testing.assert_allclose(patch_share(images, clean).numpy(), [0, 1 / 80, 9 / 80, 100 / 80])


@pytest.mark.parametrize("source", list(MaskSource))
def test_a_patch_on_the_background_leaves_the_object_alone_for_every_mask_source(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple], source: MaskSource
) -> None:
    system = make_system(source)
    images, labels, context = make_batch(system, 3)
    background = region_masks(Region.BACKGROUND, context.oracle_masks, radius=1)
    objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
    with attacked(system):
        for start in (0, 1):
            corners = start_corners(objective, images, background, side=4, start=start, num_promising=1, seeds=torch.arange(3))
            region = patch_masks(corners, 4, (16, 16))
            points = pgd_linf(objective, images, epsilon=1.0, num_steps=3, region=region, seeds=torch.arange(3))
            assert torch.equal(torch.where(background, images, points), images)
            assert (patch_share(points, images) <= 16 / 256).all()
            assert (objective(points) >= objective(images)).all()


def test_beside_the_object_no_patch_changes_an_oracle_system_with_a_constant_fill(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    """By construction, and to the bit: what is left of the attack beside the object is what the mask lets through."""
    system = make_system(MaskSource.ORACLE, Fill.GREY)
    images, _, context = make_batch(system, 3)
    background = region_masks(Region.BACKGROUND, context.oracle_masks, radius=1)
    corners = random_corners(allowed_corners(4, (16, 16), background, 3), torch.arange(3))
    assert (corners >= 0).all()
    painted = torch.where(patch_masks(corners, 4, (16, 16)), 1 - images, images)
    assert not torch.equal(painted, images)
    assert torch.equal(system(painted, context), system(images, context))


@pytest.mark.parametrize("source", list(MaskSource))
def test_as_an_attack_of_a_suite_it_keeps_to_its_square_and_its_region_on_every_mask_source(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple], source: MaskSource
) -> None:
    system = make_system(source)
    images, labels, context = make_batch(system, 3)
    batch = AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(3))
    spec = PatchAttack(num_promising=1, num_random=1, num_steps=3)
    for region in (Region.EVERYWHERE, Region.FOREGROUND, Region.BACKGROUND):
        threat = ThreatModel(norm="patch", epsilons=(0.04,), region=region)
        found = run_attack("patch", spec, batch, threat=threat, epsilon=0.04, run_seed=0)
        assert (patch_share(found.images, images) <= 9 / 256).all()  # 0.04 of 256 pixels has room for a square of 3
        allowed = region_masks(region, context.oracle_masks, radius=1)
        assert torch.equal(torch.where(allowed, images, found.images), images)
        assert torch.equal(system(found.images, context).argmax(1) != labels, found.misclassified)
        hidden = run_attack("patch", spec, batch, threat=replace(threat, knowledge="hidden-seed"), epsilon=0.04, run_seed=0)
        assert (patch_share(hidden.images, images) <= 9 / 256).all()


def test_a_patch_and_a_ball_know_nothing_of_each_other(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    system = make_system()
    images, labels, context = make_batch(system, 2)
    batch = AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(2))
    attacks = {"patch": PatchAttack(), "class": ClassAttack()}
    in_a_ball = AttackSuite(threat=ThreatModel(norm="l2", epsilons=(1.0,)), attacks=attacks)
    assert skipped_attacks(in_a_ball, batch) == {"patch": "it keeps to patch, and the threat is l2"}
    in_a_square = AttackSuite(threat=ThreatModel(norm="patch", epsilons=(0.1,)), attacks=attacks)
    assert skipped_attacks(in_a_square, batch) == {"class": "it keeps to linf, l2 and l1, and the threat is patch"}
    too_small = AttackSuite(threat=ThreatModel(norm="patch", epsilons=(0.003, 0.1)), attacks=attacks)
    with pytest.raises(ConfigError, match="less than a pixel"):
        skipped_attacks(too_small, batch)
    with pytest.raises(ConfigError, match=r"0.05, never 5"):
        ThreatModel(norm="patch", epsilons=(5.0,))
    with pytest.raises(ConfigError, match="no place to try"):
        PatchAttack(num_promising=0, num_random=0)


def test_an_images_places_do_not_depend_on_its_batch(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    system = make_system(MaskSource.LEARNED)
    images, labels, context = make_batch(system, 4)
    objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
    seeds = torch.tensor([3, 1, 4, 1])
    for start in range(4):
        options = {"side": 4, "start": start, "num_promising": 2}
        together = start_corners(objective, images, None, seeds=seeds, **options)
        for image in range(4):
            one = torch.tensor([image])
            alone = start_corners(objective.select(one), images[one], None, seeds=seeds[one], **options)
            assert torch.equal(alone, together[one])


def test_promising_places_are_tried_first_in_their_order_and_then_random_ones_by_the_number_of_the_start() -> None:
    images, seeds = torch.rand(2, 3, 9, 10, generator=seeded(4)), torch.tensor([3, 4])
    objective = Linear(torch.randn(3, 9, 10, generator=seeded(5)))
    region = torch.rand(2, 1, 9, 10, generator=seeded(6)) < 0.98
    allowed = allowed_corners(2, (9, 10), region, 2)
    for start in range(5):
        found = start_corners(objective, images, region, side=2, start=start, num_promising=2, seeds=seeds)
        promising = promising_corners(objective, images, allowed, side=2, rank=start)
        assert torch.equal(found, promising if start < 2 else random_corners(allowed, derive_seeds(seeds, start)))
