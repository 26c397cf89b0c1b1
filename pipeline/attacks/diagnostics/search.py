"""Does the search get anywhere: with its steps, at epsilon 0 and 1, through another gate, along smoothed gradients?"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from pipeline.attacks.diagnostics.check import Check, judged, share, skipped
from pipeline.attacks.diagnostics.gradients import FEW
from pipeline.attacks.diagnostics.probing import (
    NUM_STEPS,
    STREAM,
    Budget,
    Images,
    climb,
    logits_of,
    masks_of,
    misclassified,
    objective,
    of_another_class,
    scale_of,
)
from pipeline.attacks.norms import widest
from pipeline.attacks.objectives import margin
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import verdict
from pipeline.attacks.two_stage import SystemObjective
from pipeline.randomness import derive_seeds
from pipeline.system import traits_of

_STILL_FALLING = 0.005
"""Share of the images that may fall in the last quarter of the steps: half a point."""
_SMOOTH_STEPS, _DRAWS, _STORED_STEPS = 10, 8, 20
_AHEAD = 0.25
"""Share of the images on which smoothed gradients may lead further than those at a point."""
_FURTHER = 1.5  # times the rise of the margin
_ROUNDING = 1e-3  # of the scale of the logits


def loss_against_steps(batch: AttackBatch, budget: Budget, *, num_steps: int = NUM_STEPS) -> Check:
    """The margin that descent reaches after more and more steps: it has to rise on every image, and to have levelled off.

    Only images count of which an attack may change something that is seen. It has levelled off where at most half a point of the
    images falls in the last quarter of the steps, as far as so few images can tell (exact 95 % interval of the share).
    ``num_steps`` should be those of the suite whose figure is in question.
    """
    name = "loss against steps"
    visible = _visible(batch, budget.region)
    if not bool(visible.any()):
        return skipped(name, "no image lets the classifier see a pixel that an attack may change")
    rows = visible.nonzero().flatten()
    batch, budget = batch.select(rows), budget.select(rows)
    margins: list[Tensor] = []
    climb(objective(batch), batch, budget, num_steps=num_steps, observer=lambda _, seen: margins.append(seen))
    clean, *reached = torch.stack(margins).cummax(dim=0).values  # of the rest the random start, then one for each step
    stuck = share(reached[-1] <= clean)
    shown = sorted({1, num_steps // 4, num_steps // 2, num_steps * 3 // 4, num_steps} - {0})
    robust = {steps: 1 - share(reached[steps] > 0) for steps in shown}
    late = int(((reached[num_steps] > 0) & (reached[num_steps * 3 // 4] <= 0)).sum())
    least = float(binomtest(late, len(batch)).proportion_ci(method="exact").low)
    figures = {"stuck": stuck, "late": late / len(batch), "images": len(batch)}
    figures |= {f"robust_after_{steps}": part for steps, part in robust.items()}
    curve = ", ".join(f"{part:.1%} after {steps}" for steps, part in robust.items())
    finding = f"robust at {budget}: {curve} steps; {100 * late / len(batch):.1f} points in the last quarter"
    finding += f" (n={len(batch)}); no rise on {stuck:.1%} of the images"
    advice = "raise num_steps and restarts until the figure no longer falls; where it does not rise, the gradients lead nowhere"
    return judged(name, stuck > FEW or least > _STILL_FALLING, finding, advice, figures)


def search_against_verdict(batch: AttackBatch, budget: Budget) -> Check:
    """The margins that a search saw have to be those that its points get when they are scored by themselves."""
    best = climb(objective(batch), batch, budget, num_steps=_SMOOTH_STEPS)
    afresh = verdict(batch.system, best.points, batch.labels, batch.context).margins
    moved = float((best.values - afresh).abs().max()) / scale_of(batch)
    finding = f"largest difference of a margin in the search and afresh, relative: {moved:.1e}"
    advice = "the system tells who asks: what a search is shown is not what its points are judged by"
    return judged("search against verdict", not moved <= _ROUNDING, finding, advice, {"moved": moved})


def epsilon_zero(batch: AttackBatch, *, norm: Norm) -> Check:
    """An attack that may change nothing has to change nothing."""
    points = climb(objective(batch), batch, Budget(norm=norm, epsilon=0.0), num_steps=3).points
    changed = share((points != batch.images).flatten(1).any(dim=1))
    wrong = share(misclassified(batch, points))
    figures = {"changed": changed, "misclassified": wrong}
    advice = "the attack leaves its ball, or the system does not repeat itself: no figure of this run can be trusted"
    finding = f"{changed:.1%} of the images changed, {wrong:.1%} are misclassified"
    return judged("epsilon 0", changed > 0 or wrong > 0, finding, advice, figures)


def epsilon_one(batch: AttackBatch, *, norm: Norm, region_everywhere: bool) -> Check:
    """An attack that may change everything has to fell everything that the classifier sees anything of."""
    name = "epsilon 1"
    if not region_everywhere:
        return skipped(name, "the region keeps the attack from changing everything")
    visible = _visible(batch)
    if not bool(visible.any()):
        return skipped(name, "no image lets the classifier see a pixel")
    batch = batch.select(visible.nonzero().flatten())
    budget = Budget(norm=norm, epsilon=widest(norm, batch.images[0].numel()))
    wrong = misclassified(batch, climb(objective(batch), batch, budget).points)
    wrong |= misclassified(batch, climb(objective(batch), batch, budget, start=of_another_class(batch)).points)
    robust = 1 - share(wrong)
    figures = {"robust": robust, "invisible": 1 - share(visible)}
    advice = "gradients do not lead to points that exist (masked gradients, randomness): the figures at small epsilons are too high"
    finding = f"{robust:.1%} of the images are classified right where every image is in the ball"
    return judged(name, robust > 0, finding, advice, figures)


def soft_to_hard_transfer(batch: AttackBatch, budget: Budget) -> Check:
    """Against a hard gate, points found through a soft one may not fell more than points found through its own surrogate."""
    name, traits = "soft-to-hard transfer", traits_of(batch.system)
    if traits.hard_threshold is None or not traits.is_attackable:
        return skipped(name, f"the source {traits.source} has no hard gate that an attack could replace")
    own = misclassified(batch, climb(objective(batch), batch, budget).points)
    soft = misclassified(batch, climb(replace(objective(batch), soft=True), batch, budget).points)
    figures = {"own_gate": share(own), "soft_gate": share(soft), "soft_gate_alone": share(soft & ~own)}
    shares = f"{figures['own_gate']:.1%} by its own surrogate, {figures['soft_gate']:.1%} through a soft gate"
    finding = f"misclassified at {budget}: {shares}"
    advice = "the surrogate hides gradients: keep an attack with gate=soft in the suite, and try the other surrogate"
    return judged(name, figures["soft_gate"] - figures["own_gate"] > FEW, finding, advice, figures)


@dataclass(frozen=True, kw_only=True)
class _Smoothed:
    """The mean score over random points around each image, and the margin of the image itself: gradients that are shattered
    point by point have a direction in the mean (Athalye et al. 2018, section 5)."""

    climbed: SystemObjective
    batch: AttackBatch
    budget: Budget
    draw: list[int]
    """How many draws there were, so that each is another."""

    def __call__(self, images: Images) -> Float[Tensor, " batch"]:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Images) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Each draw is half the budget wide."""
        _, margins = self.climbed.scores_and_margins(images.detach())
        total = torch.zeros_like(margins)
        ball = replace(self.budget, epsilon=self.budget.epsilon / 2).ball(images.detach())
        for _ in range(_DRAWS):
            self.draw[0] += 1
            noise = ball.random_points(derive_seeds(self.batch.seeds, STREAM, self.draw[0])) - images.detach()
            total = total + self.climbed(images + noise)
        return total / _DRAWS, margins

    def select(self, indices: Tensor) -> "_Smoothed":
        return replace(
            self, climbed=self.climbed.select(indices), batch=self.batch.select(indices), budget=self.budget.select(indices)
        )


