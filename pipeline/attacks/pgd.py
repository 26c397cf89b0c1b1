"""Projected gradient descent, upwards: the one loop of evaluation and training.

Madry et al. 2018, https://arxiv.org/abs/1706.06083.
"""

from collections import deque
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.attacks.config import PgdConfig
from pipeline.attacks.norms import Ball, l2_ball, linf_ball
from pipeline.attacks.objectives import Objective, scores_and_gradients, scores_without_gradients
from pipeline.randomness import derive_seeds

Images = Float[Tensor, "batch 3 height width"]
PerImage = float | Float[Tensor, " batch"]
RegionMasks = Float[Tensor, "batch 1 height width"] | Bool[Tensor, "batch 1 height width"]


def pgd(
    config: PgdConfig,
    objective: Objective,
    images: Images,
    *,
    region: RegionMasks | None = None,
    start: Images | None = None,
    keep_best: bool = True,
    generator: torch.Generator | None = None,
    seeds: Int64[Tensor, " batch"] | None = None,
) -> Images:
    """Run a configuration. Arguments, result and errors are those of ``pgd_linf`` and ``pgd_l2``."""
    attack = pgd_linf if config.norm == "linf" else pgd_l2
    return attack(
        objective,
        images,
        epsilon=config.epsilon,
        step_size=config.step_size,
        num_steps=config.num_steps,
        restarts=config.restarts,
        random_start=config.random_start,
        region=region,
        start=start,
        keep_best=keep_best,
        generator=generator,
        seeds=seeds,
    )


def pgd_linf(
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
    generator: torch.Generator | None = None,
    seeds: Int64[Tensor, " batch"] | None = None,
) -> Images:
    """Climb the objective inside the maximum-norm ball: steps along the sign of the gradient.

    Args:
        objective: what is climbed; its model should be in the state of ``system.attacked``.
        images: (B,3,H,W) in [0,1]; their memory layout is kept.
        epsilon: radius of the ball, for all images or for each (B,); 0 returns the images, to the bit.
        step_size: length of a step, for all images or for each; None is ``2.5 * epsilon / num_steps``.
        num_steps: gradient steps of each start, at least 1.
        restarts: number of starts; more than one needs ``random_start``.
        random_start: start at a random point of the ball and not at the image.
        region: (B,1,H,W), above 0 where a pixel may change; None is everywhere. It acts before gradients are normalised.
        start: (B,3,H,W), brought into the ball: where the first start begins instead of at random (or at the image).
        keep_best: return the best of all points visited, the image itself and the last point of every start included: two
            scorings more than the bare steps (one without a random start). Otherwise the last point of the last start, unscored:
            the inner maximisation of training, exactly ``num_steps`` forward and backward passes.
        generator: draws one seed per image for the random starts.
        seeds: (B,), int64, instead of a generator: an image's result then does not depend on its batch.

    Returns:
        (B,3,H,W), detached: |point - image| <= epsilon and 0 <= point <= 1 exactly, and equal to the image outside the region.

    Raises:
        ValueError: images outside [0,1], a negative epsilon, restarts or a random start without what they need, scores that are not
            one per image.
        FloatingPointError: with ``keep_best``, a score that is no number. Such a point is never the best, but the search from it
            was blind, and calling the image robust would be a false claim.
    """
    return _search(
        objective,
        linf_ball(images.detach(), epsilon, region),
        step_size=step_size,
        num_steps=num_steps,
        restarts=restarts,
        random_start=random_start,
        start=start,
        keep_best=keep_best,
        generator=generator,
        seeds=seeds,
    )


