"""What gives false robustness away: diagnostics of a system, each with a verdict and what to do about it.

After Athalye, Carlini and Wagner 2018 (https://arxiv.org/abs/1802.00420) and Carlini et al. 2019
(https://arxiv.org/abs/1902.06705), with what a mask adds to it. Passing is no proof of robustness; failing means that a robust
accuracy measured by gradients may be too high.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from classifier.losses import cross_entropy
from pipeline.attacks.objectives import Score, margin
from pipeline.attacks.pgd import pgd_l2, pgd_linf
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import BestPoint, verdict
from pipeline.attacks.two_stage import SystemObjective
from pipeline.randomness import derive_seeds
from pipeline.system import attacked, traits_of

NUM_STEPS = 40
_FEW = 0.05  # share of the images that may be blind, or still fall late, by accident
_MOST = 0.5  # share of values that may be without a gradient
_STEPS_SHOWN = (1, 5, 10, 20, NUM_STEPS)
_ROUNDING = 1e-4  # of the largest logit
_STREAM = 0x53_41_4E  # keeps the draws apart from those of the attacks that are checked


class Outcome(StrEnum):
    """Of a check."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"
    """It says nothing about this system."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the sanity report."""

    name: str
    outcome: Outcome
    finding: str
    """What was seen, with its figures; for SKIP the reason."""
    advice: str = ""
    """What to do where it failed."""
    figures: dict[str, float] = field(default_factory=dict)


def zero_gradients(batch: AttackBatch, path: GradientPath) -> Check:
    """Images that cross-entropy has no gradient for along one path. Along the pixel path, also the values without one where
    the mask lets the image through."""
    name = f"zero gradients, {'pixel' if path == GradientPath.PIXELS else 'mask'} path"
    traits = traits_of(batch.system)
    if path == GradientPath.MASK and not traits.is_attackable:
        return _skip(name, traits.why_fixed)
    objective = _objective(batch, score=cross_entropy, path=path if traits.is_attackable else GradientPath.BOTH)
    gradients = _gradients(objective, batch.images)
    zero = (gradients == 0) | ~gradients.isfinite()
    blind = _share(zero.flatten(1).all(dim=1))
    figures = {"blind_images": blind}
    failed = blind > _FEW
    finding = f"{blind:.1%} of the images have none at all"
    if path == GradientPath.PIXELS:
        with torch.no_grad(), attacked(batch.system):
            visible = (batch.system.masks(batch.images, batch.context) > 0).expand_as(zero)
        figures["zero_values"] = _share(zero[visible])
        finding += f"; {figures['zero_values']:.1%} of the visible values"
        failed = failed or figures["zero_values"] > _MOST
    if path == GradientPath.PIXELS:
        advice = "cross-entropy is blind here (logits too large?): trust attacks on the margin and those without gradients"
    else:
        advice = "give the gate a surrogate gradient (masking.hard_gate), and trust attacks on the mask's logits meanwhile"
    return _judged(name, failed, finding, advice, figures)


def mask_saturation(batch: AttackBatch) -> Check:
    """Mask values so near 0 or 1 that a soft gate passes no gradient at all."""
    name, traits = "mask saturation", batch.system.mask_traits
    if traits.hard_threshold is not None:
        return _skip(name, "a hard gate is always saturated; its gradient is a surrogate")
    if not traits.follows_image:
        return _skip(name, traits.why_fixed)
    with torch.no_grad(), attacked(batch.system):
        masks = batch.system.masks(batch.images, batch.context)
    slopes = masks * (1 - masks)
    figures = {"saturated": _share(slopes == 0), "nearly_saturated": _share(slopes < 1e-6)}
    finding = f"{figures['saturated']:.1%} of the mask is exactly 0 or 1, {figures['nearly_saturated']:.1%} within a millionth"
    advice = "attack the mask's logits, which do not saturate (attacks of kind mask and guided), and see what learned-hard says"
    return _judged(name, figures["saturated"] > _MOST, finding, advice, figures)


