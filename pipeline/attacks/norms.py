"""Where an attack may search: the points of a norm ball around each image that lie in [0,1] and differ from it only in a region.

A ball knows three things that every gradient attack needs: a random point of it, the direction of steepest ascent in its norm, and
the way back into it. All are per image: no image's result depends on the others of its batch.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline import randomness
from pipeline.attacks.threat import Norm as Norm

# The L2 projection aims this much (relative) below the radius, so that rounding leaves the result inside.
_L2_SHRINK = 2.0**-20


def project_linf(
    deltas: Float[Tensor, "batch channels height width"], epsilon: float | Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """The nearest perturbation of maximum norm at most ``epsilon`` (one number, or one per image)."""
    radius = _radii(epsilon, deltas)
    return deltas.clamp(-radius, radius)


def project_l2(
    deltas: Float[Tensor, "batch channels height width"], epsilon: float | Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """The nearest perturbation of Euclidean norm at most ``epsilon`` (one number, or one per image).

    Interior points stay as they are, to the bit; what lay outside ends at most a millionth inside the sphere, never outside it.
    """
    radius = _radii(epsilon, deltas)
    norms = _l2_norms(deltas)
    return torch.where(norms > radius, deltas * _l2_factors(norms, radius), deltas)


@dataclass(frozen=True, kw_only=True)
class LinfBall:
    """All points between two bounds. Built by ``linf_ball``."""

    images: Float[Tensor, "batch 3 height width"]
    radius: Float[Tensor, "#batch 1 1 1"]
    lower: Float[Tensor, "batch 3 height width"]
    upper: Float[Tensor, "batch 3 height width"]

    def project(self, points: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """The nearest point of the ball; points of the ball stay as they are, to the bit."""
        return points.clamp(self.lower, self.upper)

    def ascent(self, gradients: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """The sign of the gradient; 0 where there is none. Outside the region the bounds leave no room for it."""
        return gradients.sign()

    def random_points(self, seeds: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 3 height width"]:
        """Uniform in the cube around the image, then clamped to [0,1] and the region; the same for the same seed."""
        drawn = randomness.uniform(seeds, tuple(self.images.shape[1:]), dtype=self.images.dtype).mul_(2).sub_(1)
        return self.project(torch.addcmul(self.images, _like(drawn, self.images), self.radius))


@dataclass(frozen=True, kw_only=True)
class L2Ball:
    """All points of [0,1] within a Euclidean distance. Built by ``l2_ball``."""

    images: Float[Tensor, "batch 3 height width"]
    radius: Float[Tensor, "#batch 1 1 1"]
    region: Bool[Tensor, "batch 1 height width"] | None

    def project(self, points: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Into the region, then to the ball, then to [0,1]: always a point of all three, though not always the nearest one.

        Points of the ball stay as they are, to the bit.
        """
        if self.region is not None:
            points = torch.where(self.region, points, self.images)
        deltas = points - self.images
        norms = _l2_norms(deltas)
        shrunk = _add_inwards(self.images, deltas * _l2_factors(norms, self.radius))
        # An image lies in [0,1], so clamping brings every pixel nearer to it and never leaves the ball.
        return torch.where(norms > self.radius, shrunk, points).clamp_(0, 1)

    def ascent(self, gradients: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """The gradient inside the region, at length 1; 0 where it is 0."""
        if self.region is not None:
            gradients = gradients * self.region
        # Scaled by its largest entry first: the squares of a vanishing gradient (1e-30) would round to 0.
        tiny = torch.finfo(gradients.dtype).tiny
        scaled = gradients / gradients.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(tiny)
        return scaled / _l2_norms(scaled).clamp_min(tiny)

    def random_points(self, seeds: Int64[Tensor, " batch"]) -> Float[Tensor, "batch 3 height width"]:
        """Uniform in the ball, restricted to the region, then clamped to [0,1]; the same for the same seed."""
        shape = tuple(self.images.shape[1:])
        drawn = randomness.normal(randomness.derive_seeds(seeds, 0), shape, dtype=self.images.dtype)
        directions = self.ascent(_like(drawn, self.images))
        free = math.prod(shape) if self.region is None else 3 * self.region.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)
        share = randomness.uniform(randomness.derive_seeds(seeds, 1), (1, 1, 1), dtype=self.images.dtype) ** (1 / free)
        return self.project(torch.addcmul(self.images, directions, share * self.radius))


Ball = LinfBall | L2Ball


def linf_ball(
    images: Float[Tensor, "batch 3 height width"],
    epsilon: float | Float[Tensor, " batch"],
    region: Float[Tensor, "batch 1 height width"] | Bool[Tensor, "batch 1 height width"] | None = None,
) -> LinfBall:
    """The maximum-norm ball: |point - image| <= epsilon, exactly, also when both are stored in float32.

    Raises ValueError for images outside [0,1] and a negative epsilon.
    """
    _check(images, epsilon)
    radius = _radii(epsilon, images)
    lower, upper = _add_inwards(images, -radius).clamp_(0, 1), _add_inwards(images, radius).clamp_(0, 1)
    if region is not None:
        inside = region > 0
        lower, upper = torch.where(inside, lower, images), torch.where(inside, upper, images)
    return LinfBall(images=images, radius=radius, lower=lower, upper=upper)


def l2_ball(
    images: Float[Tensor, "batch 3 height width"],
    epsilon: float | Float[Tensor, " batch"],
    region: Float[Tensor, "batch 1 height width"] | Bool[Tensor, "batch 1 height width"] | None = None,
) -> L2Ball:
    """The Euclidean ball: |point - image| <= epsilon, also when both are stored in float32.

    Raises ValueError for images outside [0,1] and a negative epsilon.
    """
    _check(images, epsilon)
    return L2Ball(images=images, radius=_radii(epsilon, images), region=None if region is None else region > 0)


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


def _l2_factors(norms: Tensor, radius: Tensor) -> Tensor:
    return radius / norms.clamp_min(torch.finfo(norms.dtype).tiny) * (1 - _L2_SHRINK)


def _like(values: Tensor, images: Tensor) -> Tensor:
    """In the memory layout of the images."""
    return values if images.is_contiguous() else values.contiguous(memory_format=torch.channels_last)
