"""Do the gradients say what the function does?"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from classifier.losses import cross_entropy
from pipeline.attacks.diagnostics.check import Check, judged, share, skipped
from pipeline.attacks.diagnostics.gradients import FEW
from pipeline.attacks.diagnostics.probing import (
    CLEAN,
    DIGITS,
    STREAM,
    Budget,
    Places,
    finite,
    floored,
    gradients,
    in_float64,
    logits_of,
    masks_of,
    objective,
    scale_of,
)
from pipeline.attacks.norms import widest
from pipeline.attacks.objectives import Score, margin
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.two_stage import soft_masks
from pipeline.randomness import derive_seeds, random_integers
from pipeline.system import StagedSystem, System, attacked, traits_of

_DISAGREEMENT = 0.2  # 0 is a perfect prediction, 1 one of the opposite, or of a change where there is none
_KINK = 0.5
_LESS = 2 / 3
_REACH = 0.5  # of the promised rise of the margin
_SHORT = 0.25  # share of the images that may keep less: a margin has kinks
_SUDDEN = 1 / 3  # of the change in ten times the step
_DIRECTIONS = 8
_STEPS = (3e-3, 3e-4)  # in [0,1]: at the better of the two neither curvature nor rounding hides an honest gradient
_FINE_STEP = 3e-5
_ADDED_UP = 1e-2
_NOISE, _JUMP = 84, 0.02  # of the scale of the logits: what rounding may do to a margin, in epsilons of the type (1e-5 in float32),
# and what a step may not


def gradients_against_differences(batch: AttackBatch, places: Places) -> Check:
    """The margin's gradient has to predict how the margin changes: along its own sign and along random signs, by the image and
    where the mask can be attacked by the mask alone. It is the gradient that attacks climb, of a system of stages the one that
    comes through them; the change is that of the system. And the gradients of several losses have to add up to that of their sum:
    what is true for one may be false for another, and nobody knows which a suite climbs.

    Where the gate is hard its gradient is a surrogate by design, so the mask is held fixed for the one and made by a sigmoid for
    the other, and both paths together have to give the sum of each alone. One image may be somewhat out of line whatever their
    number: it may lie on the kink of a ReLU.
    """
    name = "gradients against differences"
    traits = traits_of(batch.system)
    held = traits.follows_image and traits.hard_threshold is not None
    if held and not _can_be_held(batch):
        finding = (
            f"whether the gradients are true cannot be told: the hard gate of the source {traits.source} has a surrogate's, and"
        )
        finding += " the mask cannot be held fixed to look at the others"
        advice = "let forward take its mask from self.masks(images, context), or show the stages (system.StagedSystem)"
        return judged(name, True, finding, advice, {})
    scale = scale_of(batch)
    worst, where = torch.zeros(len(batch), device=batch.images.device), dict.fromkeys(range(len(batch)), CLEAN)
    sudden = torch.zeros_like(worst, dtype=torch.bool)
    for place, points in places().items():
        asked: dict[str, tuple[_Ask, Tensor | None, GradientPath]] = {place: (_logits, None, GradientPath.BOTH)}
        if held:
            asked = {place: (_logits, masks_of(batch, points), GradientPath.PIXELS)}
        if traits.is_attackable:
            asked[f"{place}, by the mask"] = (_logits_by_mask, points, GradientPath.MASK)
        disagreeing: dict[str, Tensor] = {}
        for way, (ask, fixed, path) in asked.items():
            slope = _slope(batch, path, points, fixed)
            disagreeing[way], jumps = _least_disagreement(batch, ask, fixed, points, slope, scale)
            sudden |= jumps & (disagreeing[way] > _DISAGREEMENT)
        disagreeing[f"{place}, of several losses"] = _losses_disagree(batch, points, scale)
        if held and traits.is_attackable:
            paths = (GradientPath.BOTH, GradientPath.PIXELS, GradientPath.MASK)
            of_paths = (finite(gradients(objective(batch, path=path), points)) for path in paths)
            disagreeing[f"{place}, by both at once"] = _excess(*of_paths)  # 0 where the one is the sum of those through each alone
        for way, found in disagreeing.items():
            where |= dict.fromkeys((found > worst).nonzero().flatten().tolist(), way)
            worst = torch.maximum(worst, found)
    wrong = (worst > _DISAGREEMENT).nonzero().flatten().tolist()
    figures = {"disagreeing": len(wrong) / max(1, len(batch)), "largest": float(worst.max())}
    figures["sudden"] = int(sudden[wrong].sum())
    found_at = ", ".join(sorted({where[row] for row in wrong}))
    finding = f"they disagree on {len(wrong)} of {len(batch)} images{f' ({found_at})' if found_at else ''}"
    finding += f"; on {figures['sudden']} of them the margin jumps" if figures["sudden"] else ""
    advice = "the gradients are not those of the function (a surrogate of what is hard or rounded, noise, clipping): no attack that"
    advice += " follows them is one; attack a soft twin too, and trust searches without gradients"
    if wrong and figures["sudden"] == len(wrong):
        advice = "something is chosen or rounded (a route, a box, a hard mask), and no gradient leads from one choice to the next:"
        advice += " a limit of these attacks, not a defence; attack a soft twin too, and trust searches without gradients"
    accidental = FEW * len(batch)
    if figures["largest"] <= _KINK:
        accidental = min(max(1, accidental), len(batch) - 1)
    return judged(name, len(wrong) > accidental, finding, advice, figures)


def gradients_reach(batch: AttackBatch, budget: Budget) -> Check:
    """A step of an eighth of the budget (at most 1/255 of every value) has to keep half of what the gradient promises.

    It fails where more than a quarter of the images keep less. A gradient may be that of the function to the last digit
    and hold for a thousandth of a step: then descent climbs ripples.
    """
    name, traits = "gradients reach", traits_of(batch.system)
    held = traits.follows_image and traits.hard_threshold is not None
    if held and not _can_be_held(batch):
        return skipped(name, f"the hard gate of the source {traits.source} cannot be held fixed")
    masks = masks_of(batch, batch.images) if held else None
    step = min(budget.epsilon / 8, widest(budget.norm, batch.images[0].numel()) / 255)
    slope = _slope(batch, GradientPath.PIXELS if held else GradientPath.BOTH, batch.images, masks)
    moved = budget.ball(batch.images).move(batch.images, slope, batch.images.new_full((1, 1, 1, 1), step))
    room = moved.clamp(0, 1) - batch.images
    with attacked(batch.system), torch.no_grad():
        before, after = (margin(_logits(batch, masks, at), batch.labels) for at in (batch.images, batch.images + room))
    risen, promised = after - before, (slope * room).sum(dim=(1, 2, 3))
    parts = (risen / promised.clamp_min(1e-30))[promised > 0]
    kept, short = (float(parts.median()), share(parts < _REACH)) if len(parts) else (1.0, 0.0)
    finding = f"a step of {step:.2g} along the gradient raises the margin by {kept:.0%} of what it promises (median)"
    finding += f"; by less than half on {short:.1%} of the images"
    advice = "the gradient holds at its point alone (ripples, noise fixed by the image): attack smoothed or without gradients"
    return judged(name, short > _SHORT, finding, advice, {"kept": kept, "short": short})


_Ask = Callable[[AttackBatch, Tensor | None, Tensor], Tensor]
"""Logits, of a system where something is held fixed, at some points."""


def _logits(batch: AttackBatch, masks: Tensor | None, at: Tensor) -> Tensor:
    """Of the system; with masks, of what it makes of these."""
    if masks is not None and isinstance(batch.system, StagedSystem):
        seen: Tensor = batch.system.classify(at, masks, batch.context)
        return seen
    with _mask_held(batch.system, masks):
        logits: Tensor = batch.system(at, batch.context)
    return logits


def _logits_by_mask(batch: AttackBatch, pixels: Tensor | None, at: Tensor) -> Tensor:
    """Of the pixels, seen through the mask of other ones; a hard one is made soft."""
    assert isinstance(batch.system, StagedSystem)
    assert pixels is not None
    logits = batch.system.mask_logits(at)
    hard = batch.system.mask_traits.hard_threshold is not None
    masks = soft_masks(batch.system, logits) if hard else batch.system.gate(logits)
    seen: Tensor = batch.system.classify(pixels, masks, batch.context)
    return seen


@contextmanager
def _mask_held(system: System, masks: Tensor | None) -> Iterator[None]:
    """The masks that a system gives are these, whatever it is shown; None changes nothing."""
    own, before = vars(system), dict(vars(system))
    try:
        if masks is not None:
            own["masks"] = lambda *_: masks
        yield
    finally:
        own.pop("masks", None)
        own |= {name: one for name, one in before.items() if name == "masks"}


def _can_be_held(batch: AttackBatch) -> bool:
    """The system shows its stages, or classifies through what ``masks`` gives: its own change nothing, and others every image."""
    if isinstance(batch.system, StagedSystem):
        return True
    masks, logits, scale = masks_of(batch, batch.images), logits_of(batch), scale_of(batch)
    with attacked(batch.system), torch.no_grad():
        same, others = ((_logits(batch, one, batch.images) - logits).abs().amax(dim=1) for one in (masks, 1 - masks))
    return bool((same <= DIGITS * scale).all() and (others > DIGITS * scale).all())


def _slope(batch: AttackBatch, path: GradientPath, points: Tensor, masks: Tensor | None, score: Score = margin) -> Tensor:
    """The gradient of a score that attacks climb, zero where it is cut or NaN; along the mask's own path that of a soft gate, of a
    system without stages that behind a mask that is held fixed."""
    soft = path == GradientPath.MASK and batch.system.mask_traits.hard_threshold is not None
    staged = isinstance(batch.system, StagedSystem)
    climbed = objective(batch, score=score, path=path if staged else GradientPath.BOTH)
    with _mask_held(batch.system, None if staged else masks):
        return finite(gradients(replace(climbed, soft=soft), points))


def _losses_disagree(batch: AttackBatch, points: Tensor, scale: float) -> Tensor:
    """1 for an image whose gradients of several losses do not add up to that of their sum, as derivatives do to the last digit:
    the margin, cross-entropy, and the margin to the second wrong class."""

    def to_second(logits: Tensor, labels: Tensor) -> Tensor:
        wrong = floored(logits, scale).scatter(1, labels[:, None], -torch.inf)
        own = logits.gather(1, labels[:, None])[:, 0]
        return wrong.topk(min(2, wrong.shape[1] - 1), dim=1).values[:, -1] - own

    def softly(logits: Tensor, labels: Tensor) -> Tensor:
        return scale * cross_entropy(floored(logits, scale) / scale, labels)

    def together(logits: Tensor, labels: Tensor) -> Tensor:
        return margin(logits, labels) + softly(logits, labels) + to_second(logits, labels)

    slopes = [_slope(batch, GradientPath.BOTH, points, None, score) for score in (together, margin, softly, to_second)]
    return (_excess(*slopes) > _ADDED_UP).float()


def _excess(whole: Tensor, *parts: Tensor) -> Tensor:
    """By how much gradients are more or less than the sum of their parts, per image, relative to all lengths."""
    one, *others = (gradient.double().flatten(1) for gradient in (whole, *parts))
    lengths = torch.stack([gradient.norm(dim=1) for gradient in (one, *others)]).sum(dim=0)
    apart: Tensor = (one - torch.stack(others).sum(dim=0)).norm(dim=1) / lengths.clamp_min(1e-300)
    return apart.float()


def _least_disagreement(
    batch: AttackBatch, ask: _Ask, fixed: Tensor | None, points: Tensor, slope: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """At the better of two steps, and where the smaller one changes the margin by hardly less than the larger: it jumps between.
    What is in doubt there, or disagrees clearly less by the smaller step, is measured once more by a step so small that it takes
    float64: networks of many kinks (ReLU6, hard swish) bend within a larger one. A wrong gradient stays wrong, and a jump is in no
    doubt."""
    both, changes = zip(*(_disagreement(batch, ask, fixed, points, slope, size, scale) for size in _STEPS), strict=True)
    found, jumps = torch.minimum(*both), changes[1] > _SUDDEN * changes[0]
    in_doubt = (found <= _KINK) | (both[1] < _LESS * both[0])
    rows = ((found > _DISAGREEMENT) & in_doubt).nonzero().flatten()
    with suppress(Exception):  # of somebody else's code: it may know one type alone
        if len(rows):
            held = None if fixed is None else fixed[rows].double()
            exact, at, way = in_float64(batch.select(rows)), points[rows].double(), slope[rows].double()
            found[rows] = torch.minimum(found[rows], _disagreement(exact, ask, held, at, way, _FINE_STEP, scale)[0])
    return found, jumps


def _disagreement(
    batch: AttackBatch, ask: _Ask, fixed: Tensor | None, points: Tensor, slope: Tensor, size: float, scale: float
) -> tuple[Tensor, Tensor]:
    """Of predicted and measured changes of the margin, per image: |difference| / (|one| + |other|), 0 where both are rounding;
    and how far the margin changes in random directions.

    1 where the margin jumps: an image that is answered otherwise than all its neighbors.
    """

    def margins(at: Tensor) -> Tensor:
        return margin(ask(batch, fixed, at), batch.labels)

    inside = (points >= size) & (points <= 1 - size)  # where a model that clamps its images is smooth
    with attacked(batch.system), torch.no_grad():
        here, pairs, jump = margins(points), [], torch.zeros_like(points[:, 0, 0, 0])
        for number in range(_DIRECTIONS + 1):
            direction = _direction(batch, slope, number) * inside
            above, below = (margins(points + sign * size * direction) for sign in (1, -1))
            pairs.append(((slope * direction).sum(dim=(1, 2, 3)), (above - below) / (2 * size)))
            jump = torch.maximum(jump, ((above + below) / 2 - here).abs() - (above - below).abs())
    noise = _NOISE * torch.finfo(points.dtype).eps * scale / size
    found = torch.where(jump > _JUMP * scale, 1.0, torch.maximum(_error(pairs[:1], noise), _error(pairs[1:], noise)))
    changes = 2 * size * torch.stack([measured for _, measured in pairs[1:]]).norm(dim=0)
    return found.nan_to_num(1.0), changes  # of infinite margins


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
