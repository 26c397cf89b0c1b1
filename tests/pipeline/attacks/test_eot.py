"""Expectations against the mean written out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.attacks.eot import Expectation, made_up_seeds, over_hidden_seeds
from pipeline.attacks.objectives import cross_entropy, margin, scores_and_gradients
from pipeline.attacks.tracker import MarginObjective
from pipeline.attacks.two_stage import SystemObjective
from pipeline.masks.config import Fill, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage

SEEDED = pytest.mark.parametrize(
    ("source", "fill"), [(MaskSource.RANDOM, Fill.GREY), (MaskSource.LEARNED, Fill.NOISE), (MaskSource.ORACLE, Fill.NOISE)]
)


class Slope:
    """A linear score, the same for every pixel."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, images: Tensor) -> Tensor:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Tensor) -> tuple[Tensor, Tensor]:
        sums = images.flatten(1).sum(1)
        return self.slope * sums, 10 * self.slope * sums.detach()

    def select(self, _: Tensor) -> "Slope":
        return self


def test_scores_margins_and_gradients_are_the_means_over_the_draws() -> None:
    images = torch.rand(2, 3, 2, 2)
    expectation = Expectation(objectives=(Slope(1.0), Slope(2.0), Slope(6.0)))
    scores, gradients = scores_and_gradients(expectation, images)
    torch.testing.assert_close(scores, 3 * images.flatten(1).sum(1))
    torch.testing.assert_close(gradients, torch.full_like(images, 3.0))
    torch.testing.assert_close(expectation.scores_and_margins(images)[1], 30 * images.flatten(1).sum(1))
    assert isinstance(expectation, MarginObjective)


def test_a_system_that_draws_at_every_call_is_asked_as_often_as_draws_are_wanted() -> None:
    generator = torch.Generator().manual_seed(0)

    class Noisy(Slope):
        def scores_and_margins(self, images: Tensor) -> tuple[Tensor, Tensor]:
            factor = torch.rand(1, generator=generator)
            return factor * images.flatten(1).sum(1), factor.expand(len(images))

    images = torch.ones(1, 3, 2, 2)
    score = Expectation(objectives=(Noisy(1.0),) * 2000)(images)
    assert abs(float(score) / 12 - 0.5) < 3 * (1 / 12 / 2000) ** 0.5  # the mean of a uniform number, within 3 standard errors


@SEEDED
def test_hidden_seeds_are_replaced_by_others_per_image(
    source: MaskSource, fill: Fill, make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    system = make_system(source, fill)
    images, labels, context = make_batch(system)
    objective = SystemObjective(system=system, labels=labels, context=context)
    expectation = over_hidden_seeds(objective, num_draws=3)
    drawn = []
    for draw in range(3):
        made_up = made_up_seeds(context, draw)
        assert made_up.oracle_masks is context.oracle_masks
        drawn.append(cross_entropy(system(images, made_up), labels))
    torch.testing.assert_close(expectation(images), torch.stack(drawn).mean(0))
    assert not torch.equal(drawn[0], drawn[1])
    assert not any(torch.equal(one, cross_entropy(system(images, context), labels)) for one in drawn)
    # The same for an image alone: its draws are its own.
    row = torch.tensor([2])
    torch.testing.assert_close(expectation.select(row)(images[row]), expectation(images)[row])


def test_without_seeds_there_is_nothing_to_average_over(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    system = make_system()
    _, labels, _ = make_batch(system)
    with pytest.raises(ValueError, match="needs sample seeds"):
        over_hidden_seeds(SystemObjective(system=system, labels=labels, context=MaskContext(), class_score=margin), num_draws=2)
