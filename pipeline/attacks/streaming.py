"""Projected gradient descent over a queue: an image leaves the batch when it has fallen, and the next one takes its place.

For robust accuracy alone an image is settled by the first point that is misclassified; on a naturally trained model that is the
third step rather than the hundredth. Every point that is visited is one that ``pgd`` visits, because a start depends on the image's
seed alone, so the verdict of an image is the same (up to the rounding of a batch of another size).

Not for images that are kept for training or for transfer: a point that only just fools is weaker than the best one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.attacks.norms import Ball, L2Ball, LinfBall
from pipeline.attacks.tracker import Judged
from pipeline.randomness import derive_seeds

Images = Float[Tensor, "images 3 height width"]
Confirm = Callable[[Tensor, Tensor], Tensor]
"""(points, their images' numbers) -> verdicts (B,), above 0 is misclassified."""

_WARM = -1
"""The number of the extra start at ``starts``; random starts count from 0, as in ``pgd``."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search over a queue found, in the order of its images."""

    points: Images
    """The first misclassified point visited, else the one with the best verdict (the image itself included)."""
    fallen: Bool[Tensor, " images"]
    """Whether a misclassified point was visited: one with a verdict above 0."""
    starts: Int64[Tensor, " images"]
    """Starts begun."""
    num_evaluations: int
    """Forward and backward passes of single images, over all images."""


def streamed_pgd(
    objective: Judged,
    ball: Ball,
    *,
    seeds: Int64[Tensor, "restarts images"],
    batch_size: int,
    num_steps: int,
    step_size: float | None = None,
    starts: Images | None = None,
    confirm: Confirm | None = None,
) -> Searched:
    """Run ``pgd_linf`` or ``pgd_l2`` on any number of images until each has fallen or has used up its starts.

    Args:
        objective: what is climbed, with its verdicts, for all the images: ``adaptive.SystemObjective`` for a system.
        ball: ``linf_ball`` or ``l2_ball`` of all the images, with their regions.
        seeds: one for each random start of each image; start r begins where ``pgd`` with one restart and the seeds of row r does.
        batch_size: images in a batch, at least 1; fewer only when no more are waiting.
        num_steps: gradient steps of each start, at least 1.
        step_size: length of a step in the ball's norm; None is ``2.5 * epsilon / num_steps``.
        starts: one more start for each image, tried first, brought into the ball: the best point of a smaller ball, say.
        confirm: asked for the verdicts of misclassified points before their images leave, where the objective climbs a copy of the
            system that is less exact.

    The starts of an image follow each other, so what is found does not depend on which images share its batch.
    Raises FloatingPointError for a score or verdict that is no number (the search was blind there, and "robust" would be a false
    claim) and ValueError where no gradient reaches the images.
    """
    if num_steps < 1 or batch_size < 1 or not len(seeds):
        raise ValueError(f"restarts, num_steps and batch_size are at least 1, not {len(seeds)}, {num_steps} and {batch_size}")
    search = _Search(objective, ball, seeds, num_steps, step_size, starts, confirm)
    search.judge_images(batch_size)
    search.run(batch_size)
    return search.result()


class _Search:
    """The queue, the slots of the batch, and what was found so far."""

    def __init__(
        self,
        objective: Judged,
        ball: Ball,
        seeds: Tensor,
        num_steps: int,
        step_size: float | None,
        starts: Tensor | None,
        confirm: Confirm | None,
    ) -> None:
        self._objective, self._ball, self._seeds, self._num_steps, self._starts = objective, ball, seeds, num_steps, starts
        self._confirm = confirm
        images, device = len(ball.images), ball.images.device
        radius = ball.radius.expand(images, 1, 1, 1)
        self._step = 2.5 * radius / num_steps if step_size is None else torch.full_like(radius, step_size)
        self._points = ball.images.clone()
        self._verdicts = torch.full((images,), -torch.inf, dtype=ball.images.dtype, device=device)
        self._begun = torch.zeros(images, dtype=torch.int64, device=device)
        self._num_evaluations = 0

    def result(self) -> Searched:
        return Searched(points=self._points, fallen=self._verdicts > 0, starts=self._begun, num_evaluations=self._num_evaluations)

    def judge_images(self, batch_size: int) -> None:
        """The images themselves are points of the ball: an image that is misclassified as it is has fallen."""
        everything = torch.arange(len(self._points), device=self._points.device)
        for begin in range(0, len(everything), batch_size):
            indices = everything[begin : begin + batch_size]
            with torch.no_grad():
                self._judge(self._ball.images[indices], indices)

    def run(self, batch_size: int) -> None:
        first = 0 if self._starts is None else _WARM
        waiting = deque((index, first) for index in (self._verdicts <= 0).nonzero().flatten().tolist())
        slots: list[tuple[int, int, int]] = []  # image, start, steps taken
        points = self._points[:0]
        while waiting or slots:
            new = [waiting.popleft() for _ in range(min(batch_size - len(slots), len(waiting)))]
            if new:
                points = torch.cat([points, self._begin(new)])
                slots += [(index, start, 0) for index, start in new]
            points, standing = self._advance(points, slots)
            kept = []
            for position, (index, start, steps) in enumerate(slots):
                if standing[position] and steps < self._num_steps:
                    kept.append(position)
                elif standing[position] and start + 1 < len(self._seeds):
                    waiting.append((index, start + 1))
            points = points if len(kept) == len(slots) else points[kept]
            slots = [(slots[position][0], slots[position][1], slots[position][2] + 1) for position in kept]

    def _begin(self, new: list[tuple[int, int]]) -> Tensor:
        """The first point of each start."""
        indices = torch.tensor([index for index, _ in new], device=self._points.device)
        numbers = torch.tensor([start for _, start in new], device=self._points.device)
        self._begun[indices] += 1
        begins = self._ball.images[indices]
        for number in sorted({start for _, start in new}):
            chosen = (numbers == number).nonzero().flatten()
            ball = _select(self._ball, indices[chosen])
            if number == _WARM:
                assert self._starts is not None
                begins[chosen] = ball.project(self._starts[indices[chosen]])
            else:
                begins[chosen] = ball.random_points(derive_seeds(self._seeds[number, indices[chosen]], 0))
        return begins

    def _advance(self, points: Tensor, slots: list[tuple[int, int, int]]) -> tuple[Tensor, list[bool]]:
        """Judge the points of the batch and step from them; a start's last point is judged only, its step is not used."""
        indices = torch.tensor([index for index, _, _ in slots], device=points.device)
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            scores, verdicts = self._judge(leaf, indices)
            gradients = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
        if gradients is None:
            raise ValueError("no gradient reaches the images from this objective: there is nothing to climb")
        ball = _select(self._ball, indices)
        stepped = ball.project(torch.addcmul(points, ball.ascent(gradients), self._step[indices]))
        standing: list[bool] = (verdicts <= 0).tolist()  # on a GPU the queue waits here: it cannot go on without the verdicts
        return stepped, standing

    def _judge(self, points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and verdicts of points of some images; keeps the points with the best verdicts."""
        scores, verdicts = self._objective.select(indices).scores_and_verdicts(points)
        undefined = scores.detach().isnan() | verdicts.isnan()
        if undefined.any():
            where = ", ".join(map(str, indices[undefined].tolist()))
            raise FloatingPointError(f"the objective gave a score that is no number for these images: {where}")
        claimed = verdicts > 0
        if self._confirm is not None and claimed.any():
            verdicts = verdicts.masked_scatter(claimed, self._confirm(points.detach()[claimed], indices[claimed]).to(verdicts))
        better = verdicts > self._verdicts[indices]
        self._points[indices[better]] = points.detach()[better]
        self._verdicts[indices[better]] = verdicts[better]
        self._num_evaluations += len(indices)
        return scores, verdicts


def _select(ball: Ball, indices: Tensor) -> Ball:
    """The ball of some of its images, in the order of ``indices``."""
    radius = ball.radius if len(ball.radius) == 1 else ball.radius[indices]
    if isinstance(ball, LinfBall):
        return LinfBall(images=ball.images[indices], radius=radius, lower=ball.lower[indices], upper=ball.upper[indices])
    region = None if ball.region is None else ball.region[indices]
    return L2Ball(images=ball.images[indices], radius=radius, region=region)
