"""Are the gradients there, and do they say what the function does?"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from classifier.losses import cross_entropy
from pipeline.attacks.diagnostics.check import Check, judged, share, skipped
from pipeline.attacks.diagnostics.probing import (
    CLEAN,
    STREAM,
    Budget,
    Places,
    gradients,
    in_float64,
    logits_of,
    objective,
    scale_of,
)
from pipeline.attacks.norms import widest
from pipeline.attacks.objectives import margin
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import NotANumber
from pipeline.attacks.two_stage import soft_masks
from pipeline.randomness import derive_seeds, random_integers
from pipeline.system import StagedSystem, attacked, traits_of

FEW = 0.05
"""Share of the images that may be out of line by accident."""
MOST = 0.5
"""Share of values that may be without a gradient."""
_DISAGREEMENT = 0.2  # 0 is a perfect prediction, 1 one of the opposite, or of a change where there is none
_KINK = 0.5
_REACH = 0.5  # of the promised rise of the margin
_SHORT = 0.25  # share of the images that may keep less: a margin has kinks
_DIRECTIONS = 8
_STEPS = (3e-3, 3e-4)  # in [0,1]: at the better of the two neither curvature nor rounding hides an honest gradient
_FINE_STEP = 3e-5
_NOISE, _JUMP = 84, 0.02  # of the scale of the logits: what rounding may do to a margin, in epsilons of the type (1e-5 in float32),
# and what a step may not
_FAINT = 1e-3  # of the gradient at the clean image
_DIGITS = 1e-4  # of the largest of the two likeliest logits: float32 keeps seven digits, and a decision needs some of them


def finite_numbers(batch: AttackBatch, places: Places, ids: Sequence[str]) -> Check:
    """No logit and no gradient may be infinite or not a number, no class may be the only one that is not ruled out, and logits may
    not be so large that their differences are rounded away. ``places`` gives the ``probe_points`` of the batch; ``ids`` name the
    images."""
    logits = logits_of(batch)
    unfit = _unfit(logits)
    try:
        for points in places().values() if not bool(unfit.any()) else ():
            unfit |= _unfit(logits_of(batch, points))
            unfit |= ~gradients(objective(batch), points).isfinite().flatten(1).all(dim=1)
    except NotANumber as error:  # of the search for the points
        unfit[list(error.rows)] = True
    named = ", ".join(ids[row] for row in unfit.nonzero().flatten().tolist())
    digits = scale_of(batch) / max(float(logits.topk(2, dim=1).values.abs().max()), 1e-300)
    figures = {"unfit": share(unfit), "digits": digits}
    finding = f"infinite or not a number: {named or 'none'}; the likeliest classes differ by {digits:.1e} of the largest logit"
    advice = "a search that meets NaN is blind: mend the system; and keep constants out of the logits"
    return judged("finite numbers", bool(unfit.any()) or not digits > _DIGITS, finding, advice, figures)


def _unfit(logits: Tensor) -> Tensor:
    """Not a number or infinite, or minus infinity for all classes but one: then no margin says how far another one is."""
    return (logits.isnan() | logits.isposinf()).any(dim=1) | logits.topk(2, dim=1).values[:, 1].isneginf()


def zero_gradients(batch: AttackBatch, path: GradientPath, places: Places) -> Check:
    """Images that the margin has no gradient for along one path: as they are, in their balls, or at the decision boundary.

    Along the pixel path also a gradient that is next to nothing beside that of the clean image (every tolerance is relative to
    these), and the values without one where the mask lets the image through and the system reads them. That cross-entropy is
    blind where a classifier is too sure is said and is no failure by itself: suites climb the margin too.
    """
    name = f"zero gradients, {'pixel' if path == GradientPath.PIXELS else 'mask'} path"
    traits = traits_of(batch.system)
    if path == GradientPath.MASK and not traits.is_attackable:
        return skipped(name, traits.why_fixed)
    used = path if traits.is_attackable else GradientPath.BOTH
    blind, where, zero_values = _without_gradient(batch, path, used, places)
    figures = {"blind_images": blind}
    faint = " (or a thousandth of the clean image's)" if path == GradientPath.PIXELS else ""
    finding = f"{blind:.1%} of the images have none at all{faint} or not a number{f' ({where})' if blind else ''}"
    if path == GradientPath.PIXELS:
        sure = gradients(objective(batch, score=cross_entropy, path=used), batch.images)
        figures |= {"zero_values": zero_values, "blind_to_cross_entropy": share((sure == 0).flatten(1).all(dim=1))}
        finding += f"; {zero_values:.1%} of the visible values; cross-entropy is blind on {figures['blind_to_cross_entropy']:.1%}"
        advice = "no attack by gradients says anything here: find what cuts them, and trust attacks without gradients alone"
    else:
        advice = "give the gate a surrogate gradient (masking.hard_gate), and trust attacks on the mask's logits meanwhile"
    failed = blind > FEW or (path == GradientPath.PIXELS and zero_values > MOST)
    return judged(name, failed, finding, advice, figures)


def _without_gradient(batch: AttackBatch, path: GradientPath, used: GradientPath, places: Places) -> tuple[float, str, float]:
    """The largest share of images without a gradient at any place, which place that is, and the largest share of visible values."""
    blind, zero_values, where = 0.0, 0.0, CLEAN
    least = torch.zeros(len(batch), device=batch.images.device)
    for place, points in places().items():
        found = gradients(objective(batch, path=used), points)
        zero = (found == 0) | ~found.isfinite()
        visible, steepest = _visible(batch, points, path).expand_as(zero), found.abs().flatten(1).amax(dim=1)
        # An empty mask shows nothing that could move.
        lost = (steepest <= least) & visible.flatten(1).any(dim=1)
        if place == CLEAN and path == GradientPath.PIXELS:
            least = _FAINT * steepest
        nothing = share(lost | ~found.isfinite().flatten(1).all(dim=1))
        if nothing > blind:
            blind, where = nothing, place
        if share(zero[visible]) > max(zero_values, MOST):
            visible = visible & ~_unread(batch, points, zero)
        zero_values = max(zero_values, share(zero[visible]))
    return blind, where, zero_values


def _unread(batch: AttackBatch, points: Tensor, values: Tensor) -> Tensor:
    """Of values that have no gradient in any image those that play no part: all, where no image gets other logits when they are
    moved by half of their range. What a system crops away or steps over hides nothing."""
    nowhere = values.all(dim=0, keepdim=True)
    moved = logits_of(batch, torch.where(nowhere, (points + 0.5) % 1, points)) - logits_of(batch, points)
    return nowhere & ~(moved.nan_to_num(0, 0, 0).abs() > _DIGITS * scale_of(batch)).any()


def _visible(batch: AttackBatch, points: Tensor, path: GradientPath) -> Tensor:
    """Pixels that the classifier sees; along the mask path all of them, for the mask may let in what it hid."""
    if path == GradientPath.MASK or not batch.system.mask_traits.hides_pixels:
        return torch.ones_like(points[:, :1], dtype=torch.bool)
    return _masks(batch, points) > 0


def gradients_against_differences(batch: AttackBatch, places: Places) -> Check:
    """The margin's gradient has to predict how the margin changes: along its own sign and along random signs, by the image and
    where the mask can be attacked by the mask alone. It is the gradient that attacks climb, of a system of stages the one that
    comes through them; the change is that of the system.

    Where the gate is hard its gradient is a surrogate by design, so the mask is held fixed for the one and made by a sigmoid for
    the other, and both paths together have to give the sum of each alone. One image may be somewhat out of line whatever their
    number: it may lie on the kink of a ReLU.
    """
    name = "gradients against differences"
    traits = traits_of(batch.system)
    held = traits.follows_image and traits.hard_threshold is not None
    if held and not isinstance(batch.system, StagedSystem):
        finding = f"the hard gate of the source {traits.source} cannot be held fixed: a false gradient would pass for its surrogate"
        return judged(name, True, finding, "let the system show its stages (mask_logits, gate, classify: system.StagedSystem)", {})
    scale = scale_of(batch)
    worst, where = torch.zeros(len(batch), device=batch.images.device), dict.fromkeys(range(len(batch)), CLEAN)
    for place, points in places().items():
        asked: dict[str, tuple[_Ask, Tensor | None, GradientPath]] = {place: (_margins, None, GradientPath.BOTH)}
        if held:
            asked = {place: (_margins, _masks(batch, points), GradientPath.PIXELS)}
        if traits.is_attackable:
            asked[f"{place}, by the mask"] = (_margins_by_mask, points, GradientPath.MASK)
        disagreeing = {
            way: _least_disagreement(batch, ask, fixed, points, _slope(batch, path, points), scale)
            for way, (ask, fixed, path) in asked.items()
        }
        if held:
            disagreeing[f"{place}, by both at once"] = _paths_disagree(batch, points)
        for way, found in disagreeing.items():
            where |= dict.fromkeys((found > worst).nonzero().flatten().tolist(), way)
            worst = torch.maximum(worst, found)
    wrong = (worst > _DISAGREEMENT).nonzero().flatten().tolist()
    figures = {"disagreeing": len(wrong) / max(1, len(batch)), "largest": float(worst.max())}
    found_at = ", ".join(sorted({where[row] for row in wrong}))
    finding = f"they disagree on {len(wrong)} of {len(batch)} images{f' ({found_at})' if found_at else ''}"
    advice = "the gradients are not those of the function (a wrong surrogate, noise, clipping): no attack that follows them is one"
    accidental = FEW * len(batch)
    if figures["largest"] <= _KINK:
        accidental = min(max(1, accidental), len(batch) - 1)
    return judged(name, len(wrong) > accidental, finding, advice, figures)


def gradients_reach(batch: AttackBatch, budget: Budget) -> Check:
    """A step of an eighth of the budget (at most 1/255 of every value) has to keep half of what the gradient promises.

    It fails in the median image, or on more than a quarter of the images. A gradient may be that of the function to the last digit
    and hold for a thousandth of a step: then descent climbs ripples.
    """
    name, traits = "gradients reach", traits_of(batch.system)
    held = traits.follows_image and traits.hard_threshold is not None
    if held and not isinstance(batch.system, StagedSystem):
        return skipped(name, f"the hard gate of the source {traits.source} cannot be held fixed")
    masks = _masks(batch, batch.images) if held else None
    step = min(budget.epsilon / 8, widest(budget.norm, batch.images[0].numel()) / 255)
    with attacked(batch.system):
        slope = _slope(batch, GradientPath.PIXELS if held else GradientPath.BOTH, batch.images)
        moved = budget.ball(batch.images).move(batch.images, slope, batch.images.new_full((1, 1, 1, 1), step))
        room = moved.clamp(0, 1) - batch.images
        with torch.no_grad():
            risen = _margins(batch, masks, batch.images + room) - _margins(batch, masks, batch.images)
    promised = (slope * room).sum(dim=(1, 2, 3))
    parts = (risen / promised.clamp_min(1e-30))[promised > 0]
    kept, short = (float(parts.median()), share(parts < _REACH)) if len(parts) else (1.0, 0.0)
    finding = f"a step of {step:.2g} along the gradient raises the margin by {kept:.0%} of what it promises (median)"
    finding += f"; by less than half on {short:.1%} of the images"
    advice = "the gradient holds at its point alone (ripples, noise fixed by the image): attack smoothed or without gradients"
    return judged(name, kept < _REACH or short > _SHORT, finding, advice, {"kept": kept, "short": short})


_Ask = Callable[[AttackBatch, Tensor | None, Tensor], Tensor]
"""Margins, of a system where something is held fixed, at some points."""


def _margins(batch: AttackBatch, masks: Tensor | None, at: Tensor) -> Tensor:
    """Of the system; with masks, of its classifier behind these."""
    if masks is None:
        return margin(batch.system(at, batch.context), batch.labels)
    assert isinstance(batch.system, StagedSystem)
    return margin(batch.system.classify(at, masks, batch.context), batch.labels)


def _margins_by_mask(batch: AttackBatch, pixels: Tensor | None, at: Tensor) -> Tensor:
    """Of the pixels, seen through the mask of other ones; a hard one is made soft."""
    assert isinstance(batch.system, StagedSystem)
    assert pixels is not None
    logits = batch.system.mask_logits(at)
    hard = batch.system.mask_traits.hard_threshold is not None
    masks = soft_masks(batch.system, logits) if hard else batch.system.gate(logits)
    return margin(batch.system.classify(pixels, masks, batch.context), batch.labels)


def _slope(batch: AttackBatch, path: GradientPath, points: Tensor) -> Tensor:
    """The gradient of the margin that attacks climb, zero where it is cut or NaN; along the mask's own path that of a soft gate."""
    soft = path == GradientPath.MASK and batch.system.mask_traits.hard_threshold is not None
    return gradients(replace(objective(batch, path=path), soft=soft), points).nan_to_num(0, 0, 0)


