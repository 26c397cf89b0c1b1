"""A search that trusts decisions, and gradients at the decision boundary alone, whatever the confidence is on the way there."""

from functools import partial

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.attacks.diagnostics.check import Check, judged, share, skipped
from pipeline.attacks.diagnostics.probing import Budget, climb, gradients, misclassified, objective, of_another_class
from pipeline.attacks.hop_skip_jump import to_boundary
from pipeline.attacks.minimum_norm import Nearest
from pipeline.attacks.norms import ball_of, length
from pipeline.attacks.start import AttackBatch

_ROUNDS = 4
_FURTHER = 1.5  # as far as the nearest point, so that a boundary that bends is still crossed
_MORE = 1.5  # of the distance: a short descent is not the best one, least of all through a hard gate
_AHEAD = 0.25
"""Share of the images on which it may succeed where descent from the image does not."""


def search_from_boundary(batch: AttackBatch, budget: Budget) -> Nearest:
    """The nearest misclassified points that it visits; epsilon plays no part.

    It begins at the boundary on the way to an image of another class, then always again: the way that the gradient points at the
    boundary, taken from the image, back to the boundary. A system that is sure or unsure as it pleases has the same boundary, and
    there the same gradient but for its length.
    """
    decision = partial(misclassified, batch)
    far = of_another_class(batch) if budget.region is None else torch.where(budget.region, of_another_class(batch), batch.images)
    nearest, distances = batch.images, torch.full((len(batch),), torch.inf, dtype=torch.float64, device=batch.images.device)
    for _ in range(_ROUNDS):
        wrong = to_boundary(decision, batch.images, far, budget.norm)
        reached = length(wrong.double() - batch.images.double(), budget.norm)
        closer = decision(wrong) & (reached < distances)
        nearest, distances = torch.where(closer.view(-1, 1, 1, 1), wrong, nearest), torch.where(closer, reached, distances)
        radii = (_FURTHER * distances.nan_to_num(0, 0)).to(batch.images.dtype)
        ball = ball_of(budget.norm, batch.images, radii, budget.region)
        far = ball.project(ball.move(batch.images, gradients(objective(batch), wrong), radii.view(-1, 1, 1, 1)))
    return Nearest(points=nearest, distances=distances)


def descent_reaches_boundary(batch: AttackBatch, budget: Budget, distances: Float64[Tensor, " batch"]) -> Check:
    """Where the search from the boundary found a misclassified point, descent from the image has to find one half as far again.

    Confidence may rise all the way to the boundary with a gradient that is true to the last digit, and then it leads away.
    ``distances`` are those of ``search_from_boundary``.
    """
    name = "search from the boundary"
    rows = distances.isfinite().nonzero().flatten()
    if not len(rows):
        return skipped(name, "no image of another class to begin at")
    batch, budget, radii = batch.select(rows), budget.select(rows), (_MORE * distances[rows]).to(batch.images.dtype)
    best = climb(objective(batch), batch, budget, radii=radii)
    ahead = share(~misclassified(batch, best.points))
    finding = f"descent from the image fails on {ahead:.1%} of {len(rows)} images with an epsilon half as large again as decisions"
    finding += f" and the gradient at the boundary needed (median {float(distances[rows].median()):.2g})"
    advice = "what the system is sure of misleads descent: put an attack by decisions into the suite, and trust the lower figure"
    return judged(name, ahead > _AHEAD, finding, advice, {"ahead": ahead, "images": len(rows)})
