"""Scores of predictions against hand-counted cases and torchmetrics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from classifier import metrics


def test_the_largest_logit_decides_and_the_first_class_wins_a_tie() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert metrics.correct(logits, torch.tensor([1, 2, 0, 1])).tolist() == [True, False, True, False]


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_logit_that_is_not_a_number_makes_an_image_wrong_whatever_its_label(label: int) -> None:
    logits = torch.tensor([[torch.nan, 0.0, 1.0], [0.0, torch.nan, 1.0], [torch.nan] * 3])
    assert not metrics.correct(logits, torch.full((3,), label)).any()


def test_accuracy_weighs_images_and_not_classes() -> None:
    logits = torch.eye(3)[torch.tensor([0, 0, 0, 0])]
    assert metrics.accuracy(logits, torch.tensor([0, 0, 0, 2])).item() == 0.75
    assert metrics.accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).isnan()


def test_recall_of_each_class_is_counted_by_hand_and_unknown_for_an_absent_class() -> None:
    predictions, labels = torch.tensor([0, 1, 1, 0, 3]), torch.tensor([0, 0, 1, 0, 1])
    recall = metrics.per_class_recall(predictions, labels, num_classes=4)
    torch.testing.assert_close(recall, torch.tensor([2 / 3, 1 / 2, torch.nan, torch.nan]), equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 60), num_classes=st.integers(2, 12))
def test_scores_equal_torchmetrics(seed: int, batch: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, num_classes, generator=generator)
    labels = torch.randint(0, num_classes, (batch,), generator=generator)
    torch.testing.assert_close(metrics.accuracy(logits, labels), multiclass_accuracy(logits, labels, num_classes, average="micro"))
    confusion = multiclass_confusion_matrix(logits, labels, num_classes)
    recall = metrics.per_class_recall(logits.argmax(1), labels, num_classes=num_classes)
    torch.testing.assert_close(recall, confusion.diag() / confusion.sum(1), equal_nan=True)
    assert torch.equal(recall.isnan(), torch.bincount(labels, minlength=num_classes) == 0)
