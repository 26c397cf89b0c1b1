"""Scores of predictions. The unit of averaging is in each docstring; higher is better."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def correct(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Whether the largest logit is the label's, one value per image.

    Between equal logits the first class wins. An image with a logit that is not a number is wrong, whatever the others say.
    """
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)


def accuracy(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Share of the images that are ``correct``: the unit is the image, so a frequent class counts more. NaN for no images."""
    return correct(logits, labels).float().mean()


def per_class_recall(
    predictions: Int[Tensor, " batch"], labels: Int[Tensor, " batch"], *, num_classes: int
) -> Float[Tensor, " num_classes"]:
    """Of the images of each class, the share that was predicted as it. NaN for a class without images: there is no such share.

    Predictions and labels are class indices in [0, ``num_classes``). The mean over the classes that occur (``nanmean``) is the
    balanced accuracy.
    """
    totals = torch.bincount(labels, minlength=num_classes)
    hits = torch.bincount(labels[predictions == labels], minlength=num_classes)
    return hits / totals
