"""Success is judged apart from search."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.attacks.pgd import pgd_linf
from pipeline.attacks.tracker import Judged, Witness, fallen, verdict
from pipeline.masks.config import MaskSource
from pipeline.system import TwoStage


class Opposed:
    """Climbs the mean up, while the verdict is best near a mean of 0.6: the two disagree about the best point."""

    def __call__(self, images: Tensor) -> Tensor:
        return self.scores_and_verdicts(images)[0]

    def scores_and_verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        means = images.flatten(1).mean(1)
        return means, -(means.detach() - 0.6).abs()

    def select(self, _: Tensor) -> "Opposed":
        return self


def test_what_the_search_passes_on_its_way_is_not_lost() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    witness = Witness(images)
    found = pgd_linf(witness.watch(Opposed()), images, epsilon=0.4, step_size=0.05, num_steps=8, random_start=False)
    torch.testing.assert_close(found, torch.full_like(images, 0.9))  # the search itself goes where its score is highest
    torch.testing.assert_close(witness.best, torch.full_like(images, 0.6))


def test_the_memory_lasts_over_several_searches() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    witness = Witness(images)
    for epsilon in (0.12, 0.3):
        pgd_linf(witness.watch(Opposed()), images, epsilon=epsilon, step_size=0.12, num_steps=1, random_start=False)
    torch.testing.assert_close(witness.best, torch.full_like(images, 0.62))


def test_a_witness_that_saw_nothing_has_the_images() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(Witness(images).best, images)


def test_a_verdict_that_is_no_number_is_an_error_and_not_robustness() -> None:
    witness = Witness(torch.zeros(3, 3, 2, 2))
    witness.record(torch.ones(3, 3, 2, 2), torch.tensor([1.0, torch.nan, -1.0]))
    with pytest.raises(FloatingPointError, match=r"these images of the batch: 1$"):
        _ = witness.best


def test_a_watched_objective_cannot_lose_its_place() -> None:
    watched = Witness(torch.zeros(2, 3, 2, 2)).watch(Opposed())
    with pytest.raises(ValueError, match="select first, then watch"):
        watched.select(torch.tensor([1]))


@pytest.mark.parametrize("source", list(MaskSource))
def test_a_verdict_is_what_the_system_says_in_eval_mode(
    source: MaskSource, make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    system = make_system(source)
    images, labels, context = make_batch(system)
    system.classifier.train()
    scored = verdict(system, images, (labels + 1) % 5, context)
    assert system.classifier.training
    logits = system(images, context)
    by_hand = [
        max(row[:wrong] + row[wrong + 1 :]) - row[wrong]
        for row, wrong in zip(logits.tolist(), ((labels + 1) % 5).tolist(), strict=True)
    ]
    torch.testing.assert_close(scored.margins, torch.tensor(by_hand))
    assert torch.equal(scored.predictions, labels)
    assert scored.fallen.all()
    assert not fallen(system, images, labels, context).any()


def test_logits_that_are_no_numbers_have_no_verdict(make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]) -> None:
    system = make_system()
    images, labels, context = make_batch(system)
    system.classifier[4].bias.fill_(torch.nan)  # type: ignore[index]
    with pytest.raises(FloatingPointError, match="no verdict is possible"):
        verdict(system, images, labels, context)


def test_objectives_are_recognised_as_judged() -> None:
    assert isinstance(Opposed(), Judged)
