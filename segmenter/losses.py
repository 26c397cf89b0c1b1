"""Losses of a segmenter, one value per image: (B,1,H,W) and (B,1,H,W) to (B,). Whoever trains takes the mean.

Logits are unbounded. Masks are foreground shares in [0,1], so a pixel on an edge may be partly foreground. Higher is worse.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

PIXELS = (1, 2, 3)


def binary_cross_entropy(
    logits: Float[Tensor, "batch 1 height width"], masks: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy of each pixel in nats, averaged over the pixels of an image. At least the entropy of the mask itself."""
    return functional.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(PIXELS)


def dice(
    logits: Float[Tensor, "batch 1 height width"], masks: Float[Tensor, "batch 1 height width"], *, smoothing: float = 1.0
) -> Float[Tensor, " batch"]:
    """Soft Dice loss ``1 - (2 sum(min(p, m)) + s) / (sum(p) + sum(m) + s)`` with ``p = sigmoid(logits)``, in [0,1].

    ``smoothing`` is s, in pixels, above 0. It decides what an empty mask means: the loss is then ``1 - s / (sum(p) + s)``, 0 for an
    empty prediction and near 1 for a large one, so empty masks teach too (smp's DiceLoss leaves them out).

    The minimum stands for the usual product ``p m``, with which it agrees on masks of 0 and 1. On pixels that are partly foreground
    the product asks for more than the mask, while this loss is 0 exactly where prediction and mask are equal.
    Sources: Milletari et al. 2016, https://arxiv.org/abs/1606.04797; Wang et al. 2023, https://arxiv.org/abs/2303.16296. It equals
    smp's DiceLoss, whose ``smooth`` is s/2.
    """
    probabilities = logits.sigmoid()
    overlap = torch.minimum(probabilities, masks).sum(PIXELS)
    total = probabilities.sum(PIXELS) + masks.sum(PIXELS)
    return 1 - (2 * overlap + smoothing) / (total + smoothing)


def bce_dice(
    logits: Float[Tensor, "batch 1 height width"], masks: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, " batch"]:
    """``binary_cross_entropy + dice``, unweighted: the first calibrates pixels, the second keeps small objects from vanishing."""
    return binary_cross_entropy(logits, masks) + dice(logits, masks)


def mask_divergence(
    logits: Float[Tensor, "batch 1 height width"], reference_logits: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, " batch"]:
    """Divergence KL(reference || prediction) of the two Bernoulli distributions of each pixel, in nats, averaged over pixels.

    At least 0, and 0 where the logits are equal. It is the regulariser of TRADES (Zhang et al. 2019,
    https://arxiv.org/abs/1901.08573) with pixels as the things that are classified: ``logits`` belong to the attacked images,
    ``reference_logits`` to the clean ones. Gradients flow into both; detach the reference where only the attack is wanted.
    """
    foreground = functional.logsigmoid(reference_logits) - functional.logsigmoid(logits)
    background = functional.logsigmoid(-reference_logits) - functional.logsigmoid(-logits)
    return (reference_logits.sigmoid() * foreground + (-reference_logits).sigmoid() * background).mean(PIXELS)
