"""Is the mask what the system says that it is, and does the image decide?"""

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.attacks.diagnostics.check import Check, judged, share, skipped
from pipeline.attacks.diagnostics.probing import floored, logits_of, next_of_another_class, of_another_class, scale_of
from pipeline.attacks.objectives import margin
from pipeline.attacks.start import AttackBatch
from pipeline.masks.context import MaskContext
from pipeline.system import StagedSystem, attacked, masks_and_logits, traits_of

_ROUNDING = 1e-4
_MOST = 0.75
"""Share of the images that the context may decide: outlines name some classes too (see the report on silhouettes)."""
_BY_SEED = 1 / 3
"""Share of the images that take the class of another one with its seed: random masks are drawn by it, and may do so by chance."""
_SHIFTS = ((1, 0), (-1, 0), (0, 1), (0, -1))
_FEWEST, _LEFT = 8, 1 / 3


@torch.no_grad()
def mask_follows_image(batch: AttackBatch) -> Check:
    """A mask that is said to be predicted on the image has to be that of the image it is shown, whatever the context and whatever
    was shown before; one that is said to be fixed has to stay; and a system of stages has to be the sum of its parts."""
    name, traits = "mask follows image", traits_of(batch.system)
    if traits.source == "none" and not traits.follows_image:
        return skipped(name, "there is no mask")
    order = next_of_another_class(batch)
    with attacked(batch.system):
        own = batch.system.masks(batch.images, batch.context)
        swapped = batch.system.masks(batch.images[order], batch.context)
    expected = own[order] if traits.follows_image else own
    wrong = share(((swapped - expected).abs().flatten(1).amax(dim=1) > _ROUNDING).to(torch.bool))
    figures = {"wrong": wrong, "parts": _parts_differ(batch)}
    said = "is predicted on the image" if traits.follows_image else "is fixed"
    finding = f"the mask of {traits.source} {said}; with other images in place of {wrong:.1%} of them it is another than that"
    finding += f"; the parts differ from the whole by {figures['parts']:.1e} of the logits"
    advice = "attacks rely on what mask_traits says: a frozen mask is no learned one (source frozen), and a stage is not left out"
    return judged(name, wrong > 0 or figures["parts"] > _ROUNDING, finding, advice, figures)


def _parts_differ(batch: AttackBatch) -> float:
    """Largest difference of a logit between the system and its parts one after the other, relative; 0 where it has none."""
    if not isinstance(batch.system, StagedSystem):
        return 0.0
    scale, whole = scale_of(batch), logits_of(batch)
    with attacked(batch.system):
        _, parts = masks_and_logits(batch.system, batch.images, batch.context)
    return float((floored(whole, scale) - floored(parts, scale)).abs().max()) / scale


@torch.no_grad()
def pixels_decide(batch: AttackBatch) -> Check:
    """With the pixels of an image of another class in place of its own, the context must not name the class all the same.

    Masks that are given with the image (the oracle's, other images') may say which class it is, by more than their outline. The
    seed that belongs to it may say nothing.
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
    shown = _takes_class(batch, order, batch.context.select(order))
    told = _takes_class(batch, order, batch.context._replace(sample_seeds=None if seeds is None else seeds[order]))
    figures = {"kept": share(kept[moved]), "moved_with_context": share(shown[moved]), "moved_with_seed": share(told[moved])}
    finding = f"{figures['kept']:.1%} keep their class when all pixels are those of an image of another class"
    finding += f"; {figures['moved_with_context']:.1%} take that class when only what is given with the image is that image's"
    finding += f", {figures['moved_with_seed']:.1%} when its seed is"
    advice = "the class is read from the mask and not from the object: no robustness of these figures is that of a classifier"
    failed = max(figures["kept"], figures["moved_with_context"]) > _MOST or figures["moved_with_seed"] > _BY_SEED
    return judged(name, failed, finding, advice, figures)


@torch.no_grad()
def shifted_images(batch: AttackBatch) -> Check:
    """Images that are moved by one pixel, with all that is given with them, and are still classified right have to be so by a third
    of the margin, in the mean: a system that knows them by heart is sure of themselves alone, with a gradient that is true."""
    name, kept = "shifted images", []
    for shift in _SHIFTS:
        parts = [part.roll(shift, (2, 3)) if part is not None and part.ndim == 4 else part for part in batch.context or ()]
        moved = replace(batch, images=batch.images.roll(shift, (2, 3)), context=MaskContext(*parts))
        margins = margin(logits_of(moved), batch.labels)
        kept.append(-margins[margins < 0])
    still = torch.cat(kept)
    if len(still) < _FEWEST:
        return skipped(name, f"only {len(still)} of {len(kept) * len(batch)} images that are shifted by a pixel keep their class")
    left = float(still.mean() / -margin(logits_of(batch), batch.labels).mean().clamp_max(-1e-30))
    finding = f"of {len(kept) * len(batch)} images that are shifted by a pixel {len(still)} keep their class"
    finding += f", with {left:.0%} of the margin of the images themselves in the mean"
    advice = "the system knows these images, as it knows those that it was trained on: attack images that it has never seen"
    return judged(name, left < _LEFT, finding, advice, {"left": left, "kept": len(still) / (len(kept) * len(batch))})


def _takes_class(batch: AttackBatch, order: Tensor, context: MaskContext) -> Tensor:
    """Images that take the class of another one when they are given this context."""
    return logits_of(replace(batch, context=context)).argmax(dim=1) == batch.labels[order]
