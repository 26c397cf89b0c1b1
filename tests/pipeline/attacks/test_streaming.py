"""The queue against plain PGD: the same points are visited, so the same images fall, whatever the batch."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.norms import Ball, l2_ball, linf_ball
from pipeline.attacks.objectives import Score, cross_entropy, margin
from pipeline.attacks.pgd import pgd_l2, pgd_linf
from pipeline.attacks.streaming import Searched, streamed_pgd
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


def search(
    network: nn.Module, score: Score, ball: Ball, labels: Tensor, *, batch_size: int = 8, num_steps: int = 4, restarts: int = 2
) -> Searched:
    objective = SystemObjective(system=system(network), labels=labels, context=None, class_score=score)
    return streamed_pgd(objective, ball, seeds=start_seeds(restarts), batch_size=batch_size, num_steps=num_steps)


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
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_images_that_fall_are_those_that_plain_pgd_ever_misclassifies(norm: str, score: Score, batch_size: int) -> None:
    network = model()
    images, labels = images_of(network)
    plain, make_ball, epsilon = (pgd_linf, linf_ball, 0.008) if norm == "linf" else (pgd_l2, l2_ball, 0.07)
    spy = Spy(network=network, score=score, labels=labels)
    for seeds in start_seeds(4):
        plain(spy, images, epsilon=epsilon, num_steps=6, seeds=seeds)
    fallen = spy.margins > 0
    assert 0 < fallen.sum() < IMAGES
    found = search(network, score, make_ball(images, epsilon), labels, batch_size=batch_size, num_steps=6, restarts=4)
    assert torch.equal(found.fallen, fallen)
    margins = margin(network(found.points), labels)
    assert torch.equal(margins > 0, fallen)
    torch.testing.assert_close(margins[~fallen], spy.margins[~fallen], rtol=0, atol=1e-9)
    assert (found.starts[~fallen] == 4).all()
    assert found.num_evaluations < 4 * 7 * IMAGES


def test_points_stay_in_the_ball_and_its_region() -> None:
    network = model()
    images, labels = images_of(network)
    region = torch.zeros(IMAGES, 1, SIDE, SIDE, dtype=torch.bool)
    region[:, :, :3] = True
    found = search(network, margin, linf_ball(images, 0.05, region), labels, batch_size=5)
    changed = (found.points - images).abs()
    assert changed.max() <= 0.05
    assert changed.masked_fill(region, 0).max() == 0
    assert changed.max() > 0


def test_an_extra_start_is_tried_first_and_the_random_ones_follow() -> None:
    network = model()
    images, labels = images_of(network)
    ball = linf_ball(images, 0.012)
    without = search(network, margin, ball, labels, num_steps=3)
    smaller = search(network, margin, linf_ball(images, 0.008), labels, num_steps=9)
    objective = SystemObjective(system=system(network), labels=labels, context=None, class_score=margin)
    found = streamed_pgd(objective, ball, seeds=start_seeds(2), batch_size=8, num_steps=3, starts=smaller.points)
    assert (found.fallen >= without.fallen).all()
    assert (found.fallen >= smaller.fallen).all()
    assert (found.starts[~found.fallen] == 3).all()
    assert (found.starts[smaller.fallen] == 1).all()
    assert torch.equal(found.points[smaller.fallen], smaller.points[smaller.fallen])


def test_the_context_of_an_image_follows_it_through_the_queue() -> None:
    # Every image has its own oracle mask: with another's, its logits and hence its verdict would differ.
    network = model()
    images, _ = images_of(network)
    masks = (torch.rand(IMAGES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) > 0.4).double()
    masked = TwoStage(network, masks=MaskConfig(source=MaskSource.ORACLE)).double().eval()
    context = MaskContext(oracle_masks=masks, substitutes=masks, sample_seeds=torch.arange(IMAGES))
    labels = masked(images, context).argmax(dim=1)
    objective = SystemObjective(system=masked, labels=labels, context=context, class_score=margin)
    found = streamed_pgd(objective, linf_ball(images, 0.02), seeds=start_seeds(2), batch_size=5, num_steps=4)
    assert torch.equal(masked(found.points, context).argmax(dim=1) != labels, found.fallen)
    assert 0 < found.fallen.sum() < IMAGES


def test_images_that_are_wrong_as_they_are_are_not_attacked() -> None:
    network = model()
    images, labels = images_of(network)
    labels = torch.where(torch.arange(IMAGES) < 5, (labels + 1) % CLASSES, labels)
    found = search(network, margin, linf_ball(images, 0.01), labels)
    assert found.fallen[:5].all()
    assert (found.starts[:5] == 0).all()
    assert torch.equal(found.points[:5], images[:5])


def test_a_score_that_is_no_number_and_a_cut_graph_are_refused() -> None:
    network = model()
    images, labels = images_of(network)
    ball = linf_ball(images, 0.01)
    with pytest.raises(FloatingPointError, match="images: 0"):
        search(network, lambda logits, labels: margin(logits, labels) * torch.nan, ball, labels)
    with pytest.raises(ValueError, match="no gradient"):
        search(network, lambda logits, labels: margin(logits, labels).detach(), ball, labels)
    objective = SystemObjective(system=system(network), labels=labels, context=None, class_score=margin)
    with pytest.raises(ValueError, match="at least 1"):
        streamed_pgd(objective, ball, seeds=start_seeds(0), batch_size=8, num_steps=2)


def test_only_what_is_confirmed_has_fallen() -> None:
    network = model()
    images, labels = images_of(network)
    objective = SystemObjective(system=system(network), labels=labels, context=None, class_score=margin)
    asked: list[int] = []

    def only_even(points: Tensor, indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        margins = margin(network(points), labels[indices])
        assert (margins > 0).all()
        return torch.where(indices % 2 == 0, margins, -1.0)

    ball = linf_ball(images, 0.02)
    free = streamed_pgd(objective, ball, seeds=start_seeds(2), batch_size=8, num_steps=4)
    confirmed = streamed_pgd(objective, ball, seeds=start_seeds(2), batch_size=8, num_steps=4, confirm=only_even)
    even = torch.arange(IMAGES) % 2 == 0
    assert torch.equal(confirmed.fallen, free.fallen & even)
    assert (confirmed.starts[~even] == 2).all()
    assert set(free.fallen.nonzero().flatten().tolist()) <= set(asked)