def _paths_disagree(batch: AttackBatch, points: Tensor) -> Tensor:
    """Of the gradient through both paths and the sum of those through each alone, per image; 0 where they are the same."""
    paths = (GradientPath.BOTH, GradientPath.PIXELS, GradientPath.MASK)
    found = (gradients(objective(batch, path=path), points) for path in paths)
    both, pixels, mask = (one.nan_to_num(0, 0, 0).double().flatten(1) for one in found)
    lengths = both.norm(dim=1) + pixels.norm(dim=1) + mask.norm(dim=1)
    apart: Tensor = (both - pixels - mask).norm(dim=1) / lengths.clamp_min(1e-300)
    return apart.float()


def _least_disagreement(batch: AttackBatch, ask: _Ask, fixed: Tensor | None, points: Tensor, slope: Tensor, scale: float) -> Tensor:
    """At the better of two steps. What is in doubt there is measured once more by a step so small that it takes float64: networks
    of many kinks (ReLU6) bend within a larger one. A wrong gradient stays wrong, and a jump is in no doubt."""
    found = torch.stack([_disagreement(batch, ask, fixed, points, slope, size, scale) for size in _STEPS]).amin(dim=0)
    rows = ((found > _DISAGREEMENT) & (found <= _KINK)).nonzero().flatten()
    with suppress(Exception):  # of somebody else's code: it may know one type alone
        if len(rows):
            held = None if fixed is None else fixed[rows].double()
            exact, at, way = in_float64(batch.select(rows)), points[rows].double(), slope[rows].double()
            found[rows] = torch.minimum(found[rows], _disagreement(exact, ask, held, at, way, _FINE_STEP, scale))
    return found


