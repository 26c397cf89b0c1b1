"""Attacks that know the system has two stages: objectives that reach the class logits, the mask logits, or one by way of the other.

Everything an adaptive attacker may want is one objective with a few switches, climbed by the same searches as any other:
which score of the class logits, through which gradient path and gate, and how much the mask is to become which target. The idea of
driving the mask first and the class from there is the two-phase guided attack of Sitawarin et al. 2023 on part-based models
(https://arxiv.org/abs/2209.09117); our second phase begins at the end of the first, which their published code does not do.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from classifier.losses import cross_entropy
from pipeline.attacks.norms import unit
from pipeline.attacks.objectives import Score, margin
from pipeline.attacks.pgd import PerImage, RegionMasks, pgd_in
from pipeline.attacks.specs import GradientPath, MaskGoal
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import BestPoint, MarginObjective, Observer
from pipeline.masks.context import MaskContext
from pipeline.masks.gates import soft_gate
from pipeline.shapes import Images, Indices, Labels, Logits, Masks, Scores, Seeds
from pipeline.system import StagedSystem, System, masks_and_logits, with_attackable_mask


class GuideMasks(NamedTuple):
    """A fixed pool of masks that ``steal`` chooses from, such as those of the validation split."""

    masks: Float[Tensor, "pool 1 height width"]
    labels: Int64[Tensor, " pool"]


class _BalancedPaths(torch.autograd.Function):
    """The identity, twice; backwards each copy's gradient is scaled to length 1 per image, then they are added."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        del ctx
        return images.clone(), images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        del ctx
        pixel_gradients, mask_gradients = gradients
        return unit(pixel_gradients) + unit(mask_gradients)


