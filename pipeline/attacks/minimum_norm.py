"""Minimum-norm attacks: not "is there an adversarial image in this ball?" but "how far away is the nearest one?".

One run gives a distance for every image, hence robust accuracy at every epsilon: the share of images whose distance is larger. A
distance that an attack found is an upper estimate of the true one, so the curve is an upper estimate of robust accuracy, like any
attack's. An image that was never fooled has an infinite distance, one that is misclassified as it is has distance 0.

Both climb a score that is above 0 exactly where the image is misclassified, such as the margin. Steps are Euclidean in both norms,
as the authors of the first have it.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.attacks.measurement import Condition
from pipeline.attacks.measurements import MinimumNorm
from pipeline.attacks.measuring import MeasuredBatch, Observation, observed_distances
from pipeline.attacks.norms import ball_of, dual_length, length, wide
from pipeline.attacks.objectives import ModelObjective, Objective, Score, margin, scores_and_gradients, scores_without_gradients
from pipeline.attacks.pgd import RegionMasks
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import refuse_nan
from pipeline.randomness import derive_seeds, normal
from pipeline.shapes import Images, Seeds
from pipeline.system import System, attacked

_ROUNDING = 1e-5
"""Of the larger of the two likeliest logits."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The nearest misclassified point that was visited for each image."""

    points: Images
    """In [0,1]; the image itself where it is misclassified as it is, and where none was found."""
    distances: Float64[Tensor, " batch"]
    """From the image, exact to double precision; 0 where it is misclassified as it is, infinite where no point was found."""


def fmn(
    objective: Objective,
    images: Images,
    *,
    norm: Norm,
    num_steps: int = 100,
    step_size: float = 1.0,
    region: RegionMasks | None = None,
) -> Nearest:
    """Fast minimum norm: steps along the gradient, in a ball that shrinks where the point is misclassified and else grows.

    Pintor et al. 2021, https://arxiv.org/abs/2102.12827. Deterministic: it starts at the image, and its first radius is the
    distance at which the objective, were it linear, would reach 0, and 5 % more. ``step_size`` is the Euclidean length of the first
    step, which decays to a hundredth of it along a cosine; the radius changes by 5 % first and 0.1 % last. Two deviations: the
    authors take the linear distance itself, at which rounding decides whether the boundary is ever crossed; and the last point is
    scored too. Raises ValueError for images outside [0,1], FloatingPointError for a NaN score or gradient.
    """
    far = _farthest(images, norm)
    radius, closest = torch.full_like(far, torch.inf), _Closest(images, norm)
    point = images
    for step in range(num_steps):
        scores, gradients = scores_and_gradients(objective, point)
        gradients = gradients if region is None else gradients * (region > 0)
        fooled = closest.record(point, scores)
        share = (1 + math.cos(math.pi * step / num_steps)) / 2
        change = 0.001 + (0.05 - 0.001) * share
        linear = length(point - images, norm) + scores.abs() / dual_length(gradients, norm).clamp_min(1e-12)
        grown = (1 + change) * torch.where(closest.found, radius, linear)
        radius = torch.where(fooled, torch.minimum(radius * (1 - change), closest.lengths), grown).minimum(far)
        stride = step_size * (0.01 + 0.99 * share)
        point = ball_of(norm, images, radius, region).project(point + stride * _direction(gradients))
    closest.record(point, scores_without_gradients(objective, point))
    return closest.nearest()


