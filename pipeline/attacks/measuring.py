"""What a measurement observes: the batch that it is given, and the observation that it makes of every image."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import verdict
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Labels, Logits, Masks
from pipeline.system import System
from segmenter.metrics import intersection_over_union


class Donors(NamedTuple):
    """Images whose backgrounds are borrowed, one for each image of a batch."""

    images: Images
    masks: Masks
    found: Bool[Tensor, " batch"]
    """False where there is none; what stands in its place is never looked at."""


@dataclass(frozen=True, kw_only=True)
class MeasuredBatch(AttackBatch):
    """A system and the images that it is measured on. Seeds are from an image's identity and the run's seed."""

    context: MaskContext
    """Of the clean images, with the data set's masks: what is frozen was taken from them (``system.clean_context``)."""
    donors: Callable[[bool], Donors]
    """Of the own class (True) or another one (False), by the image's identity alone."""
    copy: System | None = None
    """What gradients are taken of in place of the system (``acceleration.copy_to_search``); success is decided by the system."""

    @property
    def masks(self) -> Masks:
        """The data set's own."""
        assert self.context.oracle_masks is not None
        return self.context.oracle_masks

    def logits(self, images: Images) -> Logits:
        """What the system says of versions of the batch's images."""
        logits: Tensor = self.system(images, self.context)
        return logits


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was seen under one condition, one value per image."""

    predictions: Labels
    """Class, or -1 for no answer."""
    correct: Bool[Tensor, " batch"]
    mask_iou: Float64[Tensor, " batch"]
    """Of the mask that the system sees the image through, with the mask of the object."""
    values: Float64[Tensor, " batch"]
    """Distance or radius; NaN where a measurement has none."""
    counted: Bool[Tensor, " batch"]
    """False where nothing can be said of the image: it counts in no figure."""
    images: Images
    """What the system was shown."""
    masks: Masks
    """What it saw that through."""


@torch.no_grad()
def observed(
    batch: MeasuredBatch,
    images: Images,
    *,
    masks: Masks | None = None,
    values: Float64[Tensor, " batch"] | None = None,
    counted: Bool[Tensor, " batch"] | None = None,
) -> Observation:
    """The system's answer to versions of the images, in eval mode and without autocast. ``masks`` are those of the objects there.

    Sources that are made from the data set's masks are given these; a frozen mask stays that of the clean image. Raises
    FloatingPointError for NaN logits.
    """
    if masks is not None:
        batch = replace(batch, context=batch.context._replace(oracle_masks=masks))
    scored = verdict(batch.system, images, batch.labels, batch.context, with_masks=True)
    seen_through = scored.masks
    assert seen_through is not None
    everything = torch.ones_like(scored.misclassified)
    return Observation(
        predictions=scored.predictions,
        correct=~scored.misclassified,
        mask_iou=intersection_over_union(seen_through, batch.masks.to(seen_through.dtype)).double(),
        values=torch.full_like(scored.margins.double(), torch.nan) if values is None else values,
        counted=everything if counted is None else counted,
        images=images.detach(),
        masks=seen_through,
    )


def observed_distances(batch: MeasuredBatch, points: Images, distances: Float64[Tensor, " batch"]) -> Observation:
    """What was found nearest to each image, scored afresh: a point that is not misclassified counts as none."""
    seen = observed(batch, points)
    # Where nothing was found the point is the image: if that is misclassified after all (a tie), its distance is 0.
    return replace(seen, values=torch.where(seen.correct, torch.inf, distances.nan_to_num(posinf=0.0)))
