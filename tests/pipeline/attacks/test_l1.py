"""The L1 ball inside [0,1]: its projection, its steps and its searches against closed forms and the authors' code."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import L1_projection
from scipy.optimize import brentq
from torch import Tensor

from pipeline.attacks.apgd import apgd
from pipeline.attacks.apgd_l1 import begin_l1
from pipeline.attacks.norms import ball_of, sparse_signs
from pipeline.attacks.objectives import ModelObjective, margin
from pipeline.attacks.pgd import pgd_l1
from pipeline.attacks.runner import run_attack
from pipeline.attacks.specs import ClassAttack
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import ThreatModel
from pipeline.masks.config import MaskSource
from pipeline.system import TwoStage


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(seed: int, count: int = 3, side: int = 6) -> Tensor:
    """Some values at 0 and at 1, where a change has room one way only."""
    return torch.rand(count, 3, side, side, generator=seeded(seed), dtype=torch.float64).mul(1.4).sub(0.2).clamp(0, 1)


def linear(weights: Tensor) -> ModelObjective:
    def score(points: Tensor) -> Tensor:
        return (points * weights).flatten(1).sum(1)

    score.select = lambda _: score  # type: ignore[attr-defined]
    return score  # type: ignore[return-value]


def best_linear(images: Tensor, weights: Tensor, epsilon: float) -> Tensor:
    """The most that a linear score rises: the values of largest weight first, each as far as [0,1] reaches."""
    gains = []
    for image, weight in zip(images.flatten(1).numpy(), weights.flatten(1).numpy(), strict=True):
        room, left, gain = np.where(weight > 0, 1 - image, image), epsilon, 0.0
        for place in np.argsort(-np.abs(weight)):
            taken = min(left, room[place])
            gain, left = gain + taken * abs(weight[place]), left - taken
        gains.append(gain)
    return torch.tensor(gains)


@given(seed=st.integers(0, 10_000), epsilon=st.floats(0.01, 40), spread=st.sampled_from([0.01, 0.3, 2.0]))
@settings(deadline=None, max_examples=60)
def test_the_projection_is_the_nearest_point_of_ball_and_box_together(seed: int, epsilon: float, spread: float) -> None:
    images = images_of(seed)
    wanted = torch.randn(images.shape, generator=seeded(seed + 1), dtype=torch.float64) * spread
    found = ball_of("l1", images, epsilon).project(images + wanted) - images
    for image, delta, result in zip(images, wanted, found, strict=True):
        # Lagrange: every change is lowered by one multiplier, and cut off at the box. Its value by another root finder.
        room = torch.where(delta > 0, 1 - image, image)

        def at(multiplier: float, delta: Tensor = delta, room: Tensor = room) -> Tensor:
            return (delta.abs() - multiplier).clamp_min(0).minimum(room)

        free = float(at(0.0).sum()) <= epsilon
        multiplier = 0.0 if free else brentq(lambda one: float(at(one).sum()) - epsilon, 0, float(delta.abs().max()), xtol=1e-14)
        torch.testing.assert_close(result, at(multiplier) * delta.sign(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 30.0])
def test_the_projection_is_that_of_the_authors(epsilon: float) -> None:
    images = images_of(0).float()
    wanted = torch.randn(images.shape, generator=seeded(1)) * 0.7
    theirs = images + wanted + L1_projection(images, wanted, epsilon)
    torch.testing.assert_close(ball_of("l1", images, epsilon).project(images + wanted), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.3, 2.0, 12.0])
@pytest.mark.parametrize("search", ["apgd", "pgd"])
def test_on_a_linear_score_both_searches_come_to_the_closed_form_of_ball_and_box(search: str, epsilon: float) -> None:
    side = 16 if search == "apgd" else 6
    images, weights = images_of(2, side=side), torch.randn(3, 3, side, side, generator=seeded(3), dtype=torch.float64)
    objective, seeds = linear(weights), torch.arange(3)
    if search == "apgd":
        found = apgd(objective, images, norm="l1", epsilon=epsilon, num_steps=100, seeds=seeds)
    else:
        found = pgd_l1(objective, images, epsilon=epsilon, step_size=epsilon / 50, num_steps=300, seeds=seeds)
    best, risen = best_linear(images, weights, epsilon), objective(found) - objective(images)
    assert (risen <= best * (1 + 1e-9)).all()
    assert (risen >= 0.99 * best).all()


def test_a_step_goes_to_the_largest_entries_as_far_as_they_have_room() -> None:
    images = torch.full((1, 3, 10, 10), 0.5, dtype=torch.float64)
    images[0, 0, 0, :2] = torch.tensor([1.0, 0.1])
    gradients, expected = torch.zeros_like(images), torch.zeros_like(images)
    gradients[0, 0, 0, :6] = torch.tensor([9.0, -8.0, 7.0, 6.0, -5.0, 4.0])  # the first leads out of [0,1], the second soon does
    moved = ball_of("l1", images, 1.0).move(images, gradients, torch.full((1, 1, 1, 1), 0.6, dtype=torch.float64))
    expected[0, 0, 0, 1:5] = torch.tensor([-0.1, 0.2, 0.2, -0.1])  # a hundredth of 300 values: a third of the step each at most
    torch.testing.assert_close(moved - images, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("width", [1, 49])  # a hundredth of 3 values, and of 147
def test_in_a_small_image_one_value_takes_the_whole_step(width: int) -> None:
    images, expected = torch.full((1, 3, 1, width), 0.5), torch.zeros(1, 3, 1, width)
    expected[0, 1, 0, 0] = 0.3
    gradients = torch.linspace(0.1, 0.2, expected.numel()).view_as(expected) + 10 * expected
    moved = ball_of("l1", images, 1.0).move(images, gradients, torch.full((1, 1, 1, 1), 0.3))
    torch.testing.assert_close(moved - images, expected)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, [0, -1, 0, 0, 0, 0]),  # never none
        (1, [0, -1, 0, 0, 0, 0]),
        (2, [0, -1, 0, 0, 1, 0]),
        (3, [-1, -1, 1, 0, 1, 0]),  # of two alike both
        (6, [-1, -1, 1, 0, 1, 1]),
        (60, [-1, -1, 1, 0, 1, 1]),  # at most all that are not 0
    ],
)
def test_a_sparse_step_is_along_the_signs_of_the_largest_entries_and_has_length_1(count: int, expected: list[int]) -> None:
    gradients = torch.tensor([-2.0, -9.0, 2.0, 0.0, 3.0, 1e-9]).view(1, 3, 2, 1)
    signs = torch.tensor(expected).view(1, 3, 2, 1)
    both = sparse_signs(torch.cat([gradients, 0 * gradients]), torch.tensor([count, count]))
    torch.testing.assert_close(both, torch.cat([signs / signs.abs().sum(), 0 * gradients]))


def test_larger_balls_are_searched_first_and_left_again() -> None:
    images, weights = images_of(4), torch.randn(3, 3, 6, 6, generator=seeded(5), dtype=torch.float64)
    asked: list[Tensor] = []

    def score(points: Tensor) -> Tensor:
        asked.append((points.detach() - images).abs().flatten(1).sum(1))
        return (points * weights).flatten(1).sum(1)

    score.select = lambda _: score  # type: ignore[attr-defined]
    ball = ball_of("l1", images, 2.0)
    begin, left = begin_l1(score, ball, torch.arange(3), 20)  # type: ignore[arg-type]
    assert left == 8
    assert len(asked) == 2 * (6 + 1)
    torch.testing.assert_close(asked[0], torch.full_like(asked[0], 6.0), rtol=1e-5, atol=0)  # where noise lies in the largest ball
    largest = torch.stack(asked).amax(dim=1)
    assert largest[:7].max() > 2 * 2.0, "it never left the ball of twice the radius"
    assert (largest[:7] <= 6.0).all()
    assert (largest[7:] <= 4.0).all()
    assert torch.equal(ball.project(begin), begin)


def test_what_is_kept_of_a_search_lies_in_the_ball_although_larger_ones_were_searched(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    system = make_system(MaskSource.LEARNED)
    images, labels, context = make_batch(system, 6)
    batch = AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(6))
    fallen = []
    for epsilon in (0.5, 2.0, 8.0):
        threat = ThreatModel(norm="l1", epsilons=(epsilon,))
        found = run_attack("a", ClassAttack(num_steps=20), batch, threat=threat, epsilon=epsilon, run_seed=0, stop_at_success=False)
        assert ((found.images.double() - images.double()).abs().flatten(1).sum(1) <= epsilon).all()
        fallen.append(int(found.misclassified.sum()))
    assert fallen == sorted(fallen)
    assert 0 < fallen[1] < fallen[2] or fallen[0] < fallen[2]


@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.NONE])
def test_sparse_changes_fell_what_the_attack_in_the_euclidean_ball_inside_does_not(
    source: MaskSource, make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    """The L2 ball of radius epsilon / sqrt(d) lies in the L1 ball of radius epsilon: whoever searches the larger finds more."""
    system = make_system(source)
    images, labels, context = make_batch(system, 12)
    objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
    seeds, epsilon = torch.arange(12), 3.0
    inner = apgd(objective, images, norm="l2", epsilon=epsilon / images[0].numel() ** 0.5, num_steps=20, seeds=seeds)
    outer = apgd(objective, images, norm="l1", epsilon=epsilon, num_steps=20, seeds=seeds)
    assert (objective(outer) >= objective(inner)).all()
    assert (objective(outer) > 0).sum() > (objective(inner) > 0).sum()
