"""What the diagnostics ask a system: at which points, for which score and gradient, and how far a short search gets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.attacks.norms import Ball, ball_of
from pipeline.attacks.objectives import Objective, Score, margin, targeted_margin
from pipeline.attacks.pgd import pgd_in
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import BestPoint, MarginObjective, verdict
from pipeline.attacks.two_stage import SystemObjective
from pipeline.randomness import derive_seeds
from pipeline.system import attacked

Images = Float[Tensor, "batch 3 height width"]

NUM_STEPS = 40
NUM_TARGETS, TARGET_STEPS = 3, 20
STREAM = 0x53_41_4E
"""Keeps the draws apart from those of the attacks that are checked."""
_HALVINGS = 12
_FLOOR = 20  # of the scale of the logits


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a short search may change."""

    norm: Norm
    epsilon: float
    region: Bool[Tensor, "batch 1 height width"] | None = None
    """Of the batch; None is everywhere."""
    step: float | None = None
    """Of descent; None is a quarter of epsilon: across the ball in 8 steps, so that later ones show whether it has levelled off."""
    about: str = ""

    def __str__(self) -> str:
        """``epsilon 0.03137``, or what it is in place of an epsilon."""
        return self.about or f"epsilon {self.epsilon:.4g}"

    def ball(self, images: Images) -> Ball:
        """Around the images of the batch."""
        return ball_of(self.norm, images, self.epsilon, self.region)

    def select(self, rows: Tensor) -> "Budget":
        """That of some images of the batch."""
        return replace(self, region=None if self.region is None else self.region[rows])


def probe_points(batch: AttackBatch, budget: Budget | None) -> Mapping[str, Images]:
    """Where a system is asked: the clean images, random points of their balls, and the last points on the way to an image of
    another class that are classified right. A cheat that is honest on clean images meets its match at one of the others."""
    points = {"clean": batch.images, "on the boundary": boundary_points(batch)}
    if budget is not None:
        points["in the ball"] = budget.ball(batch.images).random_points(derive_seeds(batch.seeds, STREAM))
    return points


def boundary_points(batch: AttackBatch) -> Images:
    """On the line to the next image of another class, the last point that bisection finds classified right."""
    far = of_another_class(batch)
    low = torch.zeros(len(batch), 1, 1, 1, dtype=batch.images.dtype, device=batch.images.device)
    high = torch.ones_like(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        wrong = misclassified(batch, torch.lerp(batch.images, far, middle)).view(-1, 1, 1, 1)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    return torch.lerp(batch.images, far, low)


def of_another_class(batch: AttackBatch) -> Images:
    """For each image the next one in the batch that has another label, else the image itself."""
    return batch.images[next_of_another_class(batch)]


def next_of_another_class(batch: AttackBatch) -> Tensor:
    """For each image the position of the next one in the batch that has another label, else its own."""
    order = torch.arange(len(batch), device=batch.labels.device)
    other = batch.labels[:, None] != batch.labels[None, :]
    distance = (order[None, :] - order[:, None]) % len(order)
    return torch.where(other, distance, len(order) + 1).fill_diagonal_(len(order)).argmin(dim=1)


def logits_of(batch: AttackBatch, points: Images | None = None) -> Float[Tensor, "batch classes"]:
    """What the system says of the images, or of points in their place, as it is attacked and without gradients."""
    with attacked(batch.system), torch.no_grad():
        logits: Tensor = batch.system(batch.images if points is None else points, batch.context)
    return logits


def scale_of(batch: AttackBatch) -> float:
    """The scale of the logits: the median over the clean images of the gap between the two likeliest classes.

    What is small is small relative to it, so that a system whose logits are multiplied by anything gets the same verdicts. Classes
    that are ruled out (by a constant of -1e9, by minus infinity) have no part in it.
    """
    likeliest = logits_of(batch).double().topk(2, dim=1).values
    return float((likeliest[:, 0] - likeliest[:, 1]).median().clamp_min(torch.finfo(torch.float32).tiny))


def floored(logits: Float[Tensor, "batch classes"], scale: float) -> Float[Tensor, "batch classes"]:
    """The logits, those far below the likeliest raised to one floor: how far below decides nothing."""
    return torch.maximum(logits, logits.amax(dim=1, keepdim=True) - _FLOOR * scale)


def objective(batch: AttackBatch, *, score: Score = margin, path: GradientPath = GradientPath.BOTH) -> SystemObjective:
    """What a search on the batch climbs."""
    return SystemObjective(system=batch.system, labels=batch.labels, context=batch.context, class_score=score, path=path)


def gradients(climbed: SystemObjective, points: Images) -> Images:
    """Gradients of the score; zero where the graph is cut."""
    with attacked(climbed.system), torch.enable_grad():
        leaf = points.detach().requires_grad_()
        scores = climbed(leaf)
        found = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    return torch.zeros_like(points) if found is None else found


class Connected:
    """An objective that no cut graph stops: where no gradient reaches the images it is zero, and the search stays where it is."""

    def __init__(self, climbed: Objective) -> None:
        self._climbed = climbed

    def __call__(self, images: Images) -> Float[Tensor, " batch"]:
        return self._climbed(images) + 0 * images.sum(dim=(1, 2, 3))

    def select(self, indices: Tensor) -> Objective:
        return self._climbed.select(indices)


def climb(
    climbed: MarginObjective,
    batch: AttackBatch,
    budget: Budget,
    *,
    num_steps: int = NUM_STEPS,
    start: Images | None = None,
) -> BestPoint:
    """The points with the largest margins of one start of projected gradient descent."""
    best = BestPoint(batch.images)
    step = max(budget.epsilon / 4, 1e-6) if budget.step is None else budget.step
    with attacked(batch.system):
        pgd_in(
            budget.norm,
            Connected(best.track(climbed)),
            batch.images,
            epsilon=budget.epsilon,
            step_size=step,
            num_steps=num_steps,
            start=start,
            region=budget.region,
            seeds=derive_seeds(batch.seeds, STREAM),
        )
    return best


def climb_to_targets(batch: AttackBatch, budget: Budget) -> Images:
    """Of descents to the likeliest wrong classes, one after the other, the points with the largest margins."""
    logits = logits_of(batch)
    wrong = logits.scatter(1, batch.labels[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    best = BestPoint(batch.images)
    for rank in range(min(NUM_TARGETS, logits.shape[1] - 1)):
        climbed = replace(objective(batch), class_score=targeted_margin, target_labels=wrong[:, rank])
        best.merge(climb(climbed, batch, budget, num_steps=TARGET_STEPS))
    return best.points


def misclassified(batch: AttackBatch, points: Images) -> Bool[Tensor, " batch"]:
    """What the system says of the points, scored afresh."""
    return verdict(batch.system, points, batch.labels, batch.context).misclassified
