"""Projected gradient descent, upwards: the one loop of evaluation and training.

Madry et al. 2018, https://arxiv.org/abs/1706.06083.
"""

from collections import deque
from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.attacks.config import PgdConfig
from pipeline.attacks.norms import Ball, ball_of
from pipeline.attacks.objectives import Objective, scores_and_gradients, scores_without_gradients
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import BestPoint
from pipeline.randomness import derive_seeds
from pipeline.shapes import Images, Masks, Regions, Scores, Seeds

PerImage = float | Scores
RegionMasks = Masks | Regions


def pgd(
    config: PgdConfig,
    objective: Objective,
    images: Images,
    *,
    region: RegionMasks | None = None,
    start: Images | None = None,
    keep_best: bool = True,
    seeds: Seeds | None = None,
) -> Images:
    """Run a configuration. Arguments, result and errors are those of ``pgd_in``."""
    settings = vars(config)
    return pgd_in(objective=objective, images=images, region=region, start=start, keep_best=keep_best, seeds=seeds, **settings)


def pgd_in(
    norm: Norm,
    objective: Objective,
    images: Images,
    *,
    epsilon: PerImage,
    step_size: PerImage | None = None,
    num_steps: int,
    restarts: int = 1,
    random_start: bool = True,
    region: RegionMasks | None = None,
    start: Images | None = None,
    keep_best: bool = True,
    seeds: Seeds | None = None,
) -> Images:
    """Climb the objective inside a norm ball: steps along steepest ascent in the norm, each followed by the way back into the ball.

    Args:
        norm: linf: steps along the sign of the gradient. l2: along the gradient, normalised per image; a point that leaves both is
            first brought back to the ball and then clamped to [0,1], so the result is in both, but not always the nearest point of
            both; where the gradient is 0 the point stays. l1: sparse steps (``norms.L1Ball.ascent``), then the nearest point of
            ball and box; for a figure take ``apgd``, which chooses how many values it changes.
        objective: what is climbed; its model should be in the state of ``system.attacked``.
        images: (B,3,H,W) in [0,1]; their memory layout is kept.
        epsilon: radius of the ball, over the whole image, for all images or for each (B,); 0 returns the images, to the bit.
        step_size: length of a step in the norm, for all images or for each; None is ``2.5 * epsilon / num_steps``.
        num_steps: gradient steps of each start, at least 1.
        restarts: number of starts; more than one needs ``random_start``.
        random_start: start at a random point of the ball and not at the image.
        region: (B,1,H,W), above 0 where a pixel may change; None is everywhere. It acts before gradients are normalised.
        start: (B,3,H,W), brought into the ball: where the first start begins instead of at random (or at the image).
        keep_best: return the best of all points visited, the image itself and the last point of every start included: two
            scorings more than the bare steps (one without a random start). Otherwise the last point of the last start, unscored:
            the inner maximisation of training, exactly ``num_steps`` forward and backward passes.
        seeds: (B,), int64, one for each image: they decide the random starts, so an image's result does not depend on its batch.

    Returns:
        (B,3,H,W), detached: |point - image| <= epsilon and 0 <= point <= 1 exactly, and equal to the image outside the region.

    Raises:
        ValueError: images outside [0,1], a negative epsilon, restarts or a random start without what they need, scores that are not
            one per image.
        FloatingPointError: with ``keep_best``, a NaN score or gradient. Such a point is never the best, but the search from it was
            blind, and calling the image robust would be a false claim.
    """
    ball = ball_of(norm, images.detach(), epsilon, region)
    if num_steps < 1 or restarts < 1:
        raise ValueError(f"num_steps and restarts are at least 1, not {num_steps} and {restarts}")
    if restarts > 1 and not (random_start and keep_best):
        raise ValueError("more than one restart needs random_start, to differ, and keep_best, to choose")
    draws = random_start and (start is None or restarts > 1)
    if draws and seeds is None:
        raise ValueError("a random start needs seeds, one for each image")
    begins = _begins(ball, start, restarts, seeds if draws else None)
    if step_size is None:
        step = 2.5 * ball.radius / num_steps
    else:
        step = torch.as_tensor(step_size, dtype=ball.images.dtype, device=ball.images.device).view(-1, 1, 1, 1)
    if keep_best:
        return _best_visited(objective, ball, begins, step, num_steps)
    return deque(_climb(objective, ball, next(begins), step, num_steps), maxlen=1)[0][0]


pgd_linf = partial(pgd_in, "linf")
pgd_l2 = partial(pgd_in, "l2")
pgd_l1 = partial(pgd_in, "l1")


def _begins(ball: Ball, start: Tensor | None, restarts: int, seeds: Tensor | None) -> Iterator[Tensor]:
    for restart in range(restarts):
        if restart == 0 and start is not None:
            yield ball.project(start.detach())
        elif seeds is None:
            yield ball.images
        else:
            yield ball.random_points(derive_seeds(seeds.to(ball.images.device), restart))


def ascended(ball: Ball, points: Images, gradients: Images, step: Float[Tensor, "#batch 1 1 1"]) -> Images:
    """The step of projected gradient descent: along steepest ascent in the ball's norm, then back into the ball."""
    return ball.project(ball.move(points, gradients, step))


def _climb(objective: Objective, ball: Ball, point: Tensor, step: Tensor, num_steps: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Every point of one start, in order, with its scores; the last point comes without, because no step needs them."""
    for _ in range(num_steps):
        scores, gradients = scores_and_gradients(objective, point)
        yield point, scores
        point = ascended(ball, point, gradients, step)
    yield point, None


def _best_visited(objective: Objective, ball: Ball, begins: Iterator[Tensor], step: Tensor, num_steps: int) -> Tensor:
    best = BestPoint(ball.images)
    for number, begin in enumerate(begins):
        if number == 0 and begin is not ball.images:
            best.update(ball.images, scores_without_gradients(objective, ball.images))
        for point, scores in _climb(objective, ball, begin, step, num_steps):
            best.update(point, scores_without_gradients(objective, point) if scores is None else scores)
    return best.points
