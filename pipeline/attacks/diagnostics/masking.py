"""Is the mask what the system says that it is, and does the image decide?"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attacks.diagnostics.check import Check, judged, share, skipped
from pipeline.attacks.diagnostics.gradients import FEW, MOST
from pipeline.attacks.diagnostics.memory import held_images
from pipeline.attacks.diagnostics.probing import (
    Images,
    Places,
    finite,
    floored,
    gradients,
    logits_of,
    masks_of,
    next_of_another_class,
    objective,
    of_another_class,
    scale_of,
    slopes_of,
)
from pipeline.attacks.objectives import Score, are_probabilities, margin
from pipeline.attacks.start import AttackBatch
from pipeline.masks.context import MaskContext
from pipeline.system import StagedSystem, attacked, clean_context, masks_and_logits, traits_of, with_attackable_mask

_ROUNDING = 1e-4
_FLAT = 1e-6  # of a gate's steepest slope, where float32 has nothing left of the sigmoid
_GRID = 2001
_MOST = 0.75
"""Share of the images that the context may decide: outlines name some classes too (see the report on silhouettes)."""
_BY_SEED = 1 / 3
"""Share of the images that take the class of another one with its seed: random masks are drawn by it, and may do so by chance."""
_GIVEN = ("oracle_masks", "substitutes", "frozen_masks")
_FAINT, _DETAIL = 0.02, 0.2
"""Steps that nobody sees in a mask that is given with the image, and what they may be worth, of the scale of the logits, in the
mean. Rounding to them leaves 0 and 1 as they are: some networks feel half a percent of a background that was black."""
_MOVED = 0.1  # in [0,1]
_SHIFTS = ((1, 0), (-1, 0), (0, 1), (0, -1))
_FEWEST, _LEFT = 8, 1 / 2
_LOST = 1 / 8
"""Share of the images that may lose their class by every such change: it was 4 % at most, for a random linear system on noise."""


@torch.no_grad()
def mask_follows_image(batch: AttackBatch, places: Places) -> Check:
    """A mask that is said to be predicted on the image has to be that of the image it is shown, whatever the context and whatever
    was shown before; one that is said to be fixed has to stay; a system of stages has to be the sum of its parts, at all of the
    ``probe_points``; what is said to be hidden has to play no part; and what is kept of the clean image has to be its mask."""
    name, traits = "mask follows image", traits_of(batch.system)
    kept, order = _kept_beside_mask(batch), next_of_another_class(batch)
    own = masks_of(batch, batch.images)
    if traits.source == "none" and not (traits.follows_image or kept or bool((own != 1).any())):
        return skipped(name, "there is no mask")
    swapped = masks_of(batch, batch.images[order])
    expected = own[order] if traits.follows_image else own
    wrong = share(((swapped - expected).abs().flatten(1).amax(dim=1) > _ROUNDING).to(torch.bool))
    figures = {"wrong": wrong, "parts": max(_parts_differ(batch, points) for points in places().values()), "kept": kept}
    soft = traits.hard_threshold is not None and bool(((own != 0) & (own != 1)).any())
    hidden = (own == 0) & (traits.hides_pixels and not traits.follows_image)
    seen = _apart(batch, logits_of(batch, torch.where(hidden, (batch.images + 0.5) % 1, batch.images)), logits_of(batch))
    said = "is predicted on the image" if traits.follows_image else "is fixed"
    finding = f"the mask of {traits.source} {said}; with other images in place of {wrong:.1%} of them it is another than that"
    finding += f"; the parts differ from the whole by {figures['parts']:.1e} of the logits or masks"
    finding += "; it is said to be hard and is soft" if soft else ""
    finding += f"; hidden pixels move a logit by {seen:.1e}, relative" if seen else ""
    finding += "; the context carries more of the clean image than its mask" if kept else ""
    advice = "attacks rely on what mask_traits says: a frozen mask is no learned one (source frozen), and a stage is not left out"
    return judged(name, wrong > 0 or soft or max(kept, seen, figures["parts"]) > _ROUNDING, finding, advice, figures)


def _parts_differ(batch: AttackBatch, points: Images) -> float:
    """Largest difference of a logit between the system and its parts one after the other, relative, or of a mask between the one
    that is shown and the one of its logits, which attacks climb; 0 where it has none."""
    if not isinstance(batch.system, StagedSystem):
        return 0.0
    staged = with_attackable_mask(batch.system)
    with attacked(batch.system):
        masks, parts = masks_and_logits(batch.system, points, batch.context)
        of_logits = masks if staged is None else staged.gate(staged.mask_logits(points))
    return max(_apart(batch, logits_of(batch, points), parts), float((of_logits - masks).abs().max()))


def _apart(batch: AttackBatch, logits: Tensor, others: Tensor) -> float:
    """Largest difference of a logit, relative."""
    scale = scale_of(batch)
    return float((floored(logits, scale) - floored(others, scale)).abs().max()) / scale


def _kept_beside_mask(batch: AttackBatch) -> float:
    """Largest difference between what the system takes from the clean images and the masks that it shows; 0 where it takes none."""
    given = (batch.context or MaskContext())._replace(frozen_masks=None)
    with attacked(batch.system):
        taken = clean_context(batch.system, batch.images, given)
        shown = given._replace(frozen_masks=batch.system.masks(batch.images, taken))
    pairs = [(one, other) for one, other in zip(taken, shown, strict=True) if one is not None and one is not other]
    return max((float((one if other is None else one - other).abs().max()) for one, other in pairs), default=0.0)


@torch.no_grad()
def pixels_decide(batch: AttackBatch, places: Places) -> Check:
    """With the pixels of an image of another class in place of its own, the context must not name the class all the same.

    Masks that are given with the image (the oracle's, other images') may say which class it is, by more than their outline: then
    a change of their values that nobody sees changes margins. The seed that belongs to it may say nothing, and change nothing where
    ``mask_traits`` does not say that it is used. Masks may change nothing where the system predicts its own: nobody has them when
    the image arrives. What may change nothing is asked at all of the ``probe_points``.
    """
    name = "pixels decide"
    if batch.context is None or all(part is None for part in batch.context):
        return skipped(name, "the system is given nothing but the image")
    order = next_of_another_class(batch)
    moved = order != torch.arange(len(order), device=order.device)
    if not bool(moved.any()):
        return skipped(name, "all images are of one class")
    kept = logits_of(batch, of_another_class(batch)).argmax(dim=1) == batch.labels
    seeds = batch.context.sample_seeds
    shown = logits_of(replace(batch, context=batch.context.select(order))).argmax(dim=1) == batch.labels[order]
    other_seeds = replace(batch, context=batch.context._replace(sample_seeds=None if seeds is None else seeds[order]))
    told = logits_of(other_seeds).argmax(dim=1) == batch.labels[order]
    figures = {"kept": share(kept[moved]), "moved_with_context": share(shown[moved]), "moved_with_seed": share(told[moved])}
    uses_seeds, follows_image = batch.system.mask_traits.uses_seeds, batch.system.mask_traits.follows_image
    given = {name: masks for name in _GIVEN if (masks := getattr(batch.context, name)) is not None}
    inverted, shows_given = (given, False) if follows_image else ({}, bool(given))
    others = replace(batch, context=batch.context._replace(**{name: 1 - masks for name, masks in inverted.items()}))
    figures |= {"by_seed": 0.0, "by_masks": 0.0, "by_detail": 0.0}
    for points in places().values():
        own = logits_of(batch, points)
        figures["by_seed"] = max(figures["by_seed"], _apart(batch, logits_of(other_seeds, points), own))
        figures["by_masks"] = max(figures["by_masks"], _apart(batch, logits_of(others, points), own))
        if shows_given:
            apart = (margin(_without_detail(batch, points), batch.labels) - margin(own, batch.labels)).abs()
            figures["by_detail"] = max(figures["by_detail"], float(apart.mean()) / scale_of(batch))
    finding = f"{figures['kept']:.1%} keep their class when all pixels are those of an image of another class"
    finding += f"; {figures['moved_with_context']:.1%} take that class when only what is given with the image is that image's"
    finding += f", {figures['moved_with_seed']:.1%} when its seed is"
    finding += (
        f"; other seeds move a logit by {figures['by_seed']:.1e}, relative, and are said to play {'a' if uses_seeds else 'no'} part"
    )
    finding += f"; other masks beside the image, which are said to play no part, by {figures['by_masks']:.1e}" if inverted else ""
    finding += f"; masks rounded to {_FAINT:.0%} move margins by {figures['by_detail']:.1e}" if shows_given else ""
    advice = "the class is read from the mask and not from the object: no robustness of these figures is that of a classifier"
    failed = max(figures["kept"], figures["moved_with_context"]) > _MOST or figures["moved_with_seed"] > _BY_SEED
    failed |= figures["by_masks"] > _ROUNDING or (figures["by_seed"] > _ROUNDING and not uses_seeds)
    failed |= not figures["by_detail"] <= _DETAIL
    return judged(name, failed, finding, advice, figures)


def _without_detail(batch: AttackBatch, points: Images) -> Tensor:
    """Logits where what is given with the images, and the mask that they are seen through, is changed by less than can be seen."""
    context = batch.context or MaskContext()
    rounded = {name: _rounded(masks) for name in _GIVEN if (masks := getattr(context, name)) is not None}
    changed = context._replace(**rounded)
    if not isinstance(batch.system, StagedSystem):
        return logits_of(replace(batch, context=changed), points)
    with attacked(batch.system):  # masks that are drawn by the area of a given one are drawn as they were
        logits: Tensor = batch.system.classify(points, _rounded(masks_of(batch, points)), changed)
    return logits


def _rounded(masks: Tensor) -> Tensor:
    return (masks / _FAINT).round() * _FAINT


@torch.no_grad()
def shifted_images(batch: AttackBatch) -> Check:
    """Images that are moved by a pixel, lit otherwise or smoothed, with all that is given with them, and are still classified right
    have to be so by half of their margins, in the mean; hardly any may lose its class whatever is done to it; and images may not be
    half as steep as what becomes of them (median). A system that knows them by heart is sure of themselves alone, right on
    themselves alone, or flat around them alone, with a gradient that is true; and none may hold them (``memory.held_images``), for
    what it does with them may be too soft to be seen."""
    name, left, slopes = "shifted images", {}, []
    still = torch.zeros_like(batch.labels)
    others = {way: [_changed(batch, change, moves) for change in changes] for way, (moves, changes) in _CHANGED.items()}
    # The one measure for all of them: outputs that are probabilities of some images alone are none.
    logs = all(are_probabilities(logits_of(other)) for other in (batch, *chain.from_iterable(others.values())))
    sureness = _log_sureness if logs else _sureness
    clean, steepness = sureness(logits_of(batch), batch.labels), _steepness(batch, sureness)
    for way, some in others.items():
        margins = []
        for other in some:
            margins.append(sureness(logits_of(other), batch.labels))
            steep = _steepness(other, sureness)
            slopes.append((steepness / steep.clamp_min(1e-30))[(steepness > 0) | (steep > 0)])  # what is flat anyhow says nothing
        kept = torch.stack(margins)
        right = kept > 0
        still += right.sum(dim=0)
        if int(right.sum()) >= _FEWEST:
            left[way] = float(kept[right].sum() / clean.expand_as(kept)[right].sum().clamp_min(1e-30))
    held, lost = share(held_images(batch)), share(still == 0)
    total, of = int(still.sum()), len(batch) * sum(map(len, others.values()))
    known_alone = len(batch) >= _FEWEST and lost > _LOST
    if not (left or held or known_alone):
        return skipped(name, f"only {total} of {of} images that are shifted, lit otherwise or smoothed keep their class")
    ratios = torch.cat(slopes)
    flatter = float(ratios.median()) if len(ratios) else 1.0
    finding = f"of {of} images that are shifted by a pixel, lit otherwise or smoothed {total} keep their class"
    finding += ", with " + ", ".join(f"{part:.0%} ({way})" for way, part in left.items()) if left else ""
    finding += " of their margins in the mean" if left else ""
    finding += f"; {lost:.1%} of the images lose it whatever is done to them" if known_alone else ""
    finding += f"; the images themselves are {flatter:.0%} as steep as these (median)"
    finding += f"; the system holds {held:.1%} of the images, or what it makes of them" if held else ""
    advice = "the system knows these images, as it knows those that it was trained on: attack images that it has never seen"
    figures = {"left": min(left.values(), default=1.0), "kept": total / of, "lost": lost, "steep": flatter, "held": held}
    return judged(name, known_alone or held > 0 or min(figures["left"], flatter) < _LEFT, finding, advice, figures)


def _changed(batch: AttackBatch, change: Callable[[Tensor], Tensor], with_context: bool) -> AttackBatch:
    given = [change(part) if with_context and part is not None and part.ndim == 4 else part for part in batch.context or ()]
    return replace(batch, images=change(batch.images), context=MaskContext(*given))


def _sureness(outputs: Tensor, labels: Tensor) -> Tensor:
    """By how much the label's class is likeliest."""
    return -margin(outputs, labels)


