"""The queue against plain PGD: the same points are visited, so the same images fall, whatever the batch."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.norms import Ball, ball_of
from pipeline.attacks.objectives import Score, cross_entropy, margin
from pipeline.attacks.pgd import pgd_l1, pgd_l2, pgd_linf
from pipeline.attacks.streaming import streamed_pgd
from pipeline.attacks.threat import Norm
from pipeline.attacks.two_stage import SystemObjective
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage

SIDE, CLASSES, IMAGES = 8, 4, 24


def model(seed: int = 0) -> nn.Module:
    """Float64, so that a batch of another size rounds far below any verdict; close decisions, so that some images stand."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.Conv2d(8, 8, 3, stride=2), nn.Softplus(), nn.Flatten())
    network = nn.Sequential(body, nn.Linear(8 * 9, CLASSES)).double().eval().requires_grad_(False)
    network[1].bias -= network(some_images()).mean(dim=0)  # so that all classes occur
    return network


def some_images() -> Tensor:
    return torch.rand(IMAGES, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def images_of(network: nn.Module) -> tuple[Tensor, Tensor]:
    images = some_images()
    return images, network(images).argmax(dim=1)


def system(network: nn.Module) -> TwoStage:
    return TwoStage(network, masks=MaskConfig(source=MaskSource.NONE)).double().eval()


def start_seeds(restarts: int) -> Tensor:
    return torch.arange(restarts * IMAGES).view(restarts, IMAGES)


@dataclass(frozen=True, kw_only=True)
class Counting:
    """The objective, and how often each image was asked about."""

    objective: SystemObjective
    counts: Tensor
    rows: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.counts[self.rows] += 1
        return self.objective.scores_and_margins(images)

    def select(self, indices: Tensor) -> "Counting":
        return Counting(objective=self.objective.select(indices), counts=self.counts, rows=self.rows[indices])


@dataclass(frozen=True, kw_only=True)
class Found:
    points: Tensor
    misclassified: Tensor
    counts: Tensor


def search(
    network: nn.Module,
    score: Score,
    ball: Ball,
    labels: Tensor,
    *,
    batch_size: int = 8,
    num_steps: int = 4,
    restarts: int = 2,
    warm_start: Tensor | None = None,
) -> Found:
    objective = SystemObjective(system=system(network), labels=labels, context=None, class_score=score)
    counting = Counting(objective=objective, counts=torch.zeros(IMAGES, dtype=torch.int64), rows=torch.arange(IMAGES))
    seeds = start_seeds(restarts)
    points = streamed_pgd(counting, ball, seeds=seeds, batch_size=batch_size, num_steps=num_steps, warm_start=warm_start)
    return Found(points=points, misclassified=margin(network(points), labels) > 0, counts=counting.counts)


@dataclass(kw_only=True)
class Spy:
    """An objective that notes, of all points that it was asked about, how far each image was driven."""

    network: nn.Module
    score: Score
    labels: Tensor
    margins: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.margins = torch.full((len(self.labels),), -torch.inf, dtype=torch.float64)

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        self.margins = torch.maximum(self.margins, margin(logits.detach(), self.labels))
        return self.score(logits, self.labels)

    def select(self, indices: Tensor) -> "Spy":
        raise AssertionError(f"plain PGD drops nothing, here it keeps {len(indices)}")


@pytest.mark.parametrize("batch_size", [5, 64])
@pytest.mark.parametrize("score", [cross_entropy, margin])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_images_that_fall_are_those_that_plain_pgd_ever_misclassifies(norm: Norm, score: Score, batch_size: int) -> None:
    network = model()
    images, labels = images_of(network)
    plain, epsilon = {"linf": (pgd_linf, 0.008), "l2": (pgd_l2, 0.07), "l1": (pgd_l1, 0.4)}[norm]
    spy = Spy(network=network, score=score, labels=labels)
    for seeds in start_seeds(4):
        plain(spy, images, epsilon=epsilon, num_steps=6, seeds=seeds)
    wrong = spy.margins > 0
    assert 0 < wrong.sum() < IMAGES
    found = search(network, score, ball_of(norm, images, epsilon), labels, batch_size=batch_size, num_steps=6, restarts=4)
    assert torch.equal(found.misclassified, wrong)
    margins = margin(network(found.points), labels)
    torch.testing.assert_close(margins[~wrong], spy.margins[~wrong], rtol=0, atol=1e-9)
    assert (found.counts[~wrong] == 1 + 4 * 7).all(), "as it is, then the 6 steps of every start and what they led to"
    assert (found.counts[wrong] < 1 + 4 * 7).all()


def test_points_stay_in_the_ball_and_its_region() -> None:
    network = model()
    images, labels = images_of(network)
    region = torch.zeros(IMAGES, 1, SIDE, SIDE, dtype=torch.bool)
    region[:, :, :3] = True
    found = search(network, margin, ball_of("linf", images, 0.05, region), labels, batch_size=5)
    changed = (found.points - images).abs()
    assert changed.max() <= 0.05
    assert changed.masked_fill(region, 0).max() == 0
    assert changed.max() > 0


def test_an_extra_start_is_tried_first_and_the_random_ones_follow() -> None:
    network = model()
    images, labels = images_of(network)
    ball = ball_of("linf", images, 0.012)
    without = search(network, margin, ball, labels, num_steps=3)
    smaller = search(network, margin, ball_of("linf", images, 0.008), labels, num_steps=9)
    found = search(network, margin, ball, labels, num_steps=3, warm_start=smaller.points)
    assert 0 < smaller.misclassified.sum() < found.misclassified.sum() < IMAGES
    assert (found.misclassified >= without.misclassified).all()
    assert (found.misclassified >= smaller.misclassified).all()
    assert (found.counts[~found.misclassified] == 1 + 3 * 4).all()
    assert (found.counts[smaller.misclassified] == 2).all()
    assert torch.equal(found.points[smaller.misclassified], smaller.points[smaller.misclassified])


def test_the_context_of_an_image_follows_it_through_the_queue() -> None:
    # Every image has its own oracle mask: with another's, its logits and hence its verdict would differ.
    network = model()
    images, _ = images_of(network)
    masks = (torch.rand(IMAGES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) > 0.4).double()
    masked = TwoStage(network, masks=MaskConfig(source=MaskSource.ORACLE)).double().eval()
    context = MaskContext(oracle_masks=masks, substitutes=masks, sample_seeds=torch.arange(IMAGES))
    labels = masked(images, context).argmax(dim=1)
    objective = SystemObjective(system=masked, labels=labels, context=context, class_score=margin)
    points = streamed_pgd(objective, ball_of("linf", images, 0.02), seeds=start_seeds(2), batch_size=5, num_steps=4)
    wrong = masked(points, context).argmax(dim=1) != labels
    assert 0 < wrong.sum() < IMAGES
    for row in range(IMAGES):
        one = torch.tensor([row])
        alone = streamed_pgd(
            objective.select(one), ball_of("linf", images[one], 0.02), seeds=start_seeds(2)[:, one], batch_size=1, num_steps=4
        )
        torch.testing.assert_close(points[one], alone, rtol=0, atol=1e-9)


@dataclass(frozen=True)
class Sized:
    """An objective that notes how many images it is asked about at a time."""

    objective: SystemObjective
    sizes: list[int]

    def __call__(self, images: Tensor) -> Tensor:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(images))
        return self.objective.scores_and_margins(images)

    def select(self, indices: Tensor) -> "Sized":
        return Sized(self.objective.select(indices), self.sizes)


