"""Auto-PGD in the L1 ball: one start of a search whose steps change fewer and fewer values.

Croce and Hein 2021, https://arxiv.org/abs/2103.01208, section 4 and algorithm 1. A step follows the signs of the largest entries of
the gradient. At every 25th part of the steps their number becomes two thirds of the values that the best point changes; where that
has become smaller the search goes on from the best point with a full step, else the step is shortened.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.attacks.norms import L1Ball, sparse_signs, wide
from pipeline.attacks.objectives import Objective, scores_and_gradients, scores_without_gradients
from pipeline.attacks.tracker import BestPoint
from pipeline.shapes import Images, Seeds

_LARGER = (3, 2)
"""Times the radius, of the balls that are searched first."""
_LARGER_SHARE = 0.3
"""Of the steps, in each of them."""
_FEWEST_STEPS = 10
"""With fewer, a start stays in its own ball."""
_CHECKS = 0.04
"""Share of the steps between two looks at how many values the best point changes."""
_FEWER = 0.95
"""Of as many as before: what is no longer the same."""
_OF_CHANGED = 1.5
"""Values that the best point changes, over those that a step changes."""
_SHORTER, _SHORTEST = 1.5, 10
"""A step over the next one, and a full step over the shortest."""


def begin_l1(explored: Objective, ball: L1Ball, seeds: Seeds, num_steps: int) -> tuple[Images, int]:
    """Where a random start begins in its ball, and the steps that are left.

    Three tenths of the steps are spent in a ball of three times the radius, and as many in one of twice the radius: what is found
    there lies, projected, where few values matter. ``explored`` is asked about points outside the ball.
    """
    if num_steps < _FEWEST_STEPS:
        return ball.random_points(seeds), num_steps
    point = replace(ball, radius=_LARGER[0] * ball.radius).random_points(seeds)
    for times in _LARGER:
        larger = replace(ball, radius=times * ball.radius)
        point = climb_l1(explored, larger, larger.project(point), math.ceil(_LARGER_SHARE * num_steps)).points
    return ball.project(point), steps_in_own_ball(num_steps)


def steps_in_own_ball(num_steps: int) -> int:
    """Of the steps of a random start, those that are left after the larger balls."""
    return num_steps if num_steps < _FEWEST_STEPS else num_steps - len(_LARGER) * math.ceil(_LARGER_SHARE * num_steps)


def climb_l1(objective: Objective, ball: L1Ball, point: Images, num_steps: int) -> BestPoint:
    """One start in one ball. No branch on values: on a GPU the loop must not wait for them."""
    images, region = ball.images, 1 if ball.region is None else ball.region
    full = ball.radius.expand(len(point), 1, 1, 1)
    step, changed = full, _changed(point, images)
    sparse = changed / images[0].numel() / _OF_CHANGED
    best = BestPoint(point)
    scores, best_gradients = scores_and_gradients(objective, point)
    best.update(point, scores)
    gradients, interval = best_gradients, max(int(_CHECKS * num_steps), 1)
    for move in range(1, num_steps + 1):
        # The authors' arithmetic in float32: how many values a step changes is a whole number, which rounding decides.
        kept = images[0].numel() - ((1 - sparse) * images[0].numel()).long()
        point = ball.project(torch.addcmul(point, sparse_signs(gradients * region, kept), step))
        if move == num_steps:  # nothing steps from the last point
            best.update(point, scores_without_gradients(objective, point))
            return best
        new_scores, gradients = scores_and_gradients(objective, point)
        best_gradients = torch.where(wide(best.update(point, new_scores)), gradients, best_gradients)
        if move % interval == 0:
            now = _changed(best.unchecked, images)
            fewer = now / changed < _FEWER
            step = torch.where(wide(fewer), full, (step / _SHORTER).clamp_min(full / _SHORTEST))
            point = torch.where(wide(fewer), best.unchecked, point)
            gradients = torch.where(wide(fewer), best_gradients, gradients)
            changed, sparse = now, now / images[0].numel() / _OF_CHANGED
    raise AssertionError("the last move returns")


def _changed(points: Tensor, images: Tensor) -> Tensor:
    """How many values of each image differ."""
    return (points != images).flatten(1).sum(dim=1)