def loss_against_steps(batch: AttackBatch, *, norm: Norm, epsilon: float) -> Check:
    """The margin that descent reaches after more and more steps: it has to rise on every image, and to have levelled off."""
    name = "loss against steps"
    history = _History(_objective(batch, score=margin))
    _climb(history, batch, norm=norm, epsilon=epsilon)
    reached = torch.stack(history.margins).cummax(dim=0).values  # the clean image, then one row for each step
    stuck = _share(reached[-1] <= reached[0])
    robust = {steps: 1 - _share(reached[steps] > 0) for steps in _STEPS_SHOWN}
    late = robust[NUM_STEPS // 2] - robust[NUM_STEPS]
    figures = {"stuck": stuck} | {f"robust_after_{steps}": share for steps, share in robust.items()}
    shown = ", ".join(f"{share:.0%} after {steps}" for steps, share in robust.items())
    finding = f"robust at epsilon {epsilon:.4g}: {shown} steps; no rise on {stuck:.1%} of the images"
    advice = "raise num_steps and restarts until the figure no longer falls; where it does not rise, the gradients lead nowhere"
    return _judged(name, stuck > _FEW or late > _FEW, finding, advice, figures)


def epsilon_zero(batch: AttackBatch, *, norm: Norm) -> Check:
    """An attack that may change nothing has to change nothing."""
    points = _climb(_objective(batch, score=margin), batch, norm=norm, epsilon=0.0)
    changed = _share((points != batch.images).flatten(1).any(dim=1))
    wrong = _share(_misclassified(batch, points))
    figures = {"changed": changed, "misclassified": wrong}
    advice = "the attack leaves its ball, or the system does not repeat itself: no figure of this run can be trusted"
    return _judged(
        "epsilon 0",
        changed > 0 or wrong > 0,
        f"{changed:.1%} of the images changed, {wrong:.1%} are misclassified",
        advice,
        figures,
    )


def epsilon_one(batch: AttackBatch, *, norm: Norm, region_everywhere: bool) -> Check:
    """An attack that may change everything has to fell everything that the classifier sees anything of."""
    name = "epsilon 1"
    if not region_everywhere:
        return _skip(name, "the region keeps the attack from changing everything")
    visible = _visible(batch)
    if not bool(visible.any()):
        return _skip(name, "no image lets the classifier see a pixel")
    batch = batch.select(visible.nonzero().flatten())
    epsilon = 1.0 if norm == "linf" else float(batch.images[0].numel()) ** 0.5
    objective = _objective(batch, score=margin)
    wrong = _misclassified(batch, _climb(objective, batch, norm=norm, epsilon=epsilon))
    wrong |= _misclassified(batch, _climb(objective, batch, norm=norm, epsilon=epsilon, start=_of_another_class(batch)))
    robust = 1 - _share(wrong)
    figures = {"robust": robust, "invisible": 1 - _share(visible)}
    advice = "gradients do not lead to points that exist (masked gradients, randomness): the figures at small epsilons are too high"
    return _judged(
        name, robust > 0, f"{robust:.1%} of the images are classified right where every image is in the ball", advice, figures
    )


@torch.no_grad()
def batch_invariance(batch: AttackBatch) -> Check:
    """The same image has to get the same logits at every call and in every batch."""
    with attacked(batch.system):
        together = batch.system(batch.images, batch.context)
        again = batch.system(batch.images, batch.context)
        alone = torch.cat([_logits(batch, row) for row in torch.split(torch.arange(len(together), device=together.device), 1)])
        backwards = _logits(batch, torch.arange(len(together), device=together.device).flip(0)).flip(0)
    scale = together.abs().max().clamp_min(1)
    figures = {
        "repeated": float((again - together).abs().max() / scale),
        "alone": float((alone - together).abs().max() / scale),
        "reordered": float((backwards - together).abs().max() / scale),
    }
    finding = "largest change of a logit, relative: " + ", ".join(f"{what} {change:.1e}" for what, change in figures.items())
    advice = "make masks and fills functions of the image's own seed, keep batch statistics out, or attack the expectation"
    return _judged("batch invariance", max(figures.values()) > _ROUNDING, finding, advice, figures)


def soft_to_hard_transfer(batch: AttackBatch, *, norm: Norm, epsilon: float) -> Check:
    """Against a hard gate, points found through a soft one may not fell more than points found through its own surrogate."""
    name, traits = "soft-to-hard transfer", traits_of(batch.system)
    if traits.hard_threshold is None or not traits.is_attackable:
        return _skip(name, f"the source {traits.source} has no hard gate that an attack could replace")
    own = _misclassified(batch, _climb(_objective(batch, score=margin), batch, norm=norm, epsilon=epsilon))
    soft_objective = replace(_objective(batch, score=margin), soft=True)
    soft = _misclassified(batch, _climb(soft_objective, batch, norm=norm, epsilon=epsilon))
    figures = {"own_gate": _share(own), "soft_gate": _share(soft), "soft_gate_alone": _share(soft & ~own)}
    shares = f"{figures['own_gate']:.1%} by its own surrogate, {figures['soft_gate']:.1%} through a soft gate"
    finding = f"misclassified at epsilon {epsilon:.4g}: {shares}"
    advice = "the surrogate hides gradients: keep an attack with gate=soft in the suite, and try the other surrogate"
    return _judged(name, figures["soft_gate"] - figures["own_gate"] > _FEW, finding, advice, figures)


class _History:
    """The objective, with the margins of every point that it is asked about."""

    def __init__(self, objective: SystemObjective) -> None:
        self._objective = objective
        self.margins: list[Tensor] = []

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch"]:
        scores, margins = self._objective.scores_and_margins(images)
        self.margins.append(margins)
        return scores

    def select(self, indices: Tensor) -> "_History":
        return _History(self._objective.select(indices))


def _objective(batch: AttackBatch, *, score: Score, path: GradientPath = GradientPath.BOTH) -> SystemObjective:
    return SystemObjective(system=batch.system, labels=batch.labels, context=batch.context, class_score=score, path=path)


def _climb(
    objective: SystemObjective | _History, batch: AttackBatch, *, norm: Norm, epsilon: float, start: Tensor | None = None
) -> Tensor:
    """The point with the largest margin of one start, or with a history the best-scored one."""
    search = pgd_linf if norm == "linf" else pgd_l2
    best = BestPoint(batch.images)
    tracked = objective if isinstance(objective, _History) else best.track(objective)
    seeds = derive_seeds(batch.seeds, _STREAM)
    step = max(epsilon / 4, 1e-6)  # across the ball in 8 steps, so that the later ones show whether it has levelled off
    with attacked(batch.system):
        found = search(tracked, batch.images, epsilon=epsilon, step_size=step, num_steps=NUM_STEPS, start=start, seeds=seeds)
    return found if isinstance(objective, _History) else best.points


def _gradients(objective: SystemObjective, images: Tensor) -> Tensor:
    """Gradients of the score; zero where the graph is cut."""
    with attacked(objective.system), torch.enable_grad():
        leaf = images.detach().requires_grad_()
        scores = objective(leaf)
        found = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    return torch.zeros_like(images) if found is None else found


def _logits(batch: AttackBatch, rows: Tensor) -> Tensor:
    context = None if batch.context is None else batch.context.select(rows)
    logits: Tensor = batch.system(batch.images[rows], context)
    return logits


def _misclassified(batch: AttackBatch, points: Tensor) -> Bool[Tensor, " batch"]:
    return verdict(batch.system, points, batch.labels, batch.context).misclassified


@torch.no_grad()
def _visible(batch: AttackBatch) -> Tensor:
    """Images of which an attack could change something that the classifier sees."""
    traits = batch.system.mask_traits
    if traits.follows_image or not traits.hides_pixels:
        return torch.ones_like(batch.labels, dtype=torch.bool)
    with attacked(batch.system):
        masks = batch.system.masks(batch.images, batch.context)
    return masks.flatten(1).amax(dim=1) > 0


def _of_another_class(batch: AttackBatch) -> Tensor:
    """For each image the next one in the batch that has another label, else the image itself."""
    order = torch.arange(len(batch.labels), device=batch.labels.device)
    other = batch.labels[:, None] != batch.labels[None, :]
    distance = (order[None, :] - order[:, None]) % len(order)
    nearest = torch.where(other, distance, len(order)).argmin(dim=1)
    return batch.images[nearest]


def _share(claims: Tensor) -> float:
    return float(claims.double().mean()) if claims.numel() else 0.0


def _skip(name: str, reason: str) -> Check:
    return Check(name=name, outcome=Outcome.SKIP, finding=reason)


def _judged(name: str, failed: bool, finding: str, advice: str, figures: dict[str, float]) -> Check:
    outcome = Outcome.FAIL if failed else Outcome.PASS
    return Check(name=name, outcome=outcome, finding=finding, advice=advice if failed else "", figures=figures)
