"""Losses of class logits against closed forms, torch.distributions, the released TRADES objective and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.distributions import kl_divergence as distribution_divergence
from torch.nn import functional

from classifier import losses


def draw(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cross_entropy_of_equal_logits_is_the_log_of_the_class_count() -> None:
    torch.testing.assert_close(losses.cross_entropy(torch.zeros(3, 43), torch.tensor([0, 1, 42])), torch.full((3,), math.log(43)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothed_cross_entropy_is_that_against_the_mixed_target(smoothing: float) -> None:
    logits, labels = draw(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    target = (1 - smoothing) * functional.one_hot(labels, 5) + smoothing / 5
    expected = -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1)
    torch.testing.assert_close(losses.cross_entropy(logits, labels, label_smoothing=smoothing), expected)


def test_divergence_equals_that_of_categorical_distributions_with_the_reference_first() -> None:
    logits, reference = draw(6, 5), draw(6, 5, seed=1)
    expected = distribution_divergence(Categorical(logits=reference), Categorical(logits=logits))
    torch.testing.assert_close(losses.kl_divergence(logits, reference), expected)
    assert not torch.allclose(losses.kl_divergence(reference, logits), expected)


def test_the_sum_of_the_divergence_is_the_released_trades_objective() -> None:
    """Zhang et al. maximise KLDivLoss(sum) of log_softmax(attacked) against softmax(natural)."""
    attacked, natural = draw(6, 5), draw(6, 5, seed=1)
    released = nn.KLDivLoss(reduction="sum")(functional.log_softmax(attacked, dim=1), functional.softmax(natural, dim=1))
    torch.testing.assert_close(losses.kl_divergence(attacked, natural).sum(), released)


def test_divergence_from_a_certain_reference_is_the_cross_entropy_of_its_class() -> None:
    logits, labels = draw(4, 5).float(), torch.tensor([0, 2, 4, 1])
    certain = 500.0 * functional.one_hot(labels, 5)
    torch.testing.assert_close(losses.kl_divergence(logits, certain), losses.cross_entropy(logits, labels))


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(0, 4), classes=st.integers(2, 50), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 5.0, 1000.0]))
def test_every_loss_is_one_finite_value_at_least_0_for_each_image(batch: int, classes: int, seed: int, scale: float) -> None:
    logits, reference = (draw(batch, classes, seed=s, scale=scale).float() for s in (seed, seed + 100))
    for values in (losses.cross_entropy(logits, reference.argmax(1)), losses.kl_divergence(logits, reference)):
        assert values.shape == (batch,)
        assert values.isfinite().all()
        assert (values >= -1e-6).all()
    assert torch.equal(losses.kl_divergence(logits, logits), torch.zeros(batch))


def test_gradients_agree_with_finite_differences() -> None:
    logits, reference = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(losses.kl_divergence, (logits, reference))
    labels = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda x: losses.cross_entropy(x, labels, label_smoothing=0.1), (logits,))


def test_gradients_of_the_divergence_stay_finite_far_out() -> None:
    logits = torch.tensor([[1e4, 0.0], [0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.kl_divergence(logits, torch.tensor([[0.0, 1e4], [1e4, 0.0]])).sum(), logits)
    # the derivative is softmax(logits) - softmax(reference)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0], [-0.5, 0.5]]))
