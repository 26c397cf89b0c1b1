"""Smoothing against linear systems, whose smoothed decision and whose distance to it are known in closed form."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pipeline.attacks.pgd import pgd_l2
from pipeline.attacks.smoothing import ABSTAIN, SmoothedObjective, certify, predict
from pipeline.masks.config import MaskSource
from pipeline.randomness import derive_seeds, normal
from pipeline.system import TwoStage, attacked

SIDE = 6


def linear_model(seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Two classes and the unit normal of the hyperplane between them; smoothing a half space gives the half space."""
    normal = torch.randn(3 * SIDE * SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    normal = normal / normal.norm()
    layer = nn.Linear(len(normal), 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([normal, -normal]))
        layer.bias.copy_(torch.stack([-0.5 * normal.sum(), 0.5 * normal.sum()]))
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False), normal


def images_at(distances: list[float], normal: Tensor) -> Tensor:
    """Images whose signed distance from the hyperplane is known."""
    return torch.stack([(0.5 + distance * normal).view(3, SIDE, SIDE) for distance in distances])


def test_on_a_half_space_the_radius_is_a_lower_limit_of_the_distance_and_comes_near_it() -> None:
    model, normal = linear_model()
    distances = [0.05, 0.1, 0.2, 0.3, -0.15]
    images, sigma = images_at(distances, normal), 0.2
    certificate = certify(model, images, sigma=sigma, seeds=torch.arange(5), num_draws=1000, error_rate=0.001)
    assert certificate.predictions.tolist() == [0, 0, 0, 0, 1]
    radii = certificate.radii.numpy()
    assert (radii <= np.abs(distances)).all()
    # By hand: the share of votes is the normal distribution's, its lower limit about 3.1 standard errors below the count,
    # which is itself less than 3 from the share.
    share = stats.norm.cdf(np.abs(distances) / sigma)
    low = share - 6.1 * np.sqrt(share * (1 - share) / 1000)
    assert (radii >= sigma * stats.norm.ppf(low)).all()


def test_the_radius_is_clopper_and_pearsons_at_the_count_and_never_more_than_the_draws_can_prove() -> None:
    def always(images: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(images), 3)

    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    certificate = certify(always, images, sigma=0.5, seeds=torch.arange(2), num_draws=100, error_rate=0.001)
    assert certificate.predictions.tolist() == [1, 1]
    # All of n votes: the limit p solves p ** n = error rate.
    np.testing.assert_allclose(certificate.radii.numpy(), 0.5 * stats.norm.ppf(0.001 ** (1 / 100)))
    limit = stats.binomtest(100, 100).proportion_ci(1 - 2 * 0.001, method="exact").low
    np.testing.assert_allclose(certificate.radii.numpy(), 0.5 * stats.norm.ppf(limit))


def test_on_the_boundary_the_smoothed_system_abstains() -> None:
    model, normal = linear_model()
    images = images_at([0.0, 0.002, 0.5], normal)
    options = {"sigma": 0.25, "seeds": torch.arange(3), "num_draws": 400}
    certificate = certify(model, images, **options)
    assert certificate.predictions.tolist() == [ABSTAIN, ABSTAIN, 0]
    assert certificate.radii[:2].tolist() == [0, 0]
    assert predict(model, images, **options).tolist() == [ABSTAIN, ABSTAIN, 0]


