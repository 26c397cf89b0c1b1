"""Where an attack may search: the points of a norm ball around each image that lie in [0,1] and differ from it only in a region.

A ball knows three things that every gradient attack needs: a random point of it, the direction of steepest ascent in its norm, and
the way back into it. All are per image: no image's result depends on the others of its batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline import randomness
from pipeline.attacks.threat import Norm as Norm
from pipeline.shapes import Images, Masks, Regions, Scores, Seeds

# The L2 and L1 projections aim this much (relative) below the radius, so that rounding leaves the result inside.
_SHRINK = 2.0**-20
_SPARSE_SHARE = 0.01
"""Share of the values that a step of fixed length in the L1 ball changes, as Tramer and Boneh 2019 have it."""
_ORDERS: Mapping[Norm, float] = {"linf": math.inf, "l2": 2, "l1": 1}
_DUALS: Mapping[Norm, float] = {"linf": 1, "l2": 2, "l1": math.inf}


def length(deltas: Float[Tensor, "batch ..."], norm: Norm) -> Scores:
    """The norm of each perturbation."""
    lengths: Tensor = torch.linalg.vector_norm(deltas.flatten(1), ord=_ORDERS[norm], dim=1)
    return lengths


def dual_length(gradients: Float[Tensor, "batch ..."], norm: Norm) -> Scores:
    """How fast a linear function with that gradient rises along the best direction of length 1."""
    lengths: Tensor = torch.linalg.vector_norm(gradients.flatten(1), ord=_DUALS[norm], dim=1)
    return lengths


def wide(values: Tensor) -> Tensor:
    """One value an image, to be set against its pixels."""
    return values.view(-1, 1, 1, 1)


def widest(norm: Norm, num_values: int) -> float:
    """The norm of a change of every value by 1: no perturbation of an image in [0,1] is larger."""
    return float(num_values ** (1 / _ORDERS[norm]))


def unit(gradients: Images) -> Images:
    """Each gradient at Euclidean length 1; 0 where it is 0."""
    # Scaled by its largest entry first: the squares of a vanishing gradient (1e-30) would round to 0.
    tiny = torch.finfo(gradients.dtype).tiny
    scaled = gradients / gradients.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(tiny)
    return scaled / _l2_norms(scaled).clamp_min(tiny)


@dataclass(frozen=True, kw_only=True)
class LinfBall:
    """All points between two bounds. Built by ``ball_of``."""

    images: Images
    radius: Float[Tensor, "#batch 1 1 1"]
    lower: Images
    upper: Images

    def project(self, points: Images) -> Images:
        """The nearest point of the ball; points of the ball stay as they are, to the bit."""
        return points.clamp(self.lower, self.upper)

    def ascent(self, gradients: Images) -> Images:
        """The sign of the gradient; 0 where there is none. Outside the region the bounds leave no room for it."""
        return gradients.sign()

    def move(self, points: Images, gradients: Images, step: Float[Tensor, "#batch 1 1 1"]) -> Images:
        """A step along steepest ascent, which may leave the ball."""
        return torch.addcmul(points, self.ascent(gradients), step)

    def random_points(self, seeds: Seeds) -> Images:
        """Uniform in the cube around the image, then clamped to [0,1] and the region; the same for the same seed."""
        drawn = randomness.uniform(seeds, tuple(self.images.shape[1:]), dtype=self.images.dtype).mul_(2).sub_(1)
        return self.project(torch.addcmul(self.images, _like(drawn, self.images), self.radius))


@dataclass(frozen=True, kw_only=True)
class L2Ball:
    """All points of [0,1] within a Euclidean distance. Built by ``ball_of``."""

    images: Images
    radius: Float[Tensor, "#batch 1 1 1"]
    region: Regions | None

    def project(self, points: Images) -> Images:
        """Into the region, then to the ball, then to [0,1]: always a point of all three, though not always the nearest one.

        Points of the ball stay as they are, to the bit.
        """
        if self.region is not None:
            points = torch.where(self.region, points, self.images)
        deltas = points - self.images
        norms = _l2_norms(deltas)
        factors = self.radius / norms.clamp_min(torch.finfo(norms.dtype).tiny) * (1 - _SHRINK)
        shrunk = _add_inwards(self.images, deltas * factors)
        # An image lies in [0,1], so clamping brings every pixel nearer to it and never leaves the ball.
        return torch.where(norms > self.radius, shrunk, points).clamp_(0, 1)

    def ascent(self, gradients: Images) -> Images:
        """The gradient inside the region, at length 1; 0 where it is 0."""
        return unit(gradients if self.region is None else gradients * self.region)

    def move(self, points: Images, gradients: Images, step: Float[Tensor, "#batch 1 1 1"]) -> Images:
        """A step along steepest ascent, which may leave the ball."""
        return torch.addcmul(points, self.ascent(gradients), step)

    def random_points(self, seeds: Seeds) -> Images:
        """Uniform in the ball, restricted to the region, then clamped to [0,1]; the same for the same seed."""
        shape = tuple(self.images.shape[1:])
        drawn = randomness.normal(randomness.derive_seeds(seeds, 0), shape, dtype=self.images.dtype)
        directions = self.ascent(_like(drawn, self.images))
        free = math.prod(shape) if self.region is None else 3 * self.region.sum(dim=(1, 2, 3), keepdim=True)
        share = randomness.uniform(randomness.derive_seeds(seeds, 1), (1, 1, 1), dtype=self.images.dtype) ** (1 / free)
        return self.project(torch.addcmul(self.images, directions, share * self.radius))


@dataclass(frozen=True, kw_only=True)
class L1Ball:
    """All points of [0,1] within a sum of absolute changes. Built by ``ball_of``.

    Croce and Hein 2021, https://arxiv.org/abs/2103.01208: the ball and the box together, because for this norm almost nothing of
    a ball in many dimensions lies in the box.
    """

    images: Images
    radius: Float[Tensor, "#batch 1 1 1"]
    region: Regions | None

    def project(self, points: Images) -> Images:
        """The nearest point (Euclidean) of ball, [0,1] and region together; points of all three stay as they are, to the bit."""
        if self.region is not None:
            points = torch.where(self.region, points, self.images)
        # In double precision: the sum over all values decides, and a stored point must not be outside by its rounding.
        deltas = points.double() - self.images.double()
        too_far = deltas.abs().sum(dim=(1, 2, 3), keepdim=True) > self.radius
        outside = too_far | ((points < 0) | (points > 1)).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        radius = self.radius.double() * (1 - _SHRINK)
        shrunk = _shrunk(deltas, self.images, radius)
        length = shrunk.abs().sum(dim=(1, 2, 3), keepdim=True)
        # What a radius of 1e-12 leaves of a value near 1 has few digits, and may be too much.
        shrunk = torch.where(length > self.radius, shrunk * (radius / length), shrunk)
        nearest = _like(shrunk.to(points.dtype), self.images)
        return torch.where(outside, _add_inwards(self.images, nearest).clamp_(0, 1), points)

    def move(self, points: Images, gradients: Images, step: Float[Tensor, "#batch 1 1 1"]) -> Images:
        """A step along steepest ascent among sparse ones, which may leave the ball but not [0,1].

        The largest entries of the gradient come first; each value moves by a hundredth part of the values' share of the step at
        most (Tramer and Boneh 2019, https://arxiv.org/abs/1904.13000), and as far as [0,1] has room; what is left goes to the next.
        """
        room = torch.where(gradients > 0, 1 - points, points) * (gradients != 0)
        room = (room if self.region is None else room * self.region).flatten(1)
        length = step.flatten(1)
        order = gradients.abs().flatten(1).argsort(dim=1, descending=True, stable=True)
        room = room.gather(1, order).minimum(length / max(1, round(_SPARSE_SHARE * room.shape[1])))
        taken = (length - (room.cumsum(dim=1) - room)).clamp_min(0).minimum(room)
        moves = torch.zeros_like(taken).scatter(1, order, taken).view_as(points) * gradients.sign()
        return points + _like(moves, points)

    def random_points(self, seeds: Seeds) -> Images:
        """Noise of a normal distribution with variance 1, projected, as the authors begin; the same for the same seed."""
        drawn = randomness.normal(randomness.derive_seeds(seeds, 0), tuple(self.images.shape[1:]), dtype=self.images.dtype)
        return self.project(self.images + _like(drawn, self.images))


Ball = LinfBall | L2Ball | L1Ball


def sparse_signs(
    gradients: Float[Tensor, "batch channels height width"], counts: Int64[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """The signs of the so many largest entries of each gradient (more where entries are equal), at L1 length 1."""
    sizes = gradients.abs().flatten(1)
    place = (sizes.shape[1] - counts).clamp(0, sizes.shape[1] - 1)
    least = sizes.sort(dim=1).values.gather(1, place[:, None]).view(-1, 1, 1, 1)
    signs = torch.where(gradients.abs() >= least, gradients.sign(), 0)
    return signs / signs.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)


def ball_of(norm: Norm, images: Images, epsilon: float | Scores, region: Masks | Regions | None = None) -> Ball:
    """The points at most ``epsilon`` away in that norm, exactly, also when images and points are stored in float32.

    Raises ValueError for images outside [0,1] and a negative epsilon.
    """
    _check(images, epsilon)
    return _BALLS[norm](images=images, radius=_radii(epsilon, images), region=None if region is None else region > 0)


def _linf_ball(images: Tensor, radius: Tensor, region: Tensor | None) -> LinfBall:
    lower, upper = _add_inwards(images, -radius).clamp_(0, 1), _add_inwards(images, radius).clamp_(0, 1)
    if region is not None:
        lower, upper = torch.where(region, lower, images), torch.where(region, upper, images)
    return LinfBall(images=images, radius=radius, lower=lower, upper=upper)


_BALLS: Mapping[Norm, Callable[..., Ball]] = {"linf": _linf_ball, "l2": L2Ball, "l1": L1Ball}


def _shrunk(deltas: Tensor, images: Tensor, radius: Tensor) -> Tensor:
    """The nearest perturbation to a point of [0,1] whose absolute values sum up to at most ``radius`` (B,1,1,1 or 1,1,1,1).

    Each value is lowered by the same amount (to 0 at most) and then cut off at the box: the amount is found exactly, where the sum,
    piecewise linear in it, meets the radius.
    """
    sizes = deltas.abs().flatten(1)
    room = torch.where(deltas > 0, 1 - images.double(), images.double()).flatten(1)
    # Lowered by t, the sum is that of (size - t)+ minus that of (size - room - t)+ over the values.
    kinks = torch.cat([sizes, sizes - room], dim=1)
    signs = torch.cat([torch.ones_like(sizes), -torch.ones_like(sizes)], dim=1)
    kinks, order = kinks.sort(dim=1, descending=True)
    signs = signs.gather(1, order)
    slopes, moments = signs.cumsum(dim=1), (signs * kinks).cumsum(dim=1)
    radius = radius.flatten(1)
    reached = moments - slopes * kinks > radius  # the sum where it is lowered by exactly this kink
    first = (~reached).sum(dim=1, keepdim=True).clamp(1, kinks.shape[1]) - 1
    amount = ((moments.gather(1, first) - radius) / slopes.gather(1, first).clamp_min(1)).clamp_min(0)
    lowered = (sizes - amount).clamp_min(0).minimum(room)
    return torch.copysign(lowered, deltas.flatten(1)).view_as(deltas)


def _check(images: Tensor, epsilon: float | Tensor) -> None:
    low, high = torch.aminmax(images)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"attacks need images in [0,1], these are in [{low.item():.3g}, {high.item():.3g}]")
    if not bool((torch.as_tensor(epsilon) >= 0).all()):
        raise ValueError("epsilon is negative")


def _radii(epsilon: float | Tensor, like: Tensor) -> Tensor:
    """Epsilon as (B,1,1,1) or (1,1,1,1), rounded down to the images' type: 8/255 is no float32, and the next one may be larger."""
    exact = torch.as_tensor(epsilon, dtype=None if isinstance(epsilon, Tensor) else torch.float64)
    rounded = exact.to(like.dtype)
    rounded = torch.where(rounded.to(exact.dtype) > exact, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)
    return rounded.to(like.device).view(-1, 1, 1, 1)


def _add_inwards(images: Tensor, deltas: Tensor) -> Tensor:
    """The sum, where it was rounded away from the image the next number towards it: a stored point keeps its distance."""
    sums = images + deltas
    # The rounding error itself, exactly (Knuth's two-sum): the plain difference of sum and image would be rounded once more.
    added = sums - images
    lost = (images - (sums - added)) + (deltas - added)
    return torch.where(lost.sign() * deltas.sign() < 0, torch.nextafter(sums, images), sums)


def _l2_norms(deltas: Tensor) -> Tensor:
    # A sum and not vector_norm: torch adds in a cascade there, which keeps the digits that the projection relies on.
    norms: Tensor = deltas.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return norms


def _like(values: Tensor, images: Tensor) -> Tensor:
    """In the memory layout of the images."""
    return values if images.is_contiguous() else values.contiguous(memory_format=torch.channels_last)
