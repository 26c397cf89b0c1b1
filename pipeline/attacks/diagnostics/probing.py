"""What the diagnostics ask a system: at which points, for which score and gradient, and how far a short search gets."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pipeline.attacks.minimum_norm import Nearest
from pipeline.attacks.norms import Ball, ball_of
from pipeline.attacks.objectives import Objective, Score, margin, targeted_margin
from pipeline.attacks.pgd import PerImage, pgd_in
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import BestPoint, MarginObjective, Observer, verdict
from pipeline.attacks.two_stage import SystemObjective
from pipeline.randomness import derive_seeds
from pipeline.shapes import Masks
from pipeline.system import System, as_system, attacked, deep_copy

Images = Float[Tensor, "batch 3 height width"]
Places = Callable[[], Mapping[str, Images]]
"""What gives ``probe_points``: a system without numbers fails before anybody asks for them."""

NUM_STEPS = 40
NUM_TARGETS, TARGET_STEPS = 3, 20
STREAM = 0x53_41_4E
"""Keeps the draws apart from those of the attacks that are checked."""
_HALVINGS = 12
_SHORT, _BEYOND = 10, 1.5
CLEAN, SEARCHED = "clean", "on the way of a search"
_GOLDEN = (5**0.5 - 1) / 2
_FLOOR = 20  # of the scale of the logits
DIGITS = 1e-4
"""Of the largest of the two likeliest logits, or of their scale: float32 keeps seven digits, and a decision needs some of them."""


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

    def reached(self, images: Images, found: Nearest) -> Images:
        """The points that lie in the ball, else the images."""
        inside = (found.distances <= self.epsilon).view(-1, 1, 1, 1)
        return torch.where(inside, self.ball(images).project(found.points), images)

    def select(self, rows: Tensor) -> "Budget":
        """That of some images of the batch."""
        return replace(self, region=None if self.region is None else self.region[rows])


def probe_points(batch: AttackBatch, budget: Budget | None) -> Mapping[str, Images]:
    """Where a system is asked: the clean images, random points of their balls, the last points on the way to an image of another
    class that are classified right, and the doubtful ones on the way of a search. A cheat that is honest on clean images meets its
    match at one of the others: it has to act where a search goes. The clean ones come first."""
    points = {CLEAN: batch.images, "on the boundary": boundary_points(batch)}
    if budget is not None:
        points["in the ball"] = budget.ball(batch.images).random_points(derive_seeds(batch.seeds, STREAM))
        points[SEARCHED] = _most_doubtful(batch, budget)
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


def _most_doubtful(batch: AttackBatch, budget: Budget) -> Images:
    """On the line through the best point of a short search, and half as far again, the point whose margin is nearest to 0: that
    is the boundary, or where something keeps a search from it."""
    far = torch.lerp(batch.images, climb(objective(batch), batch, budget, num_steps=_SHORT).unchecked, _BEYOND).clamp(0, 1)
    low = torch.zeros(len(batch), 1, 1, 1, dtype=batch.images.dtype, device=batch.images.device)
    high = torch.ones_like(low)
    for _ in range(2 * _HALVINGS):
        one, other = (torch.lerp(high, low, part) for part in (_GOLDEN, 1 - _GOLDEN))
        first, second = (margin(logits_of(batch, torch.lerp(batch.images, far, at)), batch.labels).abs() for at in (one, other))
        nearer = (first < second).view(-1, 1, 1, 1)
        low, high = torch.where(nearer, low, one), torch.where(nearer, other, high)
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


@torch.no_grad()
def masks_of(batch: AttackBatch, points: Images) -> Masks:
    """The masks that it sees points in the place of the images through."""
    with attacked(batch.system):
        return batch.system.masks(points, batch.context)


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
    return slopes_of(climbed.system, climbed, points)


def slopes_of(system: System, values: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Gradients of the sum of what is computed of the points with a system under attack; zero where the graph is cut."""
    with attacked(system), torch.enable_grad():
        leaf = points.detach().requires_grad_()
        total = values(leaf).sum()
        found = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
    return torch.zeros_like(points) if found is None else found


def finite(values: Tensor) -> Tensor:
    """The values, and 0 where one is infinite or not a number."""
    return torch.where(values.isfinite(), values, 0)


class Connected:
    """An objective that no cut graph stops: where no gradient reaches the images it is zero, and the search stays where it is."""

    def __init__(self, climbed: Objective) -> None:
        self._climbed = climbed
        self.slope = self.points = torch.zeros(0)
        """The gradient that reached the images last, and these images."""

    def __call__(self, images: Images) -> Float[Tensor, " batch"]:
        if images.requires_grad:
            self.points = images.detach()
            images.register_hook(partial(setattr, self, "slope"))  # type: ignore[no-untyped-call]
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
    radii: Float[Tensor, " batch"] | None = None,
    observer: Observer | None = None,
) -> BestPoint:
    """The points with the largest margins of one start of projected gradient descent; ``radii`` take the place of epsilon."""
    best = BestPoint(batch.images, observer)
    step: PerImage = (budget.step or max(budget.epsilon / 4, 1e-6)) if radii is None else (radii / 4).clamp_min(1e-6)
    with attacked(batch.system):
        pgd_in(
            budget.norm,
            Connected(best.track(climbed)),
            batch.images,
            epsilon=budget.epsilon if radii is None else radii,
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


class _Types(TorchFunctionMode):
    """Notes the types of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_function__(
        self, operation: Callable[..., Any], _types: object, given: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        result = operation(*given, **(named or {}))
        self.seen |= {one.dtype for one in tree_leaves(result) if isinstance(one, Tensor)}
        return result


def half_precision(batch: AttackBatch) -> list[str]:
    """The floating-point types below float32 that the system computes in, however it is asked."""
    with _Types() as types:
        logits_of(batch)
    return sorted(str(one).removeprefix("torch.") for one in types.seen if one.is_floating_point and torch.finfo(one).bits < 32)


def fresh_copy(system: System) -> System:
    """A deep copy, where the system allows one."""
    with suppress(Exception):  # of somebody else's code: that it forbids copies is no cheat
        return deep_copy(system)
    return system


def in_float64(batch: AttackBatch) -> AttackBatch:
    """The same of a copy in double precision. Raises what the system raises that cannot be copied so."""
    exact, context = deep_copy(batch.system), batch.context
    assert isinstance(exact, nn.Module)
    if context is not None:
        context = type(context)(*(one.double() if one is not None and one.is_floating_point() else one for one in context))
    return replace(batch, system=as_system(exact.double()), images=batch.images.double(), context=context)
