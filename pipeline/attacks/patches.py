"""Square patches: any change at all, inside one square of a known number of pixels, placed where the attacker may place it.

The idea: Brown et al. 2017, https://arxiv.org/abs/1712.09665; that its place is part of the attack: Rao, Stutz and Schiele 2020,
https://arxiv.org/abs/2005.02313. The content is found by projected gradient descent over the whole range of pixel values, end to
end through the segmenter where there is one. A patch is known by its share of the image; a square is a whole number of pixels wide,
so the share is that of ``patch_side`` and never more than was asked for.

Which places are allowed is said by a region: a patch on the background touches no pixel of the object, a patch on the object no
pixel outside it. An image in which no such square fits has no patch, and says nothing about this attacker.
"""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional

from pipeline.attacks.climbing import as_known, class_objective
from pipeline.attacks.measurement import Condition
from pipeline.attacks.measurements import Patches
from pipeline.attacks.measuring import MeasuredBatch, Observation, observed
from pipeline.attacks.objectives import Objective, scores_and_gradients
from pipeline.attacks.patch_attack import PatchAttack, patch_side
from pipeline.attacks.pgd import pgd_linf
from pipeline.attacks.runner import run_attack
from pipeline.attacks.specs import ClassAttack
from pipeline.attacks.start import AttackStart
from pipeline.attacks.threat import Region, ThreatModel
from pipeline.attacks.tracker import BestPoint
from pipeline.randomness import derive_seeds, random_integers
from pipeline.shapes import Images, Regions, Scores, Seeds

Corners = Int64[Tensor, "batch 2"]
"""Row and column of the upper left pixel of a square; -1 and -1 where the image has no room for it."""
_STEEP = 1e30  # so that the sum over a square is a number


def patch_share(images: Images, clean: Images) -> Scores:
    """Area of the smallest square that holds every pixel that differs, as a share of the image; float64, 0 where none differs."""
    changed = (images != clean).any(dim=1)
    sides = torch.stack([_extent(changed.any(dim=2)), _extent(changed.any(dim=1))]).amax(dim=0)
    return sides.double() ** 2 / (images.shape[2] * images.shape[3])


def allowed_corners(side: int, shape: tuple[int, int], region: Regions | None, batch: int) -> Bool[Tensor, "batch rows columns"]:
    """True for every corner whose square lies in the image and, where there is a region, in the region with all its pixels.

    Raises ValueError for a square that is larger than the image or has no pixel.
    """
    height, width = shape
    if not 1 <= side <= min(height, width):
        raise ValueError(f"a square with a side of {side} pixels does not lie in an image of {height} x {width}")
    if region is None:
        return torch.ones(batch, height - side + 1, width - side + 1, dtype=torch.bool)
    outside = functional.max_pool2d((~region).float(), side, stride=1)
    return outside.squeeze(1) == 0


def patch_masks(corners: Corners, side: int, shape: tuple[int, int]) -> Regions:
    """True on the square at each corner: ``side ** 2`` pixels exactly, or none where the corner is -1."""
    rows, columns = (torch.arange(size, device=corners.device) for size in shape)
    inside_rows = (rows >= corners[:, :1]) & (rows < corners[:, :1] + side)
    inside_columns = (columns >= corners[:, 1:]) & (columns < corners[:, 1:] + side)
    masks = inside_rows[:, :, None] & inside_columns[:, None, :] & (corners[:, :1, None] >= 0)
    return masks.unsqueeze(1)


def random_corners(allowed: Bool[Tensor, "batch rows columns"], seeds: Seeds) -> Corners:
    """One of the allowed corners of each image, all of them equally likely; the same for the same seed."""
    flat = allowed.flatten(1)
    drawn = random_integers(seeds, (1,)).squeeze(1)
    return _nth(flat, (drawn * flat.sum(dim=1)) >> 24, allowed.shape[2])


