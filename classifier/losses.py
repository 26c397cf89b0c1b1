"""Losses of a classifier, one value per image: (B,K) to (B,). Whoever trains takes the mean. Higher is worse."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, label_smoothing: float = 0.0
) -> Float[Tensor, " batch"]:
    """Cross-entropy in nats against the label, or with ``label_smoothing`` e in [0,1] against ``(1 - e) one_hot + e / K``.

    Labels are int64 in [0, K). Source of the smoothing: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.
    """
    return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def kl_divergence(
    logits: Float[Tensor, "batch classes"], reference_logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Divergence KL(softmax(reference) || softmax(logits)) in nats, summed over the classes. At least 0 up to rounding.

    It is the regulariser of TRADES (Zhang et al. 2019, https://arxiv.org/abs/1901.08573) in the direction of the authors'
    released objective (https://github.com/yaodongyu/TRADES): ``logits`` belong to the attacked images, ``reference_logits`` to the
    clean ones. Gradients flow into both, as there; detach the reference where only the attack is wanted.
    """
    log_reference = functional.log_softmax(reference_logits, dim=1)
    return (log_reference.exp() * (log_reference - functional.log_softmax(logits, dim=1))).sum(dim=1)


def boosted_cross_entropy(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """``-log p_y - log(1 - max_{k != y} p_k)``: cross-entropy, and the likeliest other class held down. In nats, at least 0.

    The BCE term of MART, Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS. Needs 2 classes or more.
    """
    log_probabilities = logits.log_softmax(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    # log(1 - p_k), without a difference that rounds to 0 where p_k is near 1: the log of the sum of all probabilities but the k-th.
    runner_up = others.argmax(1, keepdim=True)
    remainder = log_probabilities.scatter(1, runner_up, -torch.inf).logsumexp(1)
    return -log_probabilities.gather(1, labels[:, None]).squeeze(1) - remainder


def confidence(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The probability of the label, in [0,1]: the one of these functions that is higher the better."""
    return logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