def pgd_l2(
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
    generator: torch.Generator | None = None,
    seeds: Int64[Tensor, " batch"] | None = None,
) -> Images:
    """Climb the objective inside the Euclidean ball: steps along the gradient, normalised per image.

    Arguments, result and errors are those of ``pgd_linf``, but for the norm: epsilon and the step are Euclidean lengths over the
    whole image. A point that leaves both is first brought back to the ball and then clamped to [0,1]: the result is in both,
    but not always the nearest point of both. Where the gradient is 0 the point stays.
    """
    return _search(
        objective,
        l2_ball(images.detach(), epsilon, region),
        step_size=step_size,
        num_steps=num_steps,
        restarts=restarts,
        random_start=random_start,
        start=start,
        keep_best=keep_best,
        generator=generator,
        seeds=seeds,
    )


def _search(
    objective: Objective,
    ball: Ball,
    *,
    step_size: PerImage | None,
    num_steps: int,
    restarts: int,
    random_start: bool,
    start: Images | None,
    keep_best: bool,
    generator: torch.Generator | None,
    seeds: Int64[Tensor, " batch"] | None,
) -> Images:
    if num_steps < 1 or restarts < 1:
        raise ValueError(f"num_steps and restarts are at least 1, not {num_steps} and {restarts}")
    if restarts > 1 and not (random_start and keep_best):
        raise ValueError("more than one restart needs random_start, to differ, and keep_best, to choose")
    draws = random_start and (start is None or restarts > 1)
    if draws:
        seeds = _start_seeds(len(ball.images), generator, seeds).to(ball.images.device)
    begins = _begins(ball, start, restarts, seeds if draws else None)
    if step_size is None:
        step = 2.5 * ball.radius / num_steps
    else:
        step = torch.as_tensor(step_size, dtype=ball.images.dtype, device=ball.images.device).view(-1, 1, 1, 1)
    if keep_best:
        return _best_visited(objective, ball, begins, step, num_steps)
    return deque(_climb(objective, ball, next(begins), step, num_steps), maxlen=1)[0][0]


def _start_seeds(batch: int, generator: torch.Generator | None, seeds: Tensor | None) -> Tensor:
    if seeds is not None:
        return seeds
    if generator is None:
        raise ValueError("a random start needs a generator or seeds")
    return torch.randint(2**63 - 1, (batch,), generator=generator, device=generator.device)


def _begins(ball: Ball, start: Tensor | None, restarts: int, seeds: Tensor | None) -> Iterator[Tensor]:
    for restart in range(restarts):
        if restart == 0 and start is not None:
            yield ball.project(start.detach())
        elif seeds is None:
            yield ball.images
        else:
            yield ball.random_points(derive_seeds(seeds, restart))


def _climb(objective: Objective, ball: Ball, point: Tensor, step: Tensor, num_steps: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Every point of one start, in order, with its scores; the last point comes without, because no step needs them."""
    for _ in range(num_steps):
        scores, gradients = scores_and_gradients(objective, point)
        yield point, scores
        point = ball.project(torch.addcmul(point, ball.ascent(gradients), step))
    yield point, None


def _best_visited(objective: Objective, ball: Ball, begins: Iterator[Tensor], step: Tensor, num_steps: int) -> Tensor:
    best = ball.images
    best_scores = torch.full((len(best),), -torch.inf, dtype=best.dtype, device=best.device)
    undefined = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    for point, known_scores in _visited(objective, ball, begins, step, num_steps):
        scores = scores_without_gradients(objective, point) if known_scores is None else known_scores
        # NaN compares false, so it never becomes the best. No branch on values: on a GPU the loop must not wait for them.
        better = scores > best_scores
        best = torch.where(better.view(-1, 1, 1, 1), point, best)
        best_scores = torch.where(better, scores, best_scores)
        undefined |= scores.isnan()
    if undefined.any():
        where = ", ".join(map(str, undefined.nonzero().flatten().tolist()))
        raise FloatingPointError(f"the objective gave a score that is no number for these images of the batch: {where}")
    return best


def _visited(
    objective: Objective, ball: Ball, begins: Iterator[Tensor], step: Tensor, num_steps: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    for number, begin in enumerate(begins):
        if number == 0 and begin is not ball.images:
            yield ball.images, None
        yield from _climb(objective, ball, begin, step, num_steps)
