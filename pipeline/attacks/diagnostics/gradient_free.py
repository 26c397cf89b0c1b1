"""Searches that no gradient can mislead, beside one that follows gradients: Square asks for logits, HopSkipJump for decisions."""

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.attacks.autoattack import square
from pipeline.attacks.diagnostics.check import Check, Outcome, judged, share
from pipeline.attacks.diagnostics.probing import (
    STREAM,
    Budget,
    Images,
    climb,
    climb_to_targets,
    logits_of,
    misclassified,
    objective,
    scale_of,
)
from pipeline.attacks.hop_skip_jump import hop_skip_jump
from pipeline.attacks.objectives import margin
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import BestPoint
from pipeline.randomness import derive_seeds
from pipeline.system import attacked

_AHEAD = 0.1
"""Share of the images on which a search without gradients may lead further than one with."""
_FURTHER = 0.02  # of the scale of the logits


def square_points(batch: AttackBatch, budget: Budget, *, num_queries: int) -> Images:
    """Of all points that Square asks about, the one with the largest margin, for each image: also where it does not succeed."""
    best = BestPoint(batch.images)

    def watch(rows: Tensor, points: Tensor, logits: Tensor) -> None:
        best.update(points, margin(logits, batch.labels[rows]), rows)

    square(
        batch.system,
        batch.images,
        batch.labels,
        batch.context,
        norm=budget.norm,
        epsilon=budget.epsilon,
        seeds=derive_seeds(batch.seeds, STREAM),
        num_queries=num_queries,
        region=budget.region,
        watch=watch,
    )
    return budget.ball(batch.images).project(best.points)


def square_against_white_box(batch: AttackBatch, budget: Budget, points: Images, *, num_queries: int) -> Check:
    """Square may not get further than descent: whoever knows the gradient finds the larger margin on nearly every image.

    ``points`` are ``square_points`` of the batch. Unlike successes, margins say something of every image. Descent is the best
    of one away from the class and some towards others: one alone ends in a hollow now and then, where no gradient misleads.
    Where it fells nothing that descent fells it has no power, and passing would say nothing: SKIP.
    """
    name = "Square against white-box"
    away, towards = climb(objective(batch), batch, budget).values, climb_to_targets(batch, budget)
    with attacked(batch.system), torch.no_grad():
        black = margin(batch.system(points, batch.context), batch.labels)
        white = margin(batch.system(towards, batch.context), batch.labels).maximum(away)
    ahead = black - white > _FURTHER * scale_of(batch)
    clean = margin(logits_of(batch), batch.labels)
    rose, whole = (float((reached - clean).clamp_min(0).sum()) for reached in (black, white))
    both, by_gradients = int(((white > 0) & (black > 0)).sum()), int((white > 0).sum())
    finding = f"{num_queries} queries lead further than gradients on {int(ahead.sum())} of {len(batch)} images; their power:"
    finding += f" they fell {both} of {by_gradients} that gradients fell"
    finding += f", and raise margins by {rose / whole:.0%} of what gradients do" if whole > 0 else ""
    advice = "the gradients mislead: put square into the suite and find out what hides them"
    figures = {"ahead": share(ahead), "images": len(batch), "power": both / max(1, by_gradients)}
    if share(ahead) <= _AHEAD and not both:
        return Check(name=name, outcome=Outcome.SKIP, finding=f"without power here: {finding}", figures=figures)
    return judged(name, share(ahead) > _AHEAD, finding, advice, figures)


def hop_skip_jump_points(batch: AttackBatch, budget: Budget, *, num_steps: int, max_probes: int) -> Images:
    """The nearest misclassified points that decisions alone lead to, where they lie in the ball, else the images."""

    def decision(points: Images) -> Bool[Tensor, " batch"]:
        return misclassified(batch, points)

    with attacked(batch.system), torch.no_grad():
        found = hop_skip_jump(
            decision,
            batch.images,
            norm=budget.norm,
            seeds=derive_seeds(batch.seeds, STREAM),
            num_steps=num_steps,
            max_probes=max_probes,
            region=budget.region,
        )
    return budget.reached(batch.images, found)
