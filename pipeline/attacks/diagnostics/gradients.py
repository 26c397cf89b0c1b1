"""Are the gradients there, and do they say what the function does?"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from classifier.losses import cross_entropy
from pipeline.attacks.diagnostics.check import Check, judged, share, skipped
from pipeline.attacks.diagnostics.probing import STREAM, Budget, Places, gradients, in_float64, logits_of, objective, scale_of
from pipeline.attacks.norms import widest
from pipeline.attacks.objectives import margin
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
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
_FLAT = 1e-6  # of a gate's steepest slope, where float32 has nothing left of the sigmoid
_GRID = 2001
_DIGITS = 1e-4  # of the largest of the two likeliest logits: float32 keeps seven digits, and a decision needs some of them


def finite_numbers(batch: AttackBatch, places: Places, ids: Sequence[str]) -> Check:
    """No logit and no gradient may be infinite or not a number, and logits may not be so large that their differences are rounded
    away. ``places`` gives the ``probe_points`` of the batch; ``ids`` name the images."""
    logits = logits_of(batch)
    unfit = (logits.isnan() | logits.isposinf()).any(dim=1)
    if not bool(unfit.any()):
        for points in places().values():
            answers = logits_of(batch, points)
            unfit |= (answers.isnan() | answers.isposinf()).any(dim=1)
            unfit |= ~gradients(objective(batch), points).isfinite().flatten(1).all(dim=1)
    named = ", ".join(ids[row] for row in unfit.nonzero().flatten().tolist())
    digits = scale_of(batch) / max(float(logits.topk(2, dim=1).values.abs().max()), 1e-300)
    figures = {"unfit": share(unfit), "digits": digits}
    finding = f"infinite or not a number: {named or 'none'}; the likeliest classes differ by {digits:.1e} of the largest logit"
    advice = "a search that meets NaN is blind: mend the system; and keep constants out of the logits"
    return judged("finite numbers", bool(unfit.any()) or not digits > _DIGITS, finding, advice, figures)


def zero_gradients(batch: AttackBatch, path: GradientPath, places: Places) -> Check:
    """Images that the margin has no gradient for along one path: as they are, in their balls, or at the decision boundary.

    Along the pixel path, also the values without one where the mask lets the image through. That cross-entropy is blind where a
    classifier is too sure is said and is no failure by itself: suites climb the margin too.
    """
    name = f"zero gradients, {'pixel' if path == GradientPath.PIXELS else 'mask'} path"
    traits = traits_of(batch.system)
    if path == GradientPath.MASK and not traits.is_attackable:
        return skipped(name, traits.why_fixed)
    used = path if traits.is_attackable else GradientPath.BOTH
    blind, zero_values, where = 0.0, 0.0, "clean"
    for place, points in places().items():
        found = gradients(objective(batch, path=used), points)
        zero = (found == 0) | ~found.isfinite()
        visible = _visible(batch, points, path).expand_as(zero)
        # An empty mask shows nothing that could move.
        lost = zero.flatten(1).all(dim=1) & visible.flatten(1).any(dim=1)
        nothing = share(lost | ~found.isfinite().flatten(1).all(dim=1))
        if nothing > blind:
            blind, where = nothing, place
        zero_values = max(zero_values, share(zero[visible]))
    figures = {"blind_images": blind}
    finding = f"{blind:.1%} of the images have none at all or not a number{f' ({where})' if blind else ''}"
    if path == GradientPath.PIXELS:
        sure = gradients(objective(batch, score=cross_entropy, path=used), batch.images)
        figures |= {"zero_values": zero_values, "blind_to_cross_entropy": share((sure == 0).flatten(1).all(dim=1))}
        finding += f"; {zero_values:.1%} of the visible values; cross-entropy is blind on {figures['blind_to_cross_entropy']:.1%}"
        advice = "no attack by gradients says anything here: find what cuts them, and trust attacks without gradients alone"
    else:
        advice = "give the gate a surrogate gradient (masking.hard_gate), and trust attacks on the mask's logits meanwhile"
    failed = blind > FEW or (path == GradientPath.PIXELS and zero_values > MOST)
    return judged(name, failed, finding, advice, figures)


def _visible(batch: AttackBatch, points: Tensor, path: GradientPath) -> Tensor:
    """Pixels that the classifier sees; along the mask path all of them, for the mask may let in what it hid."""
    if path == GradientPath.MASK or not batch.system.mask_traits.hides_pixels:
        return torch.ones_like(points[:, :1], dtype=torch.bool)
    return _masks(batch, points) > 0


def gradients_against_differences(batch: AttackBatch, places: Places) -> Check:
    """The margin's gradient has to predict how the margin changes: along its own sign and along random signs, by the image and
    where the mask can be attacked by the mask alone.

    Where the gate is hard its gradient is a surrogate by design, so the mask is held fixed for the one and made by a sigmoid for
    the other. One image may be somewhat out of line whatever their number: it may lie on the kink of a ReLU.
    """
    name = "gradients against differences"
    traits = traits_of(batch.system)
    held = traits.follows_image and traits.hard_threshold is not None
    if held and not isinstance(batch.system, StagedSystem):
        return skipped(name, f"the hard gate of the source {traits.source} cannot be held fixed")
    scale = scale_of(batch)
    worst, where = torch.zeros(len(batch), device=batch.images.device), dict.fromkeys(range(len(batch)), "clean")
    for place, points in places().items():
        asked: dict[str, tuple[_Ask, Tensor | None]] = {place: (_margins, _masks(batch, points) if held else None)}
        if traits.is_attackable:
            asked[f"{place}, by the mask"] = (_margins_by_mask, points)
        for way, (ask, fixed) in asked.items():
            found = _least_disagreement(batch, ask, fixed, points, scale)
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
        here, slope = _margins_and_slope(batch, _margins, masks, batch.images)
        moved = budget.ball(batch.images).move(batch.images, slope, batch.images.new_full((1, 1, 1, 1), step))
        room = moved.clamp(0, 1) - batch.images
        with torch.no_grad():
            risen = _margins(batch, masks, batch.images + room) - here
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
    masks = batch.system.gate(logits) if batch.system.mask_traits.hard_threshold is None else logits.sigmoid()
    return margin(batch.system.classify(pixels, masks, batch.context), batch.labels)


def _margins_and_slope(batch: AttackBatch, ask: _Ask, fixed: Tensor | None, points: Tensor) -> tuple[Tensor, Tensor]:
    """The margins and their gradients, zero where they are cut or NaN."""
    with attacked(batch.system), torch.enable_grad():
        leaf = points.detach().requires_grad_()
        scores = ask(batch, fixed, leaf)
        slope = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    return scores.detach(), torch.zeros_like(points) if slope is None else slope.nan_to_num(0, 0, 0)


def _least_disagreement(batch: AttackBatch, ask: _Ask, fixed: Tensor | None, points: Tensor, scale: float) -> Tensor:
    """At the better of two steps. What is in doubt there is measured once more by a step so small that it takes float64: networks
    of many kinks (ReLU6) bend within a larger one. A wrong gradient stays wrong, and a jump is in no doubt."""
    slope = _margins_and_slope(batch, ask, fixed, points)[1]
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
    return torch.where(jump > _JUMP * scale, 1.0, torch.maximum(_error(pairs[:1], noise), _error(pairs[1:], noise)))


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


def mask_saturation(batch: AttackBatch) -> Check:
    """Mask values at which a gate is flat: its slope there, relative to the steepest in the range of the mask's logits; of a hard
    gate that of its surrogate. Nowhere may it fall: more foreground in the logits is more in the mask."""
    name, system, traits = "mask saturation", batch.system, traits_of(batch.system)
    if not traits.follows_image:
        return skipped(name, traits.why_fixed)
    if isinstance(system, StagedSystem):
        slopes = _relative_slopes(system, batch.images)
    elif traits.hard_threshold is not None:
        return skipped(name, "a hard mask is always saturated, and the system does not show its gate")
    else:  # of a foreign mask there are values alone: those of a sigmoid are as flat as they are near 0 and 1
        masks = _masks(batch, batch.images)
        slopes = 4 * masks * (1 - masks)
    flat, falls = share(slopes <= _FLAT), share(slopes < 0)
    finding = f"at {flat:.1%} of the mask the gate is flat (below a millionth of its steepest slope); at {falls:.1%} it falls"
    advice = "attack the mask's logits, which do not saturate (attacks of kind mask and guided), and see what learned-hard says"
    return judged(name, flat > MOST or falls > FEW, finding, advice, {"saturated": flat, "falling": falls})


def _relative_slopes(system: StagedSystem, images: Tensor) -> Tensor:
    """Of the gate at the mask of the images, relative to its steepest."""
    with torch.no_grad(), attacked(system):
        logits = system.mask_logits(images)
    low, high = float(logits.min().clamp_max(-1e-6)), float(logits.max().clamp_min(1e-6))
    grid = torch.cat([torch.linspace(low, high, _GRID), torch.logspace(-6, 0, 61), -torch.logspace(-6, 0, 61)]).to(logits)
    steepest = _slopes(system, grid.view(1, 1, 1, -1)).max().clamp_min(torch.finfo(logits.dtype).tiny)
    return _slopes(system, logits) / steepest


def _slopes(system: StagedSystem, logits: Tensor) -> Tensor:
    """Of the gate: the derivative of the mask by its logits; zero where the gate passes none."""
    with attacked(system), torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        masks = system.gate(leaf)
        found = torch.autograd.grad(masks.sum(), leaf, allow_unused=True)[0] if masks.requires_grad else None
    return torch.zeros_like(logits) if found is None else found