def mask_likeness(mask_logits: Masks, target_masks: Masks) -> Scores:
    """Minus the binary cross-entropy to the target, averaged over the image's pixels: at most 0 for targets of 0 and 1.

    Its gradient at a mask logit is (target - probability) / pixels: largest where the mask is surely wrong, gone where it is as
    wanted. So no pixel is too sure to be attacked, and none that is won already draws the search away from the others.
    """
    losses = functional.binary_cross_entropy_with_logits(mask_logits, target_masks, reduction="none")
    return -losses.mean(dim=(1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class SystemObjective:
    """``class_score(logits, labels) + mask_weight * mask_likeness(mask_logits, mask_targets)`` of a two-stage system.

    The score is what is climbed; success is always the margin of the system as it is (``tracker.MarginObjective``). ``class_score``
    None leaves the mask alone to be climbed. Raises ValueError for a path, a gate or a mask target that the system does not have.
    """

    system: System
    """In the state of ``system.attacked``."""
    labels: Labels
    context: MaskContext | None
    class_score: Score | None = cross_entropy
    """Class logits and labels (and target labels, if there are any) to one value per image."""
    target_labels: Labels | None = None
    path: GradientPath = GradientPath.BOTH
    """Which gradient of the class score is climbed. The value of the score is the same for all."""
    soft: bool = False
    """Climb the class score through a soft gate in place of the hard one: a transfer attack on ``learned-hard``."""
    mask_targets: Masks | None = None
    mask_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.class_score is None and self.mask_targets is None:
            raise ValueError("there is nothing to climb: give a class score or mask targets")
        special = self.path != GradientPath.BOTH or self.soft or self.mask_targets is not None
        if special and with_attackable_mask(self.system) is None:
            raise ValueError(f"no attacker can move the mask of the source {self.system.mask_traits.source!r}")

    def __call__(self, images: Images) -> Scores:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Images) -> tuple[Scores, Scores]:
        """The score that is climbed, and the margin of the system's own logits without a gradient."""
        system = with_attackable_mask(self.system)
        if system is None:
            logits = self.system(images, self.context)
            return self._class_scores(logits), margin(logits.detach(), self.labels)
        pixels, seen_by_segmenter = self._branches(images)
        mask_logits = system.mask_logits(seen_by_segmenter)
        scores = images.new_zeros(len(images))
        if self.mask_targets is not None:
            scores = scores + self.mask_weight * mask_likeness(mask_logits, self.mask_targets)
        if self.class_score is not None:
            masks = soft_masks(system, mask_logits) if self.soft else system.gate(mask_logits)
            logits = system.classify(pixels, masks, self.context)
            scores = scores + self._class_scores(logits)
        if self.class_score is None or self.soft:
            with torch.no_grad():
                logits = system.classify(images, system.gate(mask_logits), self.context)
        return scores, margin(logits.detach(), self.labels)

    def select(self, indices: Indices) -> "SystemObjective":
        """The same objective for some images of the batch, in the order of ``indices``."""
        return replace(
            self,
            labels=self.labels[indices],
            context=None if self.context is None else self.context.select(indices),
            target_labels=None if self.target_labels is None else self.target_labels[indices],
            mask_targets=None if self.mask_targets is None else self.mask_targets[indices],
        )

    def _class_scores(self, logits: Tensor) -> Tensor:
        assert self.class_score is not None
        targets = (self.labels,) if self.target_labels is None else (self.labels, self.target_labels)
        return self.class_score(logits, *targets)

    def _branches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images as the classifier gets them and as the segmenter does."""
        match self.path:
            case GradientPath.BOTH:
                return images, images
            case GradientPath.PIXELS:
                return images, images.detach()
            case GradientPath.MASK:
                return images.detach(), images
            case GradientPath.BALANCED:
                pixels, seen_by_segmenter = _BalancedPaths.apply(images)
                return pixels, seen_by_segmenter


def soft_masks(system: System, mask_logits: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """What a soft gate in place of a hard one makes of the mask logits."""
    # Centred where the hard gate flips, so that a mask value of 1/2 means the same to both.
    threshold = system.mask_traits.hard_threshold or 0.5
    return soft_gate(mask_logits - math.log(threshold / (1 - threshold)))


@torch.no_grad()
def mask_targets(
    goal: MaskGoal,
    system: StagedSystem,
    images: Images,
    labels: Labels,
    context: MaskContext | None,
    guides: GuideMasks | None = None,
) -> Masks:
    """What each clean image's mask is to become. Raises ValueError where the goal needs masks that are not there."""
    like = images.new_zeros(len(images), 1, *images.shape[2:])
    match goal:
        case MaskGoal.COLLAPSE:
            return like
        case MaskGoal.FLOOD:
            return like + 1
        case MaskGoal.INVERT_ORACLE:
            if context is None or context.oracle_masks is None:
                raise ValueError("the goal 'invert-oracle' needs oracle masks, and the context has none")
            return 1 - context.oracle_masks.to(images.dtype)
        case MaskGoal.INVERT_CLEAN:
            return 1 - system.gate(system.mask_logits(images))
        case MaskGoal.STEAL:
            if guides is None:
                raise ValueError("the goal 'steal' needs a pool of guide masks")
            return stolen_masks(*masks_and_logits(system, images, context), labels, guides)


def stolen_masks(clean_masks: Masks, logits: Logits, labels: Labels, guides: GuideMasks) -> Masks:
    """For each image the guide mask of another class that the attacker is most likely to reach.

    Of the classes in the pool other than the label, the one with the largest logit on the clean image; of its masks, the one most
    like the clean mask (largest soft intersection over union), the earliest of equals. It depends on the image and the pool alone.
    Raises ValueError where the pool holds no other class.
    """
    pool = guides.masks.flatten(1).to(clean_masks.dtype)
    clean = clean_masks.flatten(1)
    in_pool = torch.zeros_like(logits[0], dtype=torch.bool).index_fill_(0, guides.labels, True)
    eligible = in_pool & ~functional.one_hot(labels, logits.shape[1]).bool()
    if not eligible.any(dim=1).all():
        raise ValueError("the guide masks hold no class other than the label of some image")
    wanted = logits.masked_fill(~eligible, -torch.inf).argmax(dim=1)
    shared = clean @ pool.T
    united = clean.sum(dim=1, keepdim=True) + pool.sum(dim=1) - shared
    likeness = shared / united.clamp_min(torch.finfo(united.dtype).tiny)
    likeness = likeness.masked_fill(guides.labels != wanted[:, None], -torch.inf)
    # argmax promises no particular one of equals; the first of the marks of the maximum is the earliest.
    earliest = (likeness == likeness.amax(dim=1, keepdim=True)).to(torch.uint8).argmax(dim=1)
    return guides.masks[earliest].to(clean_masks.dtype)


def guided(
    mask_objective: MarginObjective,
    class_objective: MarginObjective,
    images: Images,
    *,
    norm: Norm,
    epsilon: PerImage,
    mask_steps: int,
    class_steps: int,
    region: RegionMasks | None = None,
    seeds: Seeds,
    observer: Observer | None = None,
) -> Images:
    """First the mask, then the class from there: two searches, the second beginning at the best point of the first.

    Both are projected gradient descent with a step of 2.5 * epsilon / steps; the first starts at random. Returned is, of all
    points that either has visited, the one with the largest margin; ``observer`` is told of all of them. Raises what ``pgd_in``
    raises.
    """
    search = partial(pgd_in, norm)
    best = BestPoint(images, observer)
    masked = search(best.track(mask_objective), images, epsilon=epsilon, num_steps=mask_steps, region=region, seeds=seeds)
    search(best.track(class_objective), images, epsilon=epsilon, num_steps=class_steps, region=region, start=masked)
    return best.points
