"""Losses of masks against closed forms, smp, torch.distributions and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.losses import DiceLoss, SoftBCEWithLogitsLoss
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from segmenter import losses

LOSSES = [losses.binary_cross_entropy, losses.dice, losses.bce_dice, losses.mask_divergence]


def draw(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_cross_entropy_of_an_undecided_prediction_is_log_2_whatever_the_mask(share: float) -> None:
    loss = losses.binary_cross_entropy(torch.zeros(2, 1, 3, 5), torch.full((2, 1, 3, 5), share))
    torch.testing.assert_close(loss, torch.full((2,), math.log(2)))


def test_cross_entropy_equals_smp_image_by_image() -> None:
    logits, masks = draw(4, 1, 6, 5), draw(4, 1, 6, 5, seed=1).sigmoid()
    expected = [SoftBCEWithLogitsLoss()(logits[i : i + 1], masks[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(losses.binary_cross_entropy(logits, masks), torch.stack(expected))


@pytest.mark.parametrize("kind", ["exact", "partly foreground"])
def test_dice_equals_smp_image_by_image(kind: str) -> None:
    logits, masks = draw(4, 1, 6, 5), draw(4, 1, 6, 5, seed=1).sigmoid()
    masks = masks.round() if kind == "exact" else masks
    smp_dice = DiceLoss(mode="binary", smooth=0.5)
    expected = [smp_dice(logits[i : i + 1], masks[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(losses.dice(logits, masks), torch.stack(expected))


def test_dice_is_nothing_exactly_where_prediction_and_mask_are_equal() -> None:
    logits = draw(2, 1, 4, 4)
    torch.testing.assert_close(losses.dice(logits, logits.sigmoid()), torch.zeros(2, dtype=torch.float64))
    assert (losses.dice(logits, (logits + 0.1).sigmoid()) > 0).all()
    assert (losses.dice(logits, (logits - 0.1).sigmoid()) > 0).all()


def test_dice_of_an_undecided_prediction_of_half_an_image() -> None:
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2, :] = 1
    # sum(p m) = 4, sum(p) = 8, sum(m) = 8
    torch.testing.assert_close(losses.dice(torch.zeros(1, 1, 4, 4), masks), torch.tensor([1 - 9 / 17]))
    torch.testing.assert_close(losses.dice(torch.zeros(1, 1, 4, 4), masks, smoothing=4.0), torch.tensor([1 - 12 / 20]))


def test_dice_of_an_empty_mask_is_nothing_for_an_empty_prediction_and_grows_with_what_is_predicted() -> None:
    logits = torch.stack([torch.full((1, 4, 4), value) for value in (-100.0, 0.0, 100.0)])
    torch.testing.assert_close(losses.dice(logits, torch.zeros(3, 1, 4, 4)), torch.tensor([0.0, 1 - 1 / 9, 1 - 1 / 17]))


def test_bce_dice_is_the_sum_of_both() -> None:
    logits, masks = draw(3, 1, 4, 4), draw(3, 1, 4, 4, seed=1).sigmoid()
    expected = losses.binary_cross_entropy(logits, masks) + losses.dice(logits, masks)
    torch.testing.assert_close(losses.bce_dice(logits, masks), expected)


def test_divergence_equals_that_of_bernoulli_distributions_with_the_reference_first() -> None:
    logits, reference = draw(4, 1, 6, 5), draw(4, 1, 6, 5, seed=1)
    expected = kl_divergence(Bernoulli(logits=reference), Bernoulli(logits=logits)).mean((1, 2, 3))
    torch.testing.assert_close(losses.mask_divergence(logits, reference), expected)
    assert not torch.allclose(losses.mask_divergence(reference, logits), expected)


def test_divergence_of_certain_predictions_is_their_distance_in_logits() -> None:
    """With the reference certain of foreground, KL = -log sigmoid(logit), which is -logit far out: 32-bit numbers must hold it."""
    logits = torch.tensor([-500.0, 500.0, -80.0]).view(3, 1, 1, 1)
    loss = losses.mask_divergence(logits, torch.full((3, 1, 1, 1), 500.0))
    torch.testing.assert_close(loss, torch.tensor([500.0, 0.0, 80.0]))


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    batch=st.integers(0, 3),
    seed=st.integers(0, 9),
    scale=st.sampled_from([0.1, 5.0, 200.0]),
)
def test_every_loss_is_one_finite_value_in_range_for_each_image(
    height: int, width: int, batch: int, seed: int, scale: float
) -> None:
    logits, other = (draw(batch, 1, height, width, seed=s, scale=scale).float() for s in (seed, seed + 100))
    for loss in LOSSES:
        target = other if loss is losses.mask_divergence else other.sigmoid()
        values = loss(logits, target)
        assert values.shape == (batch,)
        assert values.isfinite().all()
        assert (values >= -1e-6).all()
    assert (losses.dice(logits, other.sigmoid()) <= 1).all()
    assert torch.equal(losses.mask_divergence(logits, logits), torch.zeros(batch))


@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_does_not_change_the_loss_of_another(loss) -> None:  # type: ignore[no-untyped-def]
    logits, target = draw(3, 1, 5, 4), draw(3, 1, 5, 4, seed=1).sigmoid()
    alone = torch.cat([loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(loss(logits, target), alone)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss) -> None:  # type: ignore[no-untyped-def]
    logits, target = draw(2, 1, 3, 2).requires_grad_(), draw(2, 1, 3, 2, seed=1).sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(loss, (logits, target))


def test_gradients_of_the_divergence_stay_finite_far_out() -> None:
    logits = torch.tensor([-1e4, 0.0, 1e4]).view(3, 1, 1, 1).requires_grad_()
    reference = torch.tensor([1e4, -1e4, 0.0]).view(3, 1, 1, 1)
    (gradient,) = torch.autograd.grad(losses.mask_divergence(logits, reference).sum(), logits)
    # the derivative is sigmoid(logit) - sigmoid(reference)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-1.0, 0.5, 0.5]))
