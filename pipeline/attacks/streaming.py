"""Projected gradient descent over a queue: an image leaves the batch when it is misclassified, and the next one takes its place.

For robust accuracy alone an image is settled by the first point that is misclassified; on a naturally trained model that is the
third step rather than the hundredth. Every point that is visited is one that ``pgd`` visits, because a start depends on the image's
seed alone, so the verdict of an image is the same (up to the rounding of a batch of another size).

Not for images that are kept for training or for transfer: a point that only just fools is weaker than the best one.
"""

from collections import deque
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.attacks.norms import Ball, LinfBall
from pipeline.attacks.objectives import scores_and_gradients
from pipeline.attacks.pgd import ascended
from pipeline.attacks.tracker import BestPoint, MarginObjective, of_batch, refuse_nan
from pipeline.randomness import derive_seeds

Images = Float[Tensor, "images 3 height width"]

_WARM = -1
"""The number of the extra start at ``warm_start``; random starts count from 0, as in ``pgd``."""


def streamed_pgd(
    objective: MarginObjective,
    ball: Ball,
    *,
    seeds: Int64[Tensor, "restarts images"],
    batch_size: int,
    num_steps: int,
    warm_start: Images | None = None,
) -> Images:
    """Run projected gradient descent on any number of images until each is misclassified or has used up its starts.

    Args:
        objective: what is climbed, with its margins, for all the images: ``two_stage.SystemObjective`` for a system.
        ball: of all the images, with their regions.
        seeds: one for each random start of each image; start r begins where ``pgd`` with one restart and the seeds of row r does.
        batch_size: images in a batch, at least 1; fewer only when no more are waiting.
        num_steps: gradient steps of each start, at least 1; a step has the length ``2.5 * epsilon / num_steps`` in the ball's norm.
        warm_start: one more start for each image, tried first, brought into the ball: the best point of a smaller ball, say.

    Returns:
        The first misclassified point visited, else the one with the largest margin, the image itself included. It is misclassified
        where its margin is above 0.

    The starts of an image follow each other, so what is found does not depend on which images share its batch.
    Raises FloatingPointError for a NaN score, gradient or margin (the search was blind there, and "robust" would be a false claim)
    and InputError where no gradient reaches the images.
    """
    if num_steps < 1 or batch_size < 1 or not len(seeds):
        raise ValueError(f"restarts, num_steps and batch_size are at least 1, not {len(seeds)}, {num_steps} and {batch_size}")
    search = _Search(objective, ball, seeds, num_steps, warm_start)
    search.judge_images(batch_size)
    search.run(batch_size)
    return search.best.points


class _Search:
    """The queue, the slots of the batch, and what was found so far."""

    def __init__(self, objective: MarginObjective, ball: Ball, seeds: Tensor, num_steps: int, warm_start: Tensor | None) -> None:
        self._objective, self._ball, self._seeds = objective, ball, seeds
        self._num_steps, self._warm_start = num_steps, warm_start
        self._step = 2.5 * ball.radius.expand(len(ball.images), 1, 1, 1) / num_steps
        self.best = BestPoint(ball.images)

    def judge_images(self, batch_size: int) -> None:
        """The images themselves are points of the ball: what is misclassified as it is needs no search."""
        everything = torch.arange(len(self._ball.images), device=self._ball.images.device)
        for indices in torch.split(everything, batch_size):
            with torch.no_grad(), of_batch(indices):
                self.best.track(self._objective.select(indices), indices)(self._ball.images[indices])
        self.best.check()

    def run(self, batch_size: int) -> None:
        """Until the queue is empty."""
        first = 0 if self._warm_start is None else _WARM
        waiting = deque((index, first) for index in (self.best.values <= 0).nonzero().flatten().tolist())
        slots: list[tuple[int, int, int]] = []  # image, start, steps taken
        points = self._ball.images[:0]
        while waiting or slots:
            new = [waiting.popleft() for _ in range(min(batch_size - len(slots), len(waiting)))]
            if new:
                points = torch.cat([points, self._begin(new)])
                slots += [(index, start, 0) for index, start in new]
            points, robust = self._advance(points, slots)
            kept = []
            for position, (index, start, steps) in enumerate(slots):
                if robust[position] and steps < self._num_steps:
                    kept.append(position)
                elif robust[position] and start + 1 < len(self._seeds):
                    waiting.append((index, start + 1))
            points = points if len(kept) == len(slots) else points[kept]
            slots = [(slots[position][0], slots[position][1], slots[position][2] + 1) for position in kept]

    def _begin(self, new: list[tuple[int, int]]) -> Tensor:
        """The first point of each start."""
        indices = torch.tensor([index for index, _ in new], device=self._ball.images.device)
        numbers = torch.tensor([start for _, start in new], device=indices.device)
        begins = self._ball.images[indices]
        for number in sorted({start for _, start in new}):
            chosen = (numbers == number).nonzero().flatten()
            ball = _select(self._ball, indices[chosen])
            if number == _WARM:
                assert self._warm_start is not None
                begins[chosen] = ball.project(self._warm_start[indices[chosen]])
            else:
                begins[chosen] = ball.random_points(derive_seeds(self._seeds[number, indices[chosen]], 0))
        return begins

    def _advance(self, points: Tensor, slots: list[tuple[int, int, int]]) -> tuple[Tensor, list[bool]]:
        """Judge the points of the batch and step from them; a start's last point is judged only, its step is not used."""
        indices = torch.tensor([index for index, _, _ in slots], device=points.device)
        tracked = self.best.track(self._objective.select(indices), indices)
        with of_batch(indices):
            scores, gradients = scores_and_gradients(tracked, points)
            refuse_nan(scores.isnan() | tracked.margins.isnan())
        stepped = ascended(_select(self._ball, indices), points, gradients, self._step[indices])
        robust: list[bool] = (tracked.margins <= 0).tolist()  # on a GPU the queue waits here: it cannot go on without the margins
        return stepped, robust


def _select(ball: Ball, indices: Tensor) -> Ball:
    """The ball of some of its images, in the order of ``indices``."""
    radius = ball.radius if len(ball.radius) == 1 else ball.radius[indices]
    if isinstance(ball, LinfBall):
        return LinfBall(images=ball.images[indices], radius=radius, lower=ball.lower[indices], upper=ball.upper[indices])
    region = None if ball.region is None else ball.region[indices]
    return replace(ball, images=ball.images[indices], radius=radius, region=region)