def ddn(
    objective: Objective,
    images: Images,
    *,
    seeds: Seeds,
    num_steps: int = 100,
    first_radius: float = 1.0,
    region: RegionMasks | None = None,
) -> Nearest:
    """Decoupled direction and norm, Euclidean: every point lies on the sphere whose radius shrinks or grows by 5 %.

    Rony et al. 2019, https://arxiv.org/abs/1811.09600. Where the gradient is 0 the step is a random one, the same for the same
    seed. Deviations: the objective is climbed whatever it is (the authors climb cross-entropy, whose gradient vanishes in float32
    where a classifier is sure), points are not rounded to 256 levels, and the last one is scored too. Errors are those of ``fmn``.
    """
    far, radius, closest = _farthest(images, "l2"), images.new_full((len(images),), first_radius), _Closest(images, "l2")
    point = images
    for step in range(num_steps):
        scores, gradients = scores_and_gradients(objective, point)
        flat = (gradients == 0).flatten(1).all(dim=1)
        drawn = normal(derive_seeds(seeds, step), tuple(images.shape[1:]), dtype=images.dtype)
        gradients = torch.where(wide(flat), drawn, gradients)
        gradients = gradients if region is None else gradients * (region > 0)
        fooled = closest.record(point, scores)
        stride = 0.01 + 0.99 * (1 + math.cos(math.pi * step / num_steps)) / 2
        moved = point - images + stride * _direction(gradients)
        radius = torch.where(fooled, 0.95 * radius, 1.05 * radius).minimum(far)
        on_sphere = images + moved * wide(radius / length(moved, "l2").clamp_min(1e-12))
        point = ball_of("l2", images, radius, region).project(on_sphere)
    closest.record(point, scores_without_gradients(objective, point))
    return closest.nearest()


def observe_nearest(spec: MinimumNorm, batch: MeasuredBatch, condition: Condition) -> Observation:
    """The distance of each image, scored afresh.

    A faster copy is searched where there is one, for points that are misclassified by more than its rounding. Where the system says
    otherwise of such a point, the system itself is searched, so a copy costs an image nothing but time.
    """
    if batch.copy is None or batch.copy is batch.system:
        found = _nearest(spec, batch, batch.system, margin)
        return observed_distances(batch, found.points, found.distances)
    found = _nearest(spec, batch, batch.copy, _sure_margin)
    seen = observed_distances(batch, found.points, found.distances)
    refuted = seen.correct & found.distances.isfinite()
    if not bool(refuted.any()):
        return seen
    again = vars(observe_nearest(spec, replace(batch, copy=None), condition))
    kept = {name: torch.where(refuted.view(-1, *[1] * (value.ndim - 1)), again[name], value) for name, value in vars(seen).items()}
    return Observation(**kept)


def _nearest(spec: MinimumNorm, batch: MeasuredBatch, system: System, score: Score) -> Nearest:
    objective = ModelObjective(model=system, score=score, targets=(batch.labels,), context=batch.context)
    region = batch.region(spec.within)
    with attacked(system):
        if spec.search == "ddn":
            return ddn(objective, batch.images, seeds=batch.seeds, num_steps=spec.num_steps, region=region)
        return fmn(objective, batch.images, norm=spec.norm, num_steps=spec.num_steps, region=region)


def _sure_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The margin, less what the rounding of a copy may do to it."""
    likeliest = logits.detach().topk(2, dim=1).values  # a class that is ruled out by a constant has no part in it
    return margin(logits, labels) - _ROUNDING * likeliest.abs().amax(dim=1)


class _Closest:
    """Per image the nearest misclassified point so far."""

    def __init__(self, images: Tensor, norm: Norm) -> None:
        self._images, self._norm = images.detach(), norm
        self._points = self._images
        self._distances = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)

    def record(self, points: Tensor, scores: Tensor) -> Tensor:
        """Take note of a point of every image; which of them are misclassified. Raises FloatingPointError for a NaN score."""
        refuse_nan(scores.isnan())
        fooled = scores > 0
        distances = length(points.double() - self._images.double(), self._norm)
        nearer = fooled & (distances < self._distances)
        self._points = torch.where(wide(nearer), points, self._points)
        self._distances = torch.where(nearer, distances, self._distances)
        return fooled

    @property
    def found(self) -> Tensor:
        return self._distances.isfinite()

    @property
    def lengths(self) -> Tensor:
        return self._distances.to(self._images.dtype)

    def nearest(self) -> Nearest:
        return Nearest(points=self._points, distances=self._distances)


def _farthest(images: Tensor, norm: Norm) -> Tensor:
    """The distance of the farthest image of [0,1]: no radius needs to be larger."""
    return length(torch.maximum(images, 1 - images), norm)


def _direction(gradients: Tensor) -> Tensor:
    """At Euclidean length 1; 0 where it is 0."""
    tiny = torch.finfo(gradients.dtype).tiny
    scaled = gradients / gradients.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(tiny)
    return scaled / wide(length(scaled, "l2")).clamp_min(tiny)