def _log_sureness(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of probabilities: their logs are no flatter where a softmax is sure."""
    return _sureness(outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log(), labels)


def _steepness(batch: AttackBatch, sureness: Score) -> Tensor:
    """Length of the gradient of the sureness, per image."""
    slopes = finite(gradients(objective(batch, score=sureness), batch.images))
    lengths: Tensor = slopes.flatten(1).norm(dim=1)
    return lengths


def _blurred(values: Tensor) -> Tensor:
    return (values + functional.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)) / 2


def _enlarged(values: Tensor) -> Tensor:
    """The inner seven eighths."""
    height, width = values.shape[2:]
    top, left = max(1, height // 16), max(1, width // 16)
    inner = values[:, :, top : height - top, left : width - left]
    return functional.interpolate(inner, size=(height, width), mode="bilinear", align_corners=False)


_CHANGED: dict[str, tuple[bool, list[Callable[[Tensor], Tensor]]]] = {
    "shifted": (True, [partial(torch.roll, shifts=shift, dims=(2, 3)) for shift in _SHIFTS]),
    "lit": (False, [lambda one: 0.85 * one, lambda one: 0.15 + 0.85 * one, lambda one: 0.1 + 0.8 * one]),
    "smoothed": (True, [_blurred, _enlarged]),
}
"""What leaves a class as it is, and whether it moves what is given with an image as well."""


def mask_saturation(batch: AttackBatch) -> Check:
    """Mask values at which a gate is flat: its slope there, relative to the steepest in the range of the mask's logits; of a hard
    gate that of its surrogate. Nowhere may it fall: more foreground in the logits is more in the mask."""
    name, system, traits = "mask saturation", batch.system, traits_of(batch.system)
    if not traits.follows_image:
        return skipped(name, traits.why_fixed)
    if isinstance(system, StagedSystem):
        slopes = _relative_slopes(system, batch.images)
    elif traits.hard_threshold is not None:
        return _area_follows(batch)
    else:  # of a foreign mask there are values alone: those of a sigmoid are as flat as they are near 0 and 1
        masks = masks_of(batch, batch.images)
        slopes = 4 * masks * (1 - masks)
    flat, falls = share(slopes <= _FLAT), share(slopes < 0)
    finding = f"at {flat:.1%} of the mask the gate is flat (below a millionth of its steepest slope); at {falls:.1%} it falls"
    advice = "attack the mask's logits, which do not saturate (attacks of kind mask and guided), and see what learned-hard says"
    return judged(name, flat > MOST or falls > FEW, finding, advice, {"saturated": flat, "falling": falls})


def _area_follows(batch: AttackBatch) -> Check:
    """Of a hard mask whose gate is not shown: along the gradient of its area the area has to grow, where anything moves it."""
    way = _MOVED * slopes_of(batch.system, lambda points: batch.system.masks(points, batch.context), batch.images).sign()
    less, more = (masks_of(batch, (batch.images + one).clamp(0, 1)).flatten(1).sum(dim=1) for one in (-way, way))
    stays, falls = share(more == less), share(more < less)
    finding = f"along the gradient of the mask's area it stays as it is on {stays:.1%} of the images and shrinks on {falls:.1%}"
    advice = "the surrogate leads nowhere or the wrong way: take the identity's or the sigmoid's (masking.hard_gate)"
    return judged("mask saturation", stays > MOST or falls > FEW, finding, advice, {"saturated": stays, "falling": falls})


def _relative_slopes(system: StagedSystem, images: Tensor) -> Tensor:
    """Of the gate at the mask of the images, the derivative of the mask by its logits, relative to its steepest."""
    with torch.no_grad(), attacked(system):
        logits = system.mask_logits(images)
    low, high = float(logits.min().clamp_max(-1e-6)), float(logits.max().clamp_min(1e-6))
    near = torch.logspace(-6, 0, 61)
    grid = torch.cat([torch.linspace(low, high, _GRID), near, -near]).to(logits)
    steepest = slopes_of(system, system.gate, grid.view(1, 1, 1, -1)).max().clamp_min(torch.finfo(logits.dtype).tiny)
    return slopes_of(system, system.gate, logits) / steepest
