"""Success is judged apart from search."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.attacks.objectives import scores_without_gradients
from pipeline.attacks.pgd import pgd_linf
from pipeline.attacks.specs import MaskGoal
from pipeline.attacks.start import AttackBatch, clean_logits
from pipeline.attacks.tracker import BestPoint, MarginObjective, verdict
from pipeline.attacks.two_stage import GuideMasks, SystemObjective, mask_targets
from pipeline.masks.config import MaskSource
from pipeline.system import TwoStage, as_system


class Opposed:
    """Climbs the mean up, while the margin is largest near a mean of 0.6: the two disagree about the best point."""

    def __call__(self, images: Tensor) -> Tensor:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Tensor) -> tuple[Tensor, Tensor]:
        means = images.flatten(1).mean(1)
        return means, -(means.detach() - 0.6).abs()

    def select(self, _: Tensor) -> "Opposed":
        return self


def test_what_the_search_passes_on_its_way_is_not_lost() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    best = BestPoint(images)
    found = pgd_linf(best.track(Opposed()), images, epsilon=0.4, step_size=0.05, num_steps=8, random_start=False)
    torch.testing.assert_close(found, torch.full_like(images, 0.9))  # the search itself goes where its score is highest
    torch.testing.assert_close(best.points, torch.full_like(images, 0.6))


def test_the_memory_lasts_over_several_searches() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    best = BestPoint(images)
    for epsilon in (0.12, 0.3):
        pgd_linf(best.track(Opposed()), images, epsilon=epsilon, step_size=0.12, num_steps=1, random_start=False)
    torch.testing.assert_close(best.points, torch.full_like(images, 0.62))


def test_a_tracker_that_saw_nothing_has_the_images() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(BestPoint(images).points, images)


def test_a_nan_margin_is_an_error_and_not_robustness() -> None:
    best = BestPoint(torch.zeros(3, 3, 2, 2))
    best.update(torch.ones(3, 3, 2, 2), torch.tensor([1.0, torch.nan, -1.0]))
    with pytest.raises(FloatingPointError, match=r"^a NaN score or gradient for these images of the batch: 1$"):
        _ = best.points


def test_a_tracked_objective_cannot_lose_its_place() -> None:
    tracked = BestPoint(torch.zeros(2, 3, 2, 2)).track(Opposed())
    with pytest.raises(ValueError, match="select first, then track"):
        tracked.select(torch.tensor([1]))


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
    assert scored.misclassified.all()
    assert not verdict(system, images, labels, context).misclassified.any()


class Lying(Tensor):
    """Names the first class, whatever it holds."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_function__(function, types, args, kwargs)
        return torch.zeros_like(found) if function is Tensor.argmax else found


class Liar(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.amax(dim=(2, 3)).as_subclass(Lying)


def test_logits_are_what_they_hold() -> None:
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    highest = torch.from_numpy(images.numpy().max(axis=(2, 3)).argmax(axis=1))
    assert (Liar()(images).argmax(dim=1) == 0).all()
    found = verdict(as_system(Liar()), images, highest, None)
    assert torch.equal(found.predictions, highest)
    assert highest.any()
    assert not found.misclassified.any()


def test_nan_logits_have_no_verdict(make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]) -> None:
    system = make_system()
    images, labels, context = make_batch(system)
    system.classifier[4].bias.fill_(torch.nan)  # type: ignore[index]
    with pytest.raises(FloatingPointError, match="a NaN score or gradient for these images of the batch: 0, 1, 2, 3"):
        verdict(system, images, labels, context)


def test_objectives_with_margins_are_recognised() -> None:
    assert isinstance(Opposed(), MarginObjective)


@given(seed=st.integers(0, 2**31), some=st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_best_point_is_the_first_maximum_of_each_image_whatever_part_of_the_batch_is_seen(seed: int, some: bool) -> None:
    """Against a search through everything that was seen, written out for one image at a time."""
    generator = torch.Generator().manual_seed(seed)
    best, seen = BestPoint(torch.zeros(4, 1, 1, 1).expand(4, 3, 1, 1)), [[(-torch.inf, 0.0)] for _ in range(4)]
    for number in range(1, 6):
        rows = torch.randperm(4, generator=generator)[:3] if some else torch.arange(4)
        values = torch.randint(0, 4, (len(rows),), generator=generator).float()
        best.update(torch.full((len(rows), 3, 1, 1), float(number)), values, rows if some else None)
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            seen[row].append((value, float(number)))
    first = [max(history, key=lambda pair: pair[0]) for history in seen]
    assert best.values.tolist() == [value for value, _ in first]
    assert best.points[:, 0, 0, 0].tolist() == [number for _, number in first]


def test_a_nan_score_of_a_search_is_remembered_with_the_margin_beside_it() -> None:
    class BlindOnce(Opposed):
        def scores_and_margins(self, images: Tensor) -> tuple[Tensor, Tensor]:
            scores, margins = super().scores_and_margins(images)
            return torch.where(torch.tensor([True, False]), torch.nan, scores), margins

    best = BestPoint(torch.zeros(3, 3, 2, 2))
    best.track(BlindOnce(), torch.tensor([2, 0]))(torch.ones(2, 3, 2, 2))
    with pytest.raises(FloatingPointError, match=r"^a NaN score or gradient for these images of the batch: 2$"):
        best.check()


def test_what_judges_keeps_no_graph(make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]) -> None:
    """Images that ask for a gradient and weights that do: an evaluation of thousands of batches would keep all of it."""
    system = make_system(MaskSource.LEARNED)
    images, labels, context = make_batch(system)
    system.requires_grad_(True)
    asking = images.clone().requires_grad_()
    scored = verdict(system, asking, labels, context, with_masks=True)
    assert scored.masks is not None
    objective = SystemObjective(system=system, labels=labels, context=context)
    batch = AttackBatch(system=system, images=asking, labels=labels, context=context, seeds=torch.arange(4))
    guides = GuideMasks(masks=context.oracle_masks, labels=labels)
    soft = SystemObjective(system=system, labels=labels, context=context, soft=True)
    kept = [
        *(scored.margins, scored.masks),
        clean_logits(batch),
        scores_without_gradients(objective, asking),
        objective.scores_and_margins(asking)[1],
        soft.scores_and_margins(asking)[1],
        *(mask_targets(goal, system, asking, labels, context, guides) for goal in (MaskGoal.INVERT_CLEAN, MaskGoal.FLOOD)),
        BestPoint(asking).points,
    ]
    assert not any(one.requires_grad for one in kept)
    assert objective.scores_and_margins(asking)[0].requires_grad
