"""Scores of predictions against hand-counted cases and torchmetrics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy

from classifier import metrics


def test_the_largest_logit_decides_and_the_first_class_wins_a_tie() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert metrics.correct(logits, torch.tensor([1, 2, 0, 1])).tolist() == [True, False, True, False]


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_logit_that_is_not_a_number_makes_an_image_wrong_whatever_its_label(label: int) -> None:
    logits = torch.tensor([[torch.nan, 0.0, 1.0], [0.0, torch.nan, 1.0], [torch.nan] * 3])
    assert not metrics.correct(logits, torch.full((3,), label)).any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 60), num_classes=st.integers(2, 12))
def test_the_share_of_correct_images_is_the_accuracy_of_torchmetrics(seed: int, batch: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, num_classes, generator=generator)
    labels = torch.randint(0, num_classes, (batch,), generator=generator)
    accuracy = multiclass_accuracy(logits, labels, num_classes, average="micro")
    torch.testing.assert_close(metrics.correct(logits, labels).float().mean(), accuracy)