def smoothed_gradients(batch: AttackBatch, budget: Budget) -> tuple[Check, Images]:
    """The same descent along gradients that are averaged over the neighborhood may not lead further than that along gradients at
    the point. Also the points that it found."""
    plain = climb(objective(batch), batch, budget, num_steps=_SMOOTH_STEPS)
    smooth = climb(
        _Smoothed(climbed=objective(batch), batch=batch, budget=budget, draw=[0]), batch, budget, num_steps=_SMOOTH_STEPS
    )
    logits = logits_of(batch)
    rose, rose_smoothed = (best.values - margin(logits, batch.labels) for best in (plain, smooth))
    ahead = share(rose_smoothed > _FURTHER * rose.clamp_min(0) + _ROUNDING * scale_of(batch))
    finding = f"averaged over {_DRAWS} points around, gradients lead {_FURTHER:g} times as far on {ahead:.1%} of the images"
    advice = "gradients are shattered: they say nothing beyond their point. Attack the expectation, and trust the lower figure"
    return judged("smoothed gradients", ahead > _AHEAD, finding, advice, {"ahead": ahead}), smooth.points


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """The margin of what is left of the images when their changes are cut to whole steps of an image of 8 bits, with the gradient
    there: a system may know by the digits of an image that no file holds it."""

    climbed: SystemObjective
    clean: Images

    def __call__(self, images: Images) -> Float[Tensor, " batch"]:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Images) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        return self.climbed.scores_and_margins(images + (in_whole_steps(images, self.clean) - images).detach())

    def select(self, indices: Tensor) -> "_Stored":
        return replace(self, climbed=self.climbed.select(indices), clean=self.clean[indices])


def in_whole_steps(images: Images, clean: Images) -> Images:
    """The images with what was changed of the clean ones cut to multiples of 1/255, so that they stay in any ball."""
    return clean + (255 * (images - clean) * (1 + 1e-4)).trunc() / 255


def climb_in_whole_steps(batch: AttackBatch, budget: Budget) -> Images:
    """The points that a search among images of 8 bits finds."""
    climbed = _Stored(climbed=objective(batch), clean=batch.images)
    found = climb(climbed, batch, budget, num_steps=_STORED_STEPS).points
    return budget.ball(batch.images).project(in_whole_steps(found, batch.images))


def _visible(batch: AttackBatch, region: Tensor | None = None) -> Tensor:
    """Images of which an attack (on the region) could change something that the classifier sees."""
    traits, free = batch.system.mask_traits, torch.ones_like(batch.images[:, :1], dtype=torch.bool)
    free = free if region is None else region
    if traits.follows_image or not traits.hides_pixels:
        return free.flatten(1).any(dim=1)
    return ((masks_of(batch, batch.images) > 0) & free).flatten(1).any(dim=1)