def test_a_class_that_gets_no_vote_of_the_second_count_is_not_certified() -> None:
    calls = 0

    def fickle(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.eye(3)[0 if calls <= 10 else 1].expand(len(images), 3)

    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    certificate = certify(fickle, images, sigma=0.1, seeds=torch.arange(1), num_selection=10, num_draws=50)
    assert certificate.predictions.tolist() == [ABSTAIN]
    assert certificate.radii.tolist() == [0]


def test_false_certificates_are_as_rare_as_was_asked_for() -> None:
    """On the hyperplane every certificate is false: of 600 images at most a few, with an error rate of 2 %."""
    model, normal = linear_model()
    images = images_at([0.0], normal).expand(600, -1, -1, -1)
    certificate = certify(model, images, sigma=0.3, seeds=torch.arange(600), num_selection=5, num_draws=60, error_rate=0.02)
    false = int((certificate.predictions != ABSTAIN).sum())
    assert stats.binomtest(false, 600, 0.02, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize("source", list(MaskSource))
def test_no_attack_on_the_smoothed_system_gets_below_its_certificates_whatever_the_mask_source(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple], source: MaskSource
) -> None:
    system, sigma = make_system(source), 0.02
    images, _, context = make_batch(system, 6)
    seeds = torch.arange(6)

    def model(points: Tensor) -> Tensor:
        logits: Tensor = system(points, context)
        return logits

    options = {"sigma": sigma, "seeds": seeds, "num_draws": 60, "error_rate": 0.01}
    with attacked(system), torch.no_grad():
        certificate = certify(model, images, num_selection=20, **options)
        certified = certificate.radii > 0
        assert certified.any()
        labels = torch.where(certified, certificate.predictions, 0)
        objective = SmoothedObjective(model=system, labels=labels, context=context, sigma=sigma, seeds=seeds, num_draws=4)
        points = pgd_l2(objective, images, epsilon=certificate.radii.float(), num_steps=6, seeds=seeds)
        answers = predict(model, points, **options)
    assert not (certified & (answers != labels) & (answers != ABSTAIN)).any()


def test_far_beyond_its_radius_the_attack_does_fool_the_smoothed_system() -> None:
    """Or the test above would prove nothing: the same attack, where it is allowed to succeed, succeeds."""
    model, normal = linear_model()
    images, seeds = images_at([0.05, 0.1], normal), torch.arange(2)
    labels = torch.zeros(2, dtype=torch.int64)
    objective = SmoothedObjective(model=model, labels=labels, context=None, sigma=0.2, seeds=seeds)
    points = pgd_l2(objective, images, epsilon=0.3, num_steps=10, seeds=seeds)
    assert predict(model, points, sigma=0.2, seeds=seeds).tolist() == [1, 1]
    inside = pgd_l2(objective, images, epsilon=0.02, num_steps=10, seeds=seeds)
    assert 1 not in predict(model, inside, sigma=0.2, seeds=seeds).tolist()


def test_votes_follow_the_seed_and_not_the_batch() -> None:
    model, normal = linear_model()
    images, seeds = images_at([0.02, 0.05, 0.08], normal), torch.tensor([4, 5, 6])
    together = certify(model, images, sigma=0.2, seeds=seeds, num_draws=100)
    for image in range(3):
        alone = certify(model, images[image : image + 1], sigma=0.2, seeds=seeds[image : image + 1], num_draws=100)
        assert torch.equal(alone.radii, together.radii[image : image + 1])
    objective = SmoothedObjective(
        model=model, labels=torch.zeros(3, dtype=torch.int64), context=None, sigma=0.2, seeds=seeds, num_draws=4
    )
    torch.testing.assert_close(objective.select(torch.tensor([2]))(images[2:]), objective(images)[2:], rtol=1e-12, atol=0)


def polled(first: int) -> Callable[[Tensor], Tensor]:
    """After so many calls that all name class 0, image number k is of class 0 in k further calls, and of class 1 from then on."""
    calls = -first

    def model(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.eye(3)[(torch.arange(len(images)) < calls).long()]

    return model


@pytest.mark.parametrize("error_rate", [0.001, 0.05, 0.4])
@pytest.mark.parametrize("num_draws", [1, 2, 9, 16])
def test_answers_and_radii_are_those_of_the_exact_binomial_tests_at_every_count_of_votes(num_draws: int, error_rate: float) -> None:
    counts, images = range(num_draws + 1), torch.full((num_draws + 1, 3, 2, 2), 0.5)
    options = {"sigma": 0.5, "seeds": torch.arange(num_draws + 1), "num_draws": num_draws, "error_rate": error_rate}
    told = [stats.binomtest(count, num_draws).pvalue <= error_rate for count in counts]  # the two classes apart, on either side
    answers = [ABSTAIN if not one else int(count < num_draws / 2) for count, one in zip(counts, told, strict=True)]
    assert predict(polled(0), images, **options).tolist() == answers
    found = certify(polled(5), images, num_selection=5, **options)
    limits = [stats.binomtest(count, num_draws).proportion_ci(1 - 2 * error_rate, method="exact").low for count in counts]
    np.testing.assert_allclose(found.radii.numpy(), 0.5 * stats.norm.ppf(np.maximum(limits, 0.5)))
    assert found.predictions.tolist() == [0 if limit > 0.5 else ABSTAIN for limit in limits]


def test_an_attacker_climbs_the_margin_of_the_mean_probabilities_over_draws_of_his_own() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3, dtype=torch.float64)).requires_grad_(False)
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seeds, labels = torch.tensor([4, 9]), torch.tensor([2, 0])
    objective = SmoothedObjective(model=network, labels=labels, context=None, sigma=0.7, seeds=seeds, num_draws=3)
    drawn = [normal(derive_seeds(seeds, 2, draw), (3, SIDE, SIDE), dtype=torch.float64) for draw in range(3)]
    means = torch.stack([network(images + 0.7 * noise).softmax(dim=1) for noise in drawn]).mean(dim=0)
    expected = [max(np.log(np.delete(row, label))) - np.log(row[label]) for row, label in zip(means.numpy(), labels, strict=True)]
    np.testing.assert_allclose(objective(images).numpy(), expected)