@pytest.mark.parametrize("batch_size", [1, 7, 24, 100])
def test_batches_are_as_large_as_was_asked_for_as_long_as_images_are_waiting(batch_size: int) -> None:
    network = model()
    images, labels = images_of(network)
    sized = Sized(SystemObjective(system=system(network), labels=labels, context=None, class_score=margin), [])
    streamed_pgd(
        sized, ball_of("linf", images, 1e-6), seeds=start_seeds(2), batch_size=batch_size, num_steps=2
    )  # none is misclassified
    judged = math.ceil(IMAGES / batch_size)
    first, later = sized.sizes[:judged], sized.sizes[judged:]
    assert sum(first) == IMAGES
    assert sum(later) == IMAGES * 2 * 3  # two starts of two steps, and the last point of each
    assert max(later) == min(batch_size, IMAGES)
    full = [size == min(batch_size, IMAGES) for size in later]
    assert full == sorted(full, reverse=True)  # smaller ones at the end alone


def test_images_that_are_wrong_as_they_are_are_not_attacked() -> None:
    network = model()
    images, labels = images_of(network)
    labels = torch.where(torch.arange(IMAGES) < 5, (labels + 1) % CLASSES, labels)
    found = search(network, margin, ball_of("linf", images, 0.01), labels)
    assert found.misclassified[:5].all()
    assert (found.counts[:5] == 1).all()
    assert torch.equal(found.points[:5], images[:5])


def test_a_nan_score_and_a_cut_graph_are_refused() -> None:
    network = model()
    images, labels = images_of(network)
    ball = ball_of("linf", images, 0.01)
    with pytest.raises(FloatingPointError, match=r"^a NaN score or gradient for these images of the batch: 0, 1"):
        search(network, lambda logits, labels: margin(logits, labels) * torch.nan, ball, labels)
    with pytest.raises(ValueError, match="no gradient"):
        search(network, lambda logits, labels: margin(logits, labels).detach(), ball, labels)
    objective = SystemObjective(system=system(network), labels=labels, context=None, class_score=margin)
    with pytest.raises(ValueError, match="at least 1"):
        streamed_pgd(objective, ball, seeds=start_seeds(0), batch_size=8, num_steps=2)
