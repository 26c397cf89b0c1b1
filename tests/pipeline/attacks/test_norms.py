"""Projections and random points: fixed points, radii measured in float64, distributions."""

from functools import partial
from typing import get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from pipeline.attacks.norms import LinfBall, ball_of, dual_length, length, widest
from pipeline.attacks.threat import Norm

NORMS: tuple[Norm, ...] = get_args(Norm)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norms(deltas: Tensor) -> Tensor:
    return deltas.double().flatten(1).norm(dim=1)


@given(side=st.integers(1, 9), scale=st.sampled_from([0, 1e-20, 1e-3, 0.1]), radius=st.sampled_from([0.0, 1e-6, 8 / 255, 0.5, 3.0]))
def test_the_l2_projection_leaves_the_interior_alone_and_ends_on_the_sphere_in_the_same_direction(side, scale, radius) -> None:
    images = torch.zeros(3, 3, side, side, dtype=torch.float64).add(0.5)
    points = images + (torch.randn(images.shape, generator=seeded(side)) * scale).clamp(-0.4, 0.4)  # [0,1] does not matter
    deltas, projected = points - images, ball_of("l2", images, radius).project(points) - images
    outside = norms(deltas) > radius
    assert torch.equal(projected[~outside], deltas[~outside])
    torch.testing.assert_close(norms(projected)[outside], torch.full((int(outside.sum()),), radius).double(), rtol=2e-6, atol=0)
    along = (projected * deltas).flatten(1).sum(1)
    torch.testing.assert_close(along, norms(projected) * norms(deltas), rtol=1e-5, atol=1e-30)


@given(
    side=st.integers(1, 8),
    epsilon=st.one_of(st.floats(0, 2), st.sampled_from([0.0, 1e-9, 1e-4, 8 / 255, 1.0])),
    kind=st.sampled_from(["linf", "l2", "l1"]),
    region=st.sampled_from([None, "none", "all", "half"]),
    seed=st.integers(0, 1000),
)
@example(side=2, epsilon=1e-12, kind="l1", region=None, seed=2)  # smaller than the rounding of what is projected
@settings(max_examples=150)
def test_points_brought_into_a_ball_are_in_it_exactly_and_stay_when_brought_again(
    side: int, epsilon: float, kind: str, region: str | None, seed: int
) -> None:
    images = torch.rand(2, 3, side, side, generator=seeded(seed)).mul(1.4).sub(0.2).clamp(0, 1)
    allowed = torch.rand(2, 1, side, side, generator=seeded(seed + 1)) > {"none": 1.0, "all": -1.0, "half": 0.5}.get(
        region or "all", 0
    )
    ball = ball_of(kind, images, epsilon, None if region is None else allowed)  # type: ignore[arg-type]
    far = images + torch.randn(images.shape, generator=seeded(seed + 2)) * 0.3
    for points in (ball.project(far), ball.random_points(torch.tensor([seed, seed + 1]))):
        assert ((points >= 0) & (points <= 1)).all()
        if region is not None:
            assert torch.equal(torch.where(allowed, images, points), images)
        distance = (points.double() - images.double()).abs()
        order = {"linf": torch.inf, "l2": 2, "l1": 1}[kind]
        assert (torch.linalg.vector_norm(distance.flatten(1), ord=order, dim=1) <= epsilon * (1 + 1e-7)).all()
        assert torch.linalg.vector_norm((points - images).flatten(1), ord=order, dim=1).amax().item() <= epsilon
        if epsilon == 0:
            assert torch.equal(points, images)
        assert torch.equal(ball.project(points), points)


def test_small_l2_balls_around_large_images_hold_although_stored_points_are_rounded() -> None:
    images = torch.rand(2, 3, 224, 224, generator=seeded(3))
    for epsilon in (1e-5, 1e-3, 0.1, 3.0):
        ball = ball_of("l2", images, epsilon)
        points = ball.project(images + torch.randn(images.shape, generator=seeded(4)))
        assert norms(points.double() - images.double()).max() <= epsilon


@pytest.mark.parametrize("epsilon", [0.02, 8 / 255, 1e-4])
def test_no_stored_point_of_a_dark_image_is_farther_than_epsilon_in_double_precision(epsilon: float) -> None:
    # Near 0 numbers are denser than near epsilon: there the difference of a stored point and its image is itself rounded.
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 0.05
    ball = ball_of("linf", images, epsilon)
    for bound in (ball.lower, ball.upper):
        assert (bound.double() - images.double()).abs().max() <= epsilon


