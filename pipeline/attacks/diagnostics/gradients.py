"""Are the gradients there?"""

from collections.abc import Sequence

import torch
from torch import Tensor

from classifier.losses import cross_entropy
from pipeline.attacks.diagnostics.check import Check, judged, share, skipped
from pipeline.attacks.diagnostics.probing import CLEAN, DIGITS, Places, finite, gradients, logits_of, masks_of, objective, scale_of
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import NotANumber
from pipeline.system import traits_of

FEW = 0.05
"""Share of the images that may be out of line by accident."""
MOST = 0.5
"""Share of values that may be without a gradient."""
_IDLE = 0.1
_FAINT = 1e-3  # of the gradient at the clean image


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
    return judged("finite numbers", bool(unfit.any()) or not digits > DIGITS, finding, advice, figures)


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
    """Of values that have no gradient those that play no part. In all images: where none gets other logits when they are moved by
    half of their range; what a system crops away or steps over hides nothing. In one: where its logits move by a tenth at most of
    what they do when all values are nudged; a median or a maximum reads one of many."""
    nowhere, logits, way = values.all(dim=0, keepdim=True), logits_of(batch, points), (1e4 * points).sin() / 255
    places = (torch.where(nowhere, (points + 0.5) % 1, points), points + values * way, points + way)
    moved, nudged, all_nudged = (finite(logits_of(batch, at) - logits).abs() for at in places)
    idle = (nudged.amax(dim=1) <= _IDLE * all_nudged.amax(dim=1)).view(-1, 1, 1, 1)
    return (nowhere & ~(moved > DIGITS * scale_of(batch)).any()) | (values & idle)


def _visible(batch: AttackBatch, points: Tensor, path: GradientPath) -> Tensor:
    """Pixels that the classifier sees; along the mask path all of them, for the mask may let in what it hid."""
    if path == GradientPath.MASK or not batch.system.mask_traits.hides_pixels:
        return torch.ones_like(points[:, :1], dtype=torch.bool)
    return masks_of(batch, points) > 0
