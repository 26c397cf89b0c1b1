"""Scores against a second library and the papers' formulas, objectives against the calls they stand for."""

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from pipeline.attacks.objectives import (
    ModelObjective,
    are_probabilities,
    class_score,
    dlr,
    margin,
    scores_and_gradients,
    scores_without_gradients,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)
from pipeline.attacks.specs import ClassLoss
from pipeline.masks.context import MaskContext


class Bare:
    """An objective that is just a function and has no data of its images."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images)

    def select(self, _: Tensor) -> "Bare":
        return self


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def labelled_logits(draw: st.DrawFn, least_classes: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, and targets that differ from the labels."""
    batch, classes = draw(st.integers(1, 6)), draw(st.integers(least_classes, 12))
    generator = seeded(draw(st.integers(0, 10_000)))
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * draw(st.sampled_from([0.1, 3.0, 1e3]))
    labels = torch.randint(classes, (batch,), generator=generator)
    targets = (labels + torch.randint(1, classes, (batch,), generator=generator)) % classes
    return logits, labels, targets


@given(labelled_logits())
def test_the_margin_is_the_best_other_logit_minus_the_labels(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, targets = drawn
    for row, label, target, score, aimed in zip(
        logits, labels, targets, margin(logits, labels), targeted_margin(logits, labels, targets), strict=True
    ):
        others = [value for index, value in enumerate(row.tolist()) if index != label]
        assert score.item() == pytest.approx(max(others) - row[label].item(), abs=1e-12)
        assert (score > 0) == (row.argmax() != label)
        assert aimed.item() == pytest.approx((row[target] - row[label]).item(), abs=1e-12)


@given(labelled_logits(least_classes=4))
def test_the_difference_of_logits_ratios_are_autoattacks(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, targets = drawn
    torch.testing.assert_close(dlr(logits, labels), APGDAttack.dlr_loss(None, logits, labels))
    attack = APGDAttack_targeted(lambda images: images, eps=0.1, device="cpu")
    attack.y_target = targets
    torch.testing.assert_close(targeted_dlr(logits, labels, targets), attack.dlr_loss_targeted(logits, labels))


@given(labelled_logits(least_classes=4), st.floats(-5, 5), st.sampled_from([0.01, 7.0, 1e4]))
def test_the_difference_of_logits_ratio_does_not_change_with_shift_and_scale(
    drawn: tuple[Tensor, Tensor, Tensor], shift: float, scale: float
) -> None:
    logits, labels, targets = drawn
    moved = (logits + shift) * scale
    torch.testing.assert_close(dlr(moved, labels), dlr(logits, labels), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(targeted_dlr(moved, labels, targets), targeted_dlr(logits, labels, targets), rtol=1e-6, atol=1e-6)


@given(labelled_logits())
def test_the_targeted_cross_entropy_is_the_log_probability_of_the_target(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, targets = drawn
    expected = torch.stack([row[target] - row.logsumexp(0) for row, target in zip(logits, targets, strict=True)])
    torch.testing.assert_close(targeted_cross_entropy(logits, labels, targets), expected)


@pytest.mark.parametrize("targeted", [False, True])
def test_with_fewer_than_4_classes_the_margin_replaces_the_ratio_and_a_warning_says_so(targeted: bool) -> None:
    with pytest.warns(UserWarning, match="dlr needs 4 classes and there are 3: the margin is climbed instead"):
        score = class_score(ClassLoss.DLR, num_classes=3, targeted=targeted)
    logits, labels, targets = torch.randn(5, 3, generator=seeded(0)), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 2, 0, 2, 0])
    arguments = (logits, labels, targets) if targeted else (logits, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(score(*arguments), (targeted_margin if targeted else margin)(*arguments))
        class_score(ClassLoss.DLR, num_classes=4, targeted=targeted)
        for loss in set(ClassLoss) - {ClassLoss.DLR}:  # defined for two classes
            assert class_score(loss, num_classes=2, targeted=targeted) is class_score(loss, num_classes=5, targeted=targeted)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", list(ClassLoss))
def test_every_score_is_higher_for_a_worse_classification_and_one_per_image(loss: ClassLoss, targeted: bool) -> None:
    score = class_score(loss, num_classes=5, targeted=targeted)
    labels, targets = torch.tensor([0, 1]), torch.tensor([3, 4])
    extra = (targets,) if targeted else ()
    right, wrong = torch.eye(5)[labels] * 4, torch.eye(5)[targets] * 4
    right[:, 2], wrong[:, 2] = 0.5, 0.5
    assert score(right, labels, *extra).shape == (2,)
    assert (score(wrong, labels, *extra) > score(right, labels, *extra)).all()


def test_an_objective_is_the_score_of_the_models_outputs_with_and_without_context() -> None:
    images, labels = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 1])
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    objective = ModelObjective(model=linear, score=margin, targets=(labels,))
    assert torch.equal(objective(images), margin(linear(images), labels))
    context = MaskContext(sample_seeds=torch.tensor([5, 6, 7]))
    seen = ModelObjective(
        model=lambda points, given: points.mean((1, 2, 3)) + given.sample_seeds,
        score=lambda outputs, target: outputs * target,
        targets=(labels,),
        context=context,
    )
    assert torch.equal(seen(images), (images.mean((1, 2, 3)) + context.sample_seeds) * labels)


def test_a_selected_objective_scores_the_chosen_images_as_the_whole_one_does() -> None:
    images, context = torch.rand(4, 3, 2, 2), MaskContext(sample_seeds=torch.tensor([3, 1, 4, 1]))
    objective = ModelObjective(
        model=lambda points, given: points.mean((1, 2, 3)) + given.sample_seeds,
        score=lambda outputs, first, second: outputs * first + second,
        targets=(torch.arange(4), torch.tensor([9.0, 8.0, 7.0, 6.0])),
        context=context,
    )
    kept = torch.tensor([2, 0])
    torch.testing.assert_close(objective.select(kept)(images[kept]), objective(images)[kept])
    again = objective.select(kept).select(torch.tensor([1]))
    torch.testing.assert_close(again(images[:1]), objective(images)[:1])


def test_gradients_are_the_closed_form_and_leave_no_trace_in_the_parameters() -> None:
    images = torch.rand(3, 3, 2, 2)
    linear = nn.Linear(12, 1)
    with torch.no_grad():  # an evaluation may well be inside such a block
        scores, gradients = scores_and_gradients(Bare(lambda points: linear(points.flatten(1)).squeeze(1) ** 2), images)
    root = linear(images.flatten(1)).detach()
    torch.testing.assert_close(scores, root.squeeze(1) ** 2)
    torch.testing.assert_close(gradients, (2 * root * linear.weight).detach().view(3, 3, 2, 2))
    assert linear.weight.grad is None
    assert not scores.requires_grad
    assert not images.requires_grad


@pytest.mark.parametrize(
    "cut", [lambda points: points.detach().sum((1, 2, 3)), lambda points: torch.ones(len(points), requires_grad=True) * 2]
)
def test_an_objective_without_a_gradient_in_the_images_is_refused_and_not_called_robust(cut: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="no gradient reaches the images"):
        scores_and_gradients(Bare(cut), torch.rand(2, 3, 2, 2))


def test_a_gradient_that_is_no_number_makes_the_score_none_and_of_no_other_image() -> None:
    def rooted(points: Tensor) -> Tensor:
        """Of slope 1 at every value; at 0 no number, for the root of a square has none there."""
        return points.square().sqrt().sum((1, 2, 3))

    images = torch.full((3, 3, 2, 2), 0.5)
    images[1, 2, 0, 1] = 0
    scores, gradients = scores_and_gradients(Bare(rooted), images)
    assert scores.isnan().tolist() == gradients.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert scores[[0, 2]].tolist() == [6, 6]
    assert scores_without_gradients(Bare(rooted), images).tolist() == [6, 5.5, 6]


def test_scores_that_are_not_one_per_image_are_refused() -> None:
    images = torch.rand(3, 3, 2, 2)
    for wrong in (lambda points: points.mean(), lambda points: points.mean((1, 2, 3)) - points.mean((1, 2, 3))[:, None]):
        for scored in (scores_and_gradients, scores_without_gradients):
            with pytest.raises(ValueError, match="for 3 images: one each is needed"):
                scored(Bare(wrong), images)


@pytest.mark.parametrize(
    ("outputs", "are"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], True),
        ([[0.25, 0.75], [1.0, 1e-9]], True),
        ([[0.25, 0.75], [1.1, -0.1]], False),
        ([[0.25, 0.75], [0.5, 0.5009]], True),
        ([[0.25, 0.75], [0.5, 0.5012]], False),
        ([[0.25, 0.75], [0.5, 0.4991]], True),
        ([[0.25, 0.75], [0.5, 0.4988]], False),
    ],
)
def test_shares_that_sum_to_1_to_a_thousandth_in_every_row_are_probabilities(outputs: list[list[float]], are: bool) -> None:
    assert are_probabilities(torch.tensor(outputs)) is are