@pytest.mark.parametrize(
    ("norm", "sizes", "duals"), [("linf", [4, 0.5], [7, 6]), ("l2", [5, 3**0.5], [5, 3**0.5]), ("l1", [7, 6], [4, 0.5])]
)
def test_lengths_are_those_of_the_norm_and_of_its_dual_and_none_is_wider_than_the_image(norm: Norm, sizes, duals) -> None:
    deltas = torch.zeros(2, 3, 2, 2)
    deltas[0, 0, 0] = torch.tensor([3.0, -4.0])
    deltas[1] = 0.5
    torch.testing.assert_close(length(deltas, norm), torch.tensor(sizes, dtype=torch.float32))
    torch.testing.assert_close(dual_length(deltas, norm), torch.tensor(duals, dtype=torch.float32))
    assert widest(norm, 12) == pytest.approx(float(length(torch.ones(1, 3, 2, 2), norm)))


def test_the_ascent_direction_is_the_sign_or_the_unit_gradient_inside_the_region() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    gradients = torch.randn(2, 3, 4, 4, generator=seeded(5))
    region = torch.rand(2, 1, 4, 4, generator=seeded(6)) > 0.5
    assert torch.equal(ball_of("linf", images, 0.1).ascent(gradients), gradients.sign())
    inside = gradients * region
    expected = inside / inside.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    torch.testing.assert_close(ball_of("l2", images, 0.1, region).ascent(gradients), expected)


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1.0, 1e30])
def test_the_unit_gradient_does_not_depend_on_the_gradients_scale(scale: float) -> None:
    gradients = torch.randn(2, 3, 4, 4, generator=seeded(7))
    images = torch.full((2, 3, 4, 4), 0.5)
    ball = ball_of("l2", images, 0.1)
    torch.testing.assert_close(ball.ascent(gradients * scale), ball.ascent(gradients), rtol=1e-4, atol=1e-6)


def test_a_zero_gradient_has_no_direction_and_no_nan() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    for ball in (*(ball_of(norm, images, 0.1) for norm in NORMS), ball_of("l2", images, 0.1, torch.zeros(2, 1, 4, 4))):
        assert torch.equal(ball.move(images, torch.zeros_like(images), torch.full((1, 1, 1, 1), 0.1)), images)


@pytest.mark.parametrize("allowed", [[1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0]])
def test_random_points_are_uniform_in_the_ball(allowed: list[int]) -> None:
    images, seeds, free = torch.full((400, 3, 2, 2), 0.5), torch.arange(400), 3 * sum(allowed)
    region = None if free == 12 else torch.tensor(allowed).bool().view(1, 1, 2, 2).expand(400, -1, -1, -1)
    cube = (ball_of("linf", images, 0.1, region).random_points(seeds) - images).double()
    assert stats.kstest(cube[cube != 0].numpy(), stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3
    # In d dimensions the share of the volume within r of the center is (r / epsilon)^d.
    lengths = norms(ball_of("l2", images, 0.1, region).random_points(seeds) - images)
    assert stats.kstest(((lengths / 0.1) ** free).numpy(), "uniform").pvalue > 1e-3


def test_a_random_point_belongs_to_the_image_and_not_to_its_batch() -> None:
    images, seeds = torch.rand(5, 3, 4, 4, generator=seeded(8)), torch.arange(5) * 31
    for norm in NORMS:
        together = ball_of(norm, images, 0.1).random_points(seeds)
        torch.testing.assert_close(ball_of(norm, images[2:3], 0.1).random_points(seeds[2:3])[0], together[2], rtol=0, atol=1e-7)


def test_layout_is_kept() -> None:
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    region = torch.rand(2, 1, 8, 8)
    for ball in (ball_of(norm, images, 0.1, where) for norm in NORMS for where in (None, region)):
        for points in (
            ball.project(images + 1),
            ball.random_points(torch.arange(2)),
            ball.move(images, images, torch.full((1, 1, 1, 1), 0.1)),
        ):
            assert points.is_contiguous(memory_format=torch.channels_last)
        assert not isinstance(ball, LinfBall) or ball.upper.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm", NORMS)
def test_what_makes_no_ball_is_refused(norm: Norm) -> None:
    build = partial(ball_of, norm)
    with pytest.raises(ValueError, match=r"images in \[0,1\], these are in \[0, 255\]"):
        build(torch.tensor([0.0, 255.0, 3.0]).view(1, 3, 1, 1), 0.1)
    with pytest.raises(ValueError, match=r"images in \[0,1\], these are in \[nan, nan\]"):
        build(torch.full((1, 3, 1, 1), torch.nan), 0.1)
    with pytest.raises(ValueError, match="negative"):
        build(torch.rand(2, 3, 2, 2), torch.tensor([0.1, -0.1]))


def test_a_point_on_the_sphere_is_in_the_ball_and_stays_to_the_bit() -> None:
    deltas = torch.zeros(1, 3, 2, 2)
    deltas[0, 0, 0] = torch.tensor([0.1875, 0.25])  # of length 0.3125, without rounding
    images = torch.full((1, 3, 2, 2), 0.5)
    assert torch.equal(ball_of("l2", images, 0.3125).project(images + deltas), images + deltas)
    assert not torch.equal(ball_of("l2", images, 0.3124).project(images + deltas), images + deltas)
