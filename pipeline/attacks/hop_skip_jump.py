"""HopSkipJump: the nearest misclassified point that can be found by asking for decisions alone.

Chen, Jordan and Wainwright 2020, https://arxiv.org/abs/1904.02144. No logits, no gradients: what it finds cannot be hidden by a
masked gradient, a threshold or a saturated mask. It stands on the decision boundary, asks on which side of it random neighbors
lie, steps along the mean of those that are misclassified, and comes back to the boundary towards the image. Weak beside a
white-box search at the same number of passes: a distance well **below** a white-box one says that the white-box search was blind.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.attacks.measurement import Condition
from pipeline.attacks.measurements import DecisionBased
from pipeline.attacks.measuring import MeasuredBatch, Observation, observed_distances
from pipeline.attacks.minimum_norm import Nearest
from pipeline.attacks.norms import ball_of, length, wide
from pipeline.attacks.objectives import margin
from pipeline.attacks.pgd import RegionMasks
from pipeline.attacks.threat import Norm
from pipeline.randomness import derive_seeds, normal, uniform
from pipeline.shapes import Images, Seeds
from pipeline.system import attacked

Decision = Callable[[Images], Bool[Tensor, " batch"]]
"""Which of the images are misclassified, in the order of the batch; nothing else is asked."""

_FIRST_PROBES = 100
_HALVINGS = 12
_START_STREAM, _PROBE_STREAM = 0, 1


def hop_skip_jump(
    misclassified: Decision,
    images: Images,
    *,
    norm: Norm,
    seeds: Seeds,
    num_steps: int = 20,
    max_probes: int = 1000,
    num_starts: int = 100,
    region: RegionMasks | None = None,
) -> Nearest:
    """The nearest misclassified point for each image, by about ``num_starts + num_steps * (max_probes + 36)`` decisions at most.

    It begins at the first of ``num_starts`` images of uniform noise (in the region) that is misclassified: where none is, nothing
    is found. Step t asks for 100 * sqrt(t) decisions about neighbors, ``max_probes`` at most, as the authors do. The result of an
    image follows from its seed and not from its batch. Result as ``minimum_norm.fmn``. Deviation: neighbors lie at the distance
    over the square root of the number of values and not over the number itself, which float32 does not resolve.
    """
    wrong = misclassified(images)
    free = torch.ones_like(images) if region is None else (region > 0).to(images.dtype).expand_as(images)
    dimensions = math.sqrt(images[0].numel())
    point, found = _start(misclassified, images, free, seeds, num_starts)
    point = to_boundary(misclassified, images, point, norm)
    best, shortest = point, length(point - images, norm)
    for step in range(1, num_steps + 1):
        distance = length(point - images, norm)
        reach = length(point - images, "l2") / dimensions
        probes = min(int(_FIRST_PROBES * math.sqrt(step)), max_probes)
        direction = _direction(misclassified, point, free, reach, derive_seeds(seeds, _PROBE_STREAM, step), probes)
        direction = direction.sign() * free if norm == "linf" else direction
        point = _jump(misclassified, point, direction, distance / math.sqrt(step))
        point = to_boundary(misclassified, images, point, norm)
        nearer = length(point - images, norm) < shortest
        best = torch.where(wide(nearer), point, best)
        shortest = length(best - images, norm)
    chosen = torch.where(wide(wrong | ~found), images, best)
    distances = length(chosen.double() - images.double(), norm).masked_fill(~wrong & ~found, torch.inf)
    return Nearest(points=chosen, distances=distances)


def _start(misclassified: Decision, images: Tensor, free: Tensor, seeds: Tensor, num_starts: int) -> tuple[Tensor, Tensor]:
    point, found = images, torch.zeros_like(seeds, dtype=torch.bool)
    for number in range(num_starts):
        noise = uniform(derive_seeds(seeds, _START_STREAM, number), tuple(images.shape[1:]), dtype=images.dtype)
        candidate = torch.where(free > 0, noise, images)
        new = misclassified(candidate) & ~found
        point, found = torch.where(wide(new), candidate, point), found | new
        if found.all():
            break
    return point, found


def to_boundary(misclassified: Decision, images: Tensor, points: Tensor, norm: Norm) -> Tensor:
    """Bisection between the image and a misclassified point; it ends on the misclassified side."""
    low = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    high = torch.ones_like(low) if norm == "l2" else length(points - images, norm)
    best = points
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        candidate = _between(images, points, middle, norm)
        fooled = misclassified(candidate)
        best = torch.where(wide(fooled), candidate, best)
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    return best


def _between(images: Tensor, points: Tensor, share: Tensor, norm: Norm) -> Tensor:
    """Part of the way to the points: along the line, or as far as a cube or an L1 ball of that radius reaches."""
    match norm:
        case "l2":
            return torch.lerp(images, points, wide(share))
        case "linf":
            return images + (points - images).clamp(-wide(share), wide(share))
        case "l1":
            return ball_of(norm, images, share).project(points)


def _direction(misclassified: Decision, point: Tensor, free: Tensor, reach: Tensor, seeds: Tensor, probes: int) -> Tensor:
    """Where the boundary rises, by the side on which random neighbors lie: of length 1, or 0 where nothing was learned."""
    total, signed, wrong = torch.zeros_like(point), torch.zeros_like(point), torch.zeros_like(reach)
    for probe in range(probes):
        drawn = normal(derive_seeds(seeds, probe), tuple(point.shape[1:]), dtype=point.dtype) * free
        neighbor = (point + wide(reach) * _unit(drawn)).clamp(0, 1)
        offset = (neighbor - point) / wide(reach.clamp_min(1e-12))
        fooled = misclassified(neighbor)
        total, signed, wrong = total + offset, signed + offset * wide(fooled.to(point.dtype)), wrong + fooled
    share = wrong / probes
    # The authors subtract the mean of the answers, which lowers the variance; if all answers agree, that would leave nothing.
    centered = 2 * signed - total - total * wide(2 * share - 1)
    return torch.where(wide(share == 1), _unit(total), torch.where(wide(share == 0), -_unit(total), _unit(centered)))


def _jump(misclassified: Decision, point: Tensor, direction: Tensor, stride: Tensor) -> Tensor:
    """A step that is halved until it ends at a misclassified point; the point itself where none does."""
    waiting, moved = torch.ones_like(stride, dtype=torch.bool), point
    for _ in range(_HALVINGS * 2):
        candidate = (point + wide(stride) * direction).clamp(0, 1)
        good = misclassified(candidate) & waiting
        moved, waiting = torch.where(wide(good), candidate, moved), waiting & ~good
        if not waiting.any():
            break
        stride = stride / 2
    return moved


def observe_decisions(spec: DecisionBased, batch: MeasuredBatch, _condition: Condition) -> Observation:
    """The distance of each image, scored afresh."""

    def misclassified(images: Tensor) -> Tensor:
        return margin(batch.logits(images), batch.labels) > 0

    with attacked(batch.system), torch.no_grad():
        found = hop_skip_jump(
            misclassified,
            batch.images,
            norm=spec.norm,
            seeds=batch.seeds,
            num_steps=spec.num_steps,
            max_probes=spec.max_probes,
            region=batch.region(spec.within),
        )
    return observed_distances(batch, found.points, found.distances)


def _unit(values: Tensor) -> Tensor:
    return values / wide(length(values, "l2").clamp_min(torch.finfo(values.dtype).tiny))
