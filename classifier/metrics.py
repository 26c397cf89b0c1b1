"""Scores of predictions. The unit of averaging is in each docstring; higher is better."""

from jaxtyping import Bool, Float, Int
from torch import Tensor


def correct(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Whether the largest logit is the label's, one value per image.

    Between equal logits the first class wins. An image with a logit that is not a number is wrong, whatever the others say.
    """
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)