def promising_corners(
    objective: Objective, images: Images, allowed: Bool[Tensor, "batch rows columns"], *, side: int, rank: int
) -> Corners:
    """The place of that rank (0 is the best) by what a patch there promises, to first order, on the image as it is.

    The promise of a pixel is the most that its gradient says any value of [0,1] can add to the objective; that of a square is the
    sum over its pixels. Places of later ranks do not overlap those before (their corners are at least a side apart in a direction);
    where no such place is left, the best of the allowed ones that were not yet taken.
    """
    # The slope of a root at 0 is infinite: it promises more than any other, and where the value cannot follow it nothing.
    gradients = scores_and_gradients(objective, images)[1].nan_to_num(0, _STEEP, -_STEEP)
    gain = (gradients.clamp_min(0) * (1 - images) - gradients.clamp_max(0) * images).sum(dim=1, keepdim=True)
    promise = functional.avg_pool2d(gain.double(), side, stride=1).squeeze(1)
    left = promise.masked_fill(~allowed, -torch.inf).flatten(1)
    far = left.clone()
    columns = allowed.shape[2]
    corner = torch.zeros(len(images), 2, dtype=torch.int64, device=images.device)
    for _ in range(rank + 1):
        choice = torch.where(far.isfinite().any(dim=1, keepdim=True), far, left).argmax(dim=1, keepdim=True)
        room = left.gather(1, choice).isfinite()
        corner = torch.where(room, torch.cat([choice // columns, choice % columns], dim=1), -1)
        left = left.scatter(1, choice, -torch.inf)
        far = far.masked_fill(_overlapping(corner, side, allowed.shape[1:]).flatten(1), -torch.inf)
    return corner


def start_corners(
    objective: Objective, images: Images, region: Regions | None, *, side: int, start: int, num_promising: int, seeds: Seeds
) -> Corners:
    """Where start number ``start`` of an attack puts its patch: first the promising places in their order, then random ones."""
    allowed = allowed_corners(side, (images.shape[2], images.shape[3]), region, len(images)).to(images.device)
    if start < num_promising:
        return promising_corners(objective, images, allowed, side=side, rank=start)
    return random_corners(allowed, derive_seeds(seeds, start))


def attack_with_patch(spec: PatchAttack, start: AttackStart) -> Images:
    """The point with the largest margin that one place of the patch leads to; the image itself where there is no room for it."""
    images = start.batch.images
    shape = (images.shape[2], images.shape[3])
    side = patch_side(start.epsilon, *shape)
    objective = as_known(class_objective(ClassAttack(loss=spec.loss), start), start)
    corners = start_corners(
        objective, images, start.region, side=side, start=start.number, num_promising=spec.num_promising, seeds=start.seeds
    )
    best = BestPoint(images)
    # The whole range of values: the square alone is the limit.
    pgd_linf(
        best.track(objective),
        images,
        epsilon=1.0,
        num_steps=spec.num_steps,
        region=patch_masks(corners, side, shape),
        seeds=start.seeds,
    )
    return best.points


def observe_patches(spec: Patches, batch: MeasuredBatch, condition: Condition) -> Observation:
    """Every image with the worst patch that was found for it; those without room for one are not counted."""
    shape = (batch.images.shape[2], batch.images.shape[3])
    threat = ThreatModel(norm="patch", epsilons=(condition.level,), region=Region(condition.name))
    side = patch_side(condition.level, *shape)
    if not side:
        return observed(batch, batch.images, counted=torch.zeros_like(batch.labels, dtype=torch.bool))
    found = run_attack(
        "patch",
        spec.attack,
        batch,
        threat=threat,
        epsilon=condition.level,
        run_seed=0,  # the seeds of the batch are the run's already
        copy=batch.copy,
    )
    allowed = allowed_corners(side, shape, batch.region(threat), len(batch.labels))
    return observed(batch, found.images, counted=allowed.flatten(1).any(dim=1).to(batch.labels.device))


def _nth(flags: Bool[Tensor, "batch places"], number: Int64[Tensor, " batch"], columns: int) -> Corners:
    """The corner of the True number ``number`` (from 0) of each row; -1 where there is no True."""
    chosen = (flags & (flags.cumsum(dim=1) == number[:, None] + 1)).int().argmax(dim=1, keepdim=True)
    return torch.where(flags.any(dim=1, keepdim=True), torch.cat([chosen // columns, chosen % columns], dim=1), -1)


def _overlapping(corners: Corners, side: int, shape: torch.Size) -> Bool[Tensor, "batch rows columns"]:
    rows, columns = (torch.arange(size, device=corners.device) for size in shape)
    near_rows = (rows - corners[:, :1]).abs() < side
    near_columns = (columns - corners[:, 1:]).abs() < side
    return near_rows[:, :, None] & near_columns[:, None, :]


def _extent(marks: Bool[Tensor, "batch places"]) -> Int64[Tensor, " batch"]:
    """From the first True to the last, both counted; 0 where there is none."""
    places = torch.arange(1, marks.shape[1] + 1, device=marks.device)
    last = torch.where(marks, places, 0).amax(dim=1)
    first = torch.where(marks, places, marks.shape[1] + 1).amin(dim=1)
    return (last - first + 1).clamp_min(0)