def _disagreement(
    batch: AttackBatch, ask: _Ask, fixed: Tensor | None, points: Tensor, slope: Tensor, size: float, scale: float
) -> Tensor:
    """Of predicted and measured changes of the margin, per image: |difference| / (|one| + |other|), 0 where both are rounding.

    1 where the margin jumps: an image that is answered otherwise than all its neighbors.
    """
    inside = (points >= size) & (points <= 1 - size)  # where a model that clamps its images is smooth
    with attacked(batch.system), torch.no_grad():
        here, pairs, jump = ask(batch, fixed, points), [], torch.zeros_like(points[:, 0, 0, 0])
        for number in range(_DIRECTIONS + 1):
            direction = _direction(batch, slope, number) * inside
            above, below = (ask(batch, fixed, points + sign * size * direction) for sign in (1, -1))
            pairs.append(((slope * direction).sum(dim=(1, 2, 3)), (above - below) / (2 * size)))
            jump = torch.maximum(jump, ((above + below) / 2 - here).abs() - (above - below).abs())
    noise = _NOISE * torch.finfo(points.dtype).eps * scale / size
    found = torch.where(jump > _JUMP * scale, 1.0, torch.maximum(_error(pairs[:1], noise), _error(pairs[1:], noise)))
    return found.nan_to_num(1.0)  # of infinite margins


def _direction(batch: AttackBatch, slope: Tensor, number: int) -> Tensor:
    """The sign of the gradient, then random signs."""
    if number == 0:
        return slope.sign()
    drawn = random_integers(derive_seeds(batch.seeds, STREAM, number), tuple(slope.shape[1:]))
    return (drawn % 2 * 2 - 1).to(slope.dtype)


def _error(pairs: list[tuple[Tensor, Tensor]], noise: float) -> Tensor:
    predicted, measured = (torch.stack(values).double() for values in zip(*pairs, strict=True))
    difference, one, other = (torch.linalg.vector_norm(values, dim=0) for values in (predicted - measured, predicted, measured))
    return torch.where(difference <= noise * math.sqrt(len(pairs)), 0.0, difference / (one + other).clamp_min(1e-300)).float()


@torch.no_grad()
def _masks(batch: AttackBatch, points: Tensor) -> Tensor:
    with attacked(batch.system):
        return batch.system.masks(points, batch.context)
