"""Scores of masks, one value per image in [0,1], higher is better: (B,1,H,W) and (B,1,H,W) to (B,).

Both arguments are masks: foreground shares in [0,1] (for a segmenter ``logits.sigmoid()``). A pixel is foreground where its
share is at least ``threshold``. Every score is symmetric in its arguments at the same threshold, and averages over images are
averages of per-image scores: a large object does not count more than a small one.

Empty masks: both empty is 1 (the absence was found), only one empty is 0. A share that is not a number is background.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

PIXELS = (1, 2, 3)


def intersection_over_union(
    masks: Float[Tensor, "batch 1 height width"], references: Float[Tensor, "batch 1 height width"], *, threshold: float = 0.5
) -> Float[Tensor, " batch"]:
    """Pixels that are foreground in both over pixels that are foreground in either (Jaccard index); both empty is 1."""
    predicted, expected = masks >= threshold, references >= threshold
    return _share((predicted & expected).sum(PIXELS), (predicted | expected).sum(PIXELS))


def dice_score(
    masks: Float[Tensor, "batch 1 height width"], references: Float[Tensor, "batch 1 height width"], *, threshold: float = 0.5
) -> Float[Tensor, " batch"]:
    """Twice the common foreground pixels over the sum of both counts (F1 of the pixels), ``2 IoU / (1 + IoU)``; both empty is 1."""
    predicted, expected = masks >= threshold, references >= threshold
    return _share(2 * (predicted & expected).sum(PIXELS), predicted.sum(PIXELS) + expected.sum(PIXELS))


def boundary_f(
    masks: Float[Tensor, "batch 1 height width"],
    references: Float[Tensor, "batch 1 height width"],
    *,
    tolerance: int = 1,
    threshold: float = 0.5,
) -> Float[Tensor, " batch"]:
    """F-measure of the boundaries: harmonic mean of the shares of each boundary that lie near the other.

    A boundary pixel is a foreground pixel with background above, below, left or right of it; the edge of the image is no boundary.
    Near means that some pixel of the other boundary is at most ``tolerance`` pixels away (Euclidean, between pixel centers, at
    least 0). IoU forgives a ragged outline on a large object, this does not.

    If neither mask has a boundary (empty, or the whole image) the score is 1 where the masks agree and 0 where they do not;
    if only one has a boundary it is 0.

    Source: Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", BMVC,
    https://doi.org/10.5244/C.27.32, as used by DAVIS (Perazzi et al. 2016, https://doi.org/10.1109/CVPR.2016.85). We differ from
    DAVIS' code in the boundary (theirs also marks background pixels, to the left and above), and in two masks without boundary that
    disagree (theirs gives 1). DAVIS' tolerance is 0.8 % of the diagonal, rounded up: 1 px up to 88 px, 3 px at 224 px.
    """
    predicted, expected = masks >= threshold, references >= threshold
    predicted_boundary, expected_boundary = _boundary(predicted), _boundary(expected)
    num_predicted, num_expected = predicted_boundary.sum(PIXELS), expected_boundary.sum(PIXELS)
    precise = (predicted_boundary & _dilate(expected_boundary, tolerance)).sum(PIXELS)
    recalled = (expected_boundary & _dilate(predicted_boundary, tolerance)).sum(PIXELS)
    precision = precise / num_predicted.clamp_min(1)
    recall = recalled / num_expected.clamp_min(1)
    score = 2 * precision * recall / (precision + recall).clamp_min(torch.finfo(precision.dtype).tiny)
    agree = (predicted == expected).all(dim=3).all(dim=2).all(dim=1)
    return torch.where(num_predicted + num_expected == 0, agree.to(score), score)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, torch.ones((), device=whole.device), part / whole.clamp_min(1))


def _boundary(foreground: Bool[Tensor, "batch 1 height width"]) -> Bool[Tensor, "batch 1 height width"]:
    padded = functional.pad(foreground.float(), (1, 1, 1, 1), mode="replicate").bool()
    inside = padded[..., :-2, 1:-1] & padded[..., 2:, 1:-1] & padded[..., 1:-1, :-2] & padded[..., 1:-1, 2:]
    return foreground & ~inside


def _dilate(pixels: Bool[Tensor, "batch 1 height width"], radius: int) -> Bool[Tensor, "batch 1 height width"]:
    """Every pixel at most ``radius`` away from a marked one: a convolution with a disk, exact because it counts below 2^24."""
    steps = torch.arange(-radius, radius + 1, device=pixels.device)
    disk = steps[:, None] ** 2 + steps**2 <= radius**2
    return functional.conv2d(pixels.float(), disk[None, None].float(), padding=radius) > 0
