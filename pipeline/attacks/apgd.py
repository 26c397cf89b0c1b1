"""Auto-PGD: projected gradient descent, upwards, that chooses its own step.

Croce and Hein 2020, https://arxiv.org/abs/2003.01690, algorithm 1. The step begins at twice the radius; at checkpoints that become
denser it is halved for every image whose score has stopped to rise, and the search goes on from that image's best point. In the L1
ball steps are sparse: see ``apgd_l1``.
"""

import torch
from torch import Tensor

from pipeline.attacks.apgd_l1 import begin_l1, climb_l1
from pipeline.attacks.norms import Ball, L1Ball, ball_of, wide
from pipeline.attacks.objectives import Objective, scores_and_gradients, scores_without_gradients
from pipeline.attacks.pgd import PerImage, RegionMasks
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import BestPoint
from pipeline.randomness import derive_seeds
from pipeline.shapes import Images, Seeds

_INERTIA = 0.75
"""Share of the new step in a move; the rest repeats the last move. The paper's alpha."""
_ENOUGH_RISES = 0.75
"""Share of the moves since the last checkpoint that have to raise the score for the step to stay. The paper's rho."""


def apgd(
    objective: Objective,
    images: Images,
    *,
    norm: Norm,
    epsilon: PerImage,
    num_steps: int,
    region: RegionMasks | None = None,
    start: Images | None = None,
    seeds: Seeds | None = None,
    explored: Objective | None = None,
) -> Images:
    """Climb the objective inside the ball, without a step size to choose.

    Args:
        objective: what is climbed; its model should be in the state of ``system.attacked``.
        images: (B,3,H,W) in [0,1]; their memory layout is kept.
        norm: of the ball, linf, l2 or l1.
        epsilon: radius of the ball, for all images or for each (B,); 0 returns the images, to the bit.
        num_steps: gradient steps, at least 1; the published attack takes 100.
        region: (B,1,H,W), above 0 where a pixel may change; None is everywhere.
        start: (B,3,H,W), brought into the ball: where it begins instead of at a random point. The first step is as long as the ball
            is wide, so little of a start outlives it: a search that builds on one is better done by ``pgd``.
        seeds: (B,), int64, one for each image: they decide the random start, so an image's result does not depend on its batch.
        explored: in the L1 ball, what is climbed in balls of three and two times the radius, where a random start is searched first
            (of 10 steps or more): for whoever records the points that ``objective`` is asked about. None is the objective.

    Returns:
        (B,3,H,W), detached: the best of all points visited, the image itself and the last point included. It lies in
        the ball and in [0,1] exactly, and equals the image outside the region.

    Raises:
        ValueError: images outside [0,1], a negative epsilon, no seeds where they are needed, scores that are not one per image.
        FloatingPointError: a NaN score or gradient: the search was blind there.

    Where we deviate from the authors' code: a random start is uniform in the ball and not on its surface; the score of the first
    move is compared with that of the start, as the paper has it, and not with 0; the image itself is a candidate.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is at least 1, not {num_steps}")
    ball = ball_of(norm, images.detach(), epsilon, region)
    if seeds is None and start is None:
        raise ValueError("a random start needs seeds, one for each image")
    best, steps = BestPoint(ball.images), num_steps
    best.update(ball.images, scores_without_gradients(objective, ball.images))
    if start is not None:
        begin = ball.project(start.detach())
    else:
        assert seeds is not None
        drawn = derive_seeds(seeds.to(ball.images.device), 0)
        if isinstance(ball, L1Ball):
            begin, steps = begin_l1(explored or objective, ball, drawn, num_steps)
        else:
            begin = ball.random_points(drawn)
    best.merge(climb_l1(objective, ball, begin, steps) if isinstance(ball, L1Ball) else _climb(objective, ball, begin, steps))
    return best.points


def checkpoints(num_steps: int) -> list[int]:
    """The numbers of moves after which the step is looked at: first after 22 %, then at intervals that shrink by 3 % to 6 %."""
    interval = max(int(0.22 * num_steps), 1)
    moves, after = [], interval
    while after <= num_steps:
        moves.append(after)
        interval = max(interval - max(int(0.03 * num_steps), 1), int(0.06 * num_steps), 1)
        after += interval
    return moves


def _climb(objective: Objective, ball: Ball, point: Tensor, num_steps: int) -> BestPoint:
    """One start. No branch on values: on a GPU the loop must not wait for them."""
    step = (2 * ball.radius).expand(len(point), 1, 1, 1)
    best = BestPoint(point)
    scores, best_gradients = scores_and_gradients(objective, point)
    best.update(point, scores)
    gradients, known, halved = best_gradients, best.values, torch.ones_like(scores, dtype=torch.bool)
    previous, rises, last_check = point, torch.zeros_like(scores), 0
    checks = checkpoints(num_steps)
    for move in range(1, num_steps + 1):
        previous, point = point, _moved(ball, point, previous, gradients, step, first=move == 1)
        if move == num_steps:  # nothing steps from the last point
            best.update(point, scores_without_gradients(objective, point))
            return best
        new_scores, gradients = scores_and_gradients(objective, point)
        rises, scores = rises + (new_scores > scores), new_scores
        best_gradients = torch.where(wide(best.update(point, new_scores)), gradients, best_gradients)
        if move in checks:
            stalled = (rises <= _ENOUGH_RISES * (move - last_check)) | (~halved & (best.values <= known))
            step = torch.where(wide(stalled), step / 2, step)
            point = torch.where(wide(stalled), best.unchecked, point)
            gradients = torch.where(wide(stalled), best_gradients, gradients)
            known, halved, last_check = best.values, stalled, move
            rises = torch.zeros_like(rises)
    raise AssertionError("the last move returns")


def _moved(ball: Ball, point: Tensor, previous: Tensor, gradients: Tensor, step: Tensor, *, first: bool) -> Tensor:
    """A step, and part of the last move once more; both ends are in the ball."""
    stepped = ball.project(ball.move(point, gradients, step))
    if first:
        return stepped
    return ball.project(point + _INERTIA * (stepped - point) + (1 - _INERTIA) * (point - previous))
